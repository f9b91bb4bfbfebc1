"""The memory of a training process."""

import ctypes
import sys

# The parameters of glibc's mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST = 2**31 - 1


def tune_malloc() -> None:
    """Let the process keep what it frees: a training step asks for the same blocks again.

    glibc gives large blocks back to the system and has them cleared anew page by page, which takes a tenth of a step
    on a CPU. Other systems are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(MMAP_THRESHOLD, 2**30)
        mallopt(TRIM_THRESHOLD, MOST)
