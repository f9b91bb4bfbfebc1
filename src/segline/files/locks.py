"""Locks between the processes of this machine. The system releases them when their holder is killed."""

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segline.errors import StageError
from segline.files.cache import cache_dir

PATIENCE_S = 20.0


@contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Keep other processes from writing the folder ``out`` until the block ends.

    Raises:
        StageError: another process is writing ``out``, and does not finish within ``PATIENCE_S``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{out.name}.lock").open("a") as stream:
        deadline = time.monotonic() + PATIENCE_S
        while not _try_lock(stream.fileno()):
            if time.monotonic() > deadline:
                raise StageError(f"{out} is being written by another segline; wait for it or stop it, then run again")
            time.sleep(0.2)
        yield


@contextmanager
def machine_lock(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds the lock of ``path``, and create the parent folder of it.

    The lock's own file is in the cache, so that nothing appears beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    lock = cache_dir() / "locks" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
