"""The folder of this user that keeps copies of files in buckets, the locks on them, and tracebacks."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

VARIABLE = "SEGLINE_CACHE"


def cache_dir() -> Path:
    """Return ``SEGLINE_CACHE`` if it is set, else a folder that only this user can read and write.

    It is ``segline`` in ``XDG_CACHE_HOME`` or ``~/.cache``, or ``segline-<user id>`` among the temporary files where
    there is no home. A folder that belongs to somebody else, or a link, is not used. Where none is left, it is a fresh
    folder, which the processes that this one starts use as well.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).resolve()
    for folder in _candidates():
        if _is_private(folder):
            return folder.resolve()
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix="segline-")
    return Path(os.environ[VARIABLE]).resolve()


def _candidates() -> Iterator[Path]:
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        yield Path(xdg, "segline")
    with suppress(RuntimeError):  # there is no home
        yield Path.home() / ".cache" / "segline"
    yield Path(tempfile.gettempdir(), f"segline-{os.geteuid()}")


def _is_private(folder: Path) -> bool:
    """Make a folder, and return whether it belongs to this user alone; one that others may write is closed to them."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        if found.st_mode & 0o077:
            folder.chmod(0o700)
        return os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False
