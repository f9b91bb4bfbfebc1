"""A lease: the process that follows a training renews an object in the bucket; a training that nobody follows ends.

The two are on different machines, whose clocks are never compared: each heartbeat writes another content, and the
watchdog of the training counts its own looks that found the object unchanged. A look without an answer counts for
nothing. While the bucket is away the follower cannot renew, and trials that were told to end could not save; if it
stays away, they fail by that.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from segline.errors import SourceError
from segline.files.s3 import Bucket
from segline.progress import log

FOLLOWED = "SEGLINE_FOLLOWED"
"""The environment variable that names the object, ``s3://bucket/key``."""
HEARTBEAT_S = 60.0
LOOK_S = 60.0
LAST_RENEWAL_S = 10.0
"""The longest wait for a renewal that is under way when the training has ended."""
MAX_UNCHANGED_LOOKS = 30
"""The looks that find the object unchanged before the training ends.

They last longer than the pauses between Kubeflow's attempts, with a new node for each.
"""


@contextmanager
def heartbeat(url: str) -> Iterator[None]:
    """Renew the object at ``url`` until the block ends; when it ends without an error, the object is removed."""
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(url, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
    thread.join(LAST_RENEWAL_S)  # a renewal after the removal would bring the object back
    bucket, name = _split(url)
    with suppress(SourceError, OSError):
        bucket.remove(name)


@contextmanager
def watchdog(url: str, on_lapse: Callable[[], None]) -> Iterator[None]:
    """Log a line and call ``on_lapse``, in a thread, when nobody renews any more; without a URL nothing is watched."""
    ended = threading.Event()
    if url:
        threading.Thread(target=_watch, args=(url, on_lapse, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _renew(url: str, ended: threading.Event) -> None:
    bucket, name = _split(url)
    while not ended.is_set():
        with suppress(SourceError, OSError), tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(datetime.now(UTC).isoformat())
            file.flush()
            bucket.write(name, Path(file.name))
        ended.wait(HEARTBEAT_S)


def _watch(url: str, on_lapse: Callable[[], None], ended: threading.Event) -> None:
    bucket, name = _split(url)
    last, unchanged = None, 0
    while unchanged < MAX_UNCHANGED_LOOKS:
        if ended.wait(LOOK_S):
            return
        with suppress(SourceError, OSError):
            stamp = bucket.etag(name)
            unchanged = unchanged + 1 if stamp == last else 0
            last = stamp
    if not ended.is_set():
        minutes = MAX_UNCHANGED_LOOKS * LOOK_S / 60
        log(f"train: nobody has followed this training for {minutes:.0f} minutes; it saves itself and ends")
        on_lapse()


def _split(url: str) -> tuple[Bucket, str]:
    folder, _, name = url.rpartition("/")
    return Bucket(folder), name
