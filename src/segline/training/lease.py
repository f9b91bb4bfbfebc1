"""A lease: whoever follows a training renews an object in the bucket, and a training that nobody follows ends itself.

The two are on different machines, whose clocks are never compared: every renewal is another content, and the training
counts its own looks that found the object unchanged. A look that gets no answer counts for nothing. While the bucket is
away the follower cannot renew, and trials that were told to end could not save; if it stays away, they fail by that.
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
"""The variable that names the object, ``s3://bucket/key``."""
RENEW_S = 60.0
LOOK_S = 60.0
LOOKS = 30
"""That find the object unchanged: longer than the pauses between Kubeflow's attempts, and a new node for each."""


@contextmanager
def renewing(place: str) -> Iterator[None]:
    """Renew the object at ``place`` until the block ends; when it ends well, the object goes."""
    ended = threading.Event()
    threading.Thread(target=_renew, args=(place, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    bucket, name = _split(place)
    with suppress(SourceError, OSError):
        bucket.remove(name)


@contextmanager
def watching(place: str, on_lapse: Callable[[], None]) -> Iterator[None]:
    """Say so and call ``on_lapse``, in a thread, when nobody renews any more; without a place nothing is watched."""
    ended = threading.Event()
    if place:
        threading.Thread(target=_watch, args=(place, on_lapse, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _renew(place: str, ended: threading.Event) -> None:
    bucket, name = _split(place)
    while not ended.is_set():
        with suppress(SourceError, OSError), tempfile.NamedTemporaryFile("w") as file:
            file.write(datetime.now(UTC).isoformat())
            file.flush()
            bucket.write(name, Path(file.name))
        ended.wait(RENEW_S)


def _watch(place: str, on_lapse: Callable[[], None], ended: threading.Event) -> None:
    bucket, name = _split(place)
    last, unchanged = None, 0
    while unchanged < LOOKS:
        if ended.wait(LOOK_S):
            return
        with suppress(SourceError, OSError):
            found = bucket.etag(name)
            unchanged = unchanged + 1 if found == last else 0
            last = found
    if not ended.is_set():
        log(f"train: nobody has followed this for {LOOKS * LOOK_S / 60:.0f} minutes; it saves itself and ends")
        on_lapse()


def _split(place: str) -> tuple[Bucket, str]:
    folder, _, name = place.rpartition("/")
    return Bucket(folder), name
