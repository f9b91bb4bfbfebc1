"""The staging folder ``files`` beside the manifest, for sources that cannot be read in place.

Its files lie in packs (see :mod:`segline.files.packs`). The folder has a mark with their origin. It is replaced as a
whole when the origin changes; a folder without a mark is the user's, and is not touched.
"""

import errno
from pathlib import Path
from shutil import disk_usage, rmtree

from segline.artifacts.manifest import FILE
from segline.errors import SourceError, StageError
from segline.files.atomic import MARK, describe_write_error
from segline.files.packs import Packs

PACKED = "packs: "
"""The beginning of the mark. Version 0.1 kept single files, under marks without it."""


class StagingError(SourceError):
    """The disk has no room for the data; the files that have been written so far are good."""


def mark_of(origin: str) -> str:
    """Return the text of the mark of a folder with packs from ``origin``."""
    return f"{PACKED}{origin}"


def staged_origin(files: Path) -> str:
    """Return the origin of the data in ``files``; empty if there are none, or not all that the index names.

    Raises:
        StageError: ``files`` holds files that segline did not put there.
    """
    mark = files / MARK
    if mark.is_file():
        text = mark.read_text(encoding="utf-8")
        return text.removeprefix(PACKED) if text.startswith(PACKED) and _is_whole(files) else ""
    if files.is_file() or (files.is_dir() and any(files.iterdir())):
        raise StageError(f"{files} holds files that segline did not put there; move them or give --out another folder")
    return ""


def _is_whole(files: Path) -> bool:
    try:
        return bool(Packs(files).files)
    except StageError:
        return False


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
