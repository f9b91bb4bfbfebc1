"""How Ray is started or joined: with patience on a busy machine, in a folder of this user, and explained if it fails.

The library is an argument, as Ray reads its settings when it is imported.
"""

import gc
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segline.errors import StageError, clip, one_line
from segline.progress import log

Options = dict[str, bool | int | str]

PAUSES_S = (2.0, 5.0, 15.0)
"""The seconds before each further start of Ray, whose own patience of 30 s is too short on a busy machine."""
KNOCKS = 3
"""The tries to reach a cluster, each of ``KNOCK_S`` seconds."""
KNOCK_S = 3.0
PREFIX = "sl-ray-"
"""The start of the name of a session's folder."""
LOCK = "lock"
"""The file in a session's folder that its process holds locked."""
NEW_S = 60.0
"""The age of a folder without a lock from which nobody is about to lock it."""
MAX_ROOT = 27
"""The most bytes of the folder that holds a session's, as the path of a Unix socket has at most 107."""
OTHER_ROOTS = ("/tmp", "/var/tmp", "/dev/shm")
"""The folders for a session where that of temporary files has a long name."""


@contextmanager
def local_ray(ray: Any, options: Options) -> Iterator[None]:
    """Start Ray on this machine until the end of the block; its folder is removed then, and kept if Ray cannot start.

    Raises:
        StageError: Ray does not start.
    """
    with _session_folder() as folder:
        logs = folder / "session_latest" / "logs"
        _initialize(ray, options | {"address": "local", "_temp_dir": str(folder)}, f"its logs are in {logs}")
        try:
            yield
        finally:
            _shut_down(ray)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined_ray(ray: Any, options: Options, address: str) -> Iterator[None]:
    """Join the Ray cluster at an address until the end of the block.

    Raises:
        StageError: The cluster refuses, or it is none.
    """
    _initialize(ray, options, f"look at the cluster at RAY_ADDRESS {address}")
    try:
        yield
    finally:
        _shut_down(ray)


def _initialize(ray: Any, options: Options, advice: str) -> None:
    """Call ``ray.init``, and again after a pause unless its options are wrong."""
    for pause in (*PAUSES_S, None):
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises the base class
            with suppress(Exception):
                ray.shutdown()
            reason = clip(one_line(error))
            if pause is None or isinstance(error, ValueError | TypeError) or "version mismatch" in reason.lower():
                raise StageError(f"Ray does not start ({reason}); {_resources()}; {advice}") from None
            log(f"Ray did not start ({reason[:80]}); starting it again in {pause:g} s")
            time.sleep(pause)
        else:
            return


def knock(address: str) -> None:
    """Check that something listens at ``host:port``, within seconds; Ray itself takes minutes to say that nothing does.

    Raises:
        StageError: Nothing listens there.
    """
    parts = re.fullmatch(r"(?:ray://)?(?P<host>[^/\s]+):(?P<port>\d{1,5})", address)
    if not parts:
        return
    reason = ""
    for _ in range(KNOCKS):
        try:
            socket.create_connection((parts["host"].strip("[]"), int(parts["port"])), timeout=KNOCK_S).close()
        except (OSError, OverflowError) as error:
            reason = one_line(error)
            time.sleep(KNOCK_S / 10)
        else:
            return
    raise StageError(
        f"RAY_ADDRESS {address}: no Ray answers there ({reason}); start the cluster, or unset RAY_ADDRESS to use this "
        "machine"
    )


def _shut_down(ray: Any) -> None:
    """Leave Ray, which ends the whole process if another thread collects one of its references at that moment."""
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Make a folder for Ray's sessions that only this user can enter, and lock it; remove those of killed processes."""
    root = _root()
    for abandoned in root.glob(f"{PREFIX}*"):
        _remove_abandoned(abandoned)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    with FileLock(folder / LOCK):
        yield folder


def _root() -> Path:
    """Return the first folder for temporary files whose name leaves room for the sockets of Ray."""
    for root in (tempfile.gettempdir(), *OTHER_ROOTS):
        if len(root.encode()) <= MAX_ROOT and _is_writable(root):
            return Path(root)
    raise StageError(
        f"Ray needs a folder with a name of at most {MAX_ROOT} bytes for its sockets, got TMPDIR "
        f"{tempfile.gettempdir()}; set TMPDIR to a short one, such as /tmp"
    )


def _is_writable(root: str) -> bool:
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=root):
            return True
    except OSError:
        return False


def _remove_abandoned(folder: Path) -> None:
    """Remove the folder of a session whose process was killed; what belongs to others cannot be removed."""
    with suppress(OSError, Timeout):
        lock = folder / LOCK
        if folder.is_symlink() or (not lock.is_file() and time.time() - folder.stat().st_mtime < NEW_S):
            return
        with FileLock(lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def _resources() -> str:
    """Return what Ray needs of this machine, in words."""
    fields = {}
    with suppress(OSError):
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    shown = [f"{int(fields['MemAvailable'].split()[0]) / 1e6:.1f} GB of memory"] if "MemAvailable" in fields else []
    with suppress(OSError):
        shown.append(f"{shutil.disk_usage('/dev/shm').free / 1e9:.1f} GB in /dev/shm")
    free = f"this machine has {' and '.join(shown)} free" if shown else "it needs memory"
    return f"{free}, and Ray needs some of both, free ports, and a machine that is not busy"
