"""Locks between the processes of this machine. The system releases them when their holder is killed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from segline.errors import BusyError
from segline.files.cache import cache_dir

PATIENCE_S = 20.0


@contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Keep other processes from writing the folder ``out`` until the block ends.

    Raises:
        BusyError: another process is writing ``out``, and does not finish within ``PATIENCE_S``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(out.with_name(f".{out.name}.lock")).acquire(timeout=PATIENCE_S, poll_interval=0.2)
    except Timeout:
        raise BusyError(f"{out} is being written by another segline; wait for it or stop it, then run again") from None
    with lock:
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
    with FileLock(lock):
        yield
