"""Space on the disk for files that are written through a memory map."""

import os
from pathlib import Path

from segline.files.atomic import naming


def reserve(path: Path, size: int) -> None:
    """Make a file of zeros whose space on the disk is taken at once.

    A write through a memory map that finds the disk full ends the process by SIGBUS, without a word. In a file that
    has its space it finds it.

    Args:
        path: The file, which is replaced.
        size: Its size in bytes.

    Raises:
        OSError: There is not enough space; no file is left then.
    """
    try:
        with naming(path), path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
