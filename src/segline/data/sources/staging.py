"""The staging folder ``files`` beside the manifest, for sources that cannot be read in place.

The folder has a mark with the origin of its files. Files of another origin are removed first; a folder without a mark
is the user's, and is not touched.
"""

import errno
from pathlib import Path
from shutil import disk_usage, rmtree

from segline.artifacts.manifest import FILE
from segline.errors import SourceError, StageError
from segline.files.atomic import MARK, describe_write_error, write_text


class StagingError(SourceError):
    """The disk has no room for the data; the files that have been written so far are good."""


def prepare_staging(files: Path, origin: str) -> None:
    """Make ``files`` ready for data from ``origin``: files from there are kept, all others are removed.

    Raises:
        StageError: ``files`` holds files that segline did not put there.
    """
    if staged_origin(files) == origin:
        return
    old = _move_aside(files)
    files.mkdir(parents=True)
    write_text(files / MARK, origin)
    rmtree(old, ignore_errors=True)


def staged_origin(files: Path) -> str:
    """Return the origin of the data in ``files``; empty if there are none.

    Raises:
        StageError: ``files`` holds files that segline did not put there.
    """
    mark = files / MARK
    if mark.is_file():
        return mark.read_text(encoding="utf-8")
    if files.is_file() or (files.is_dir() and any(files.iterdir())):
        raise StageError(f"{files} holds files that segline did not put there; move them or give --out another folder")
    return ""


def delete_manifest(files: Path) -> None:
    """Delete the manifest beside ``files`` before they change: a kill must not leave the manifest of other files."""
    (files.parent / FILE).unlink(missing_ok=True)


def remove_staging(files: Path, root: str) -> None:
    """Remove ``files`` and the remains of killed runs, unless the source itself is read from there.

    Args:
        files: the staging folder; folders without a mark are left alone.
        root: where the source is read.
    """
    for ending in ("", ".old", ".download", ".partial"):
        folder = files.with_name(f"{files.name}{ending}")
        if not (folder / MARK).is_file() or Path(root).resolve().is_relative_to(folder.resolve()):
            continue
        rmtree(folder if ending else _move_aside(files), ignore_errors=True)


def _move_aside(files: Path) -> Path:
    """Rename ``files`` before they are removed, so that a kill in between leaves no files without their mark."""
    old = files.with_name(f"{files.name}.old")
    rmtree(old, ignore_errors=True)
    delete_manifest(files)
    if files.is_dir():
        files.rename(old)
    return old


def write_failed(path: Path, error: OSError) -> StagingError:
    """Return the error for a file that cannot be written."""
    return StagingError(f"{error.filename or path} {describe_write_error(error.errno or errno.EIO)}")


def check_free_space(needed: int, source: str, files: Path) -> None:
    """Raise a StagingError if the disk of ``files`` has less than ``needed`` bytes free."""
    existing = next(parent for parent in (files.absolute(), *files.absolute().parents) if parent.is_dir())
    free = disk_usage(existing).free
    if needed > free:
        raise StagingError(f"{source} is {needed / 1e9:.3f} GB, {existing} has room for {free / 1e9:.3f} GB; make room")
