"""The folder ``files`` beside the manifest: what cannot be read in place is kept there, with a mark of its origin.

The folder is Segline's own: with another origin it is emptied. A folder without the mark is left alone.
"""

import errno
from pathlib import Path
from shutil import disk_usage, rmtree

from segline.artifacts.manifest import FILE
from segline.errors import SourceError, StageError
from segline.files.atomic import MARK, unwritable, write_text


class NoRoomError(SourceError):
    """There is no room for the data; what has come so far is good."""


def keep_files(files: Path, origin: str) -> None:
    """Make ``files`` ready for what comes from ``origin``: what came from there is kept, anything else removed.

    Raises:
        StageError: ``files`` holds what segline did not put there.
    """
    if kept_from(files) == origin:
        return
    old = _put_aside(files)
    files.mkdir(parents=True)
    write_text(files / MARK, origin)
    rmtree(old, ignore_errors=True)


def kept_from(files: Path) -> str:
    """The origin of what ``files`` holds; empty when it holds nothing.

    Raises:
        StageError: ``files`` holds what segline did not put there.
    """
    mark = files / MARK
    if mark.is_file():
        return mark.read_text()
    if files.is_file() or (files.is_dir() and any(files.iterdir())):
        raise StageError(f"{files} holds files that segline did not put there; move them or give --out another folder")
    return ""


def forget_manifest(files: Path) -> None:
    """Remove the manifest beside ``files`` before they change, so that a kill never leaves one of other files."""
    (files.parent / FILE).unlink(missing_ok=True)


def remove_kept(files: Path, root: str) -> None:
    """Remove ``files`` and what a kill left of it: the source is read at ``root``. What has no mark is left alone."""
    for ending in ("", ".old", ".download", ".partial"):
        folder = files.with_name(f"{files.name}{ending}")
        if not (folder / MARK).is_file() or Path(root).resolve().is_relative_to(folder.resolve()):
            continue
        rmtree(folder if ending else _put_aside(files), ignore_errors=True)


def _put_aside(files: Path) -> Path:
    """Give ``files`` another name, to be removed there: a kill in between must not leave files without their mark."""
    old = files.with_name(f"{files.name}.old")
    rmtree(old, ignore_errors=True)
    forget_manifest(files)
    if files.is_dir():
        files.rename(old)
    return old


def no_room(path: Path, error: OSError) -> NoRoomError:
    """What to tell when a file cannot be written."""
    return NoRoomError(f"{error.filename or path} {unwritable(error.errno or errno.EIO)}")


def refuse_too_big(need: int, where: str, files: Path) -> None:
    """Raise a NoRoomError when the disk of ``files`` has no room for ``need`` bytes."""
    standing = next(parent for parent in (files.absolute(), *files.absolute().parents) if parent.is_dir())
    free = disk_usage(standing).free
    if need > free:
        raise NoRoomError(f"{where} is {need / 1e9:.3f} GB, {standing} has room for {free / 1e9:.3f} GB; make room")
