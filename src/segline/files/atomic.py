"""Atomic writes: a file or a stage's output folder is complete, or it is absent.

A stage writes into ``<out>.partial``, which is renamed to ``<out>`` when it is complete. A killed run leaves the
partial folder behind; the next run with the same fingerprint reuses the finished files there and continues.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segline.errors import StageError
from segline.files.locks import output_lock

MARK = ".segline"
"""The file with the fingerprint, in every folder that a stage wrote."""


@contextmanager
def writing(out: Path, *, fingerprint: str = "") -> Iterator[Path]:
    """Yield the folder to write into; it becomes ``out`` if the block ends without an error.

    Args:
        out: the folder to create or to replace.
        fingerprint: a hash of everything that the content depends on. The files of an unfinished run with the same
            fingerprint are kept; without a fingerprint the folder always starts empty.

    Raises:
        BusyError: another process is writing ``out``.
        StageError: no stage wrote the files in ``out``.
    """
    out = out.resolve()
    _check_replaceable(out)
    work = out.with_name(out.name + ".partial")
    with output_lock(out):
        mark = work / MARK
        if not fingerprint or not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_text(mark, fingerprint)
        for temporary in work.rglob(".*.tmp"):
            temporary.unlink()
        yield work
        _replace_folder(work, out)


def unfinished_fingerprint(out: Path) -> str:
    """Return the fingerprint of a run that was begun to write ``out`` and was not finished; empty without one."""
    mark = out.with_name(f"{out.name}.partial") / MARK
    return mark.read_text(encoding="utf-8") if mark.is_file() else ""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, with sorted keys; NaN is written as null."""
    write_text(path, json.dumps(_nan_to_none(content), indent=2, sort_keys=True) + "\n")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then rename the file.

    File and name reach the disk in this order, so that a power cut leaves the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(path):
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path``, the file that is being written, to an OSError that names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, describe_write_error(error.errno), str(path)) from None


def describe_write_error(number: int) -> str:
    """Return the message for a file that cannot be written, given the error's number."""
    return f"cannot be written ({os.strerror(number)}); fix that and run the same command again"


def _check_replaceable(out: Path) -> None:
    """Raise a StageError if ``out`` must not be replaced, because replacing a folder deletes what is in it."""
    if out.is_file() or Path.cwd().is_relative_to(out):
        raise StageError(f"{out} is a file, or holds the folder you are in; give --out a folder that may be replaced")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise StageError(f"{out} holds files that segline did not write; move them or give --out another folder")


def _nan_to_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _nan_to_none(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_nan_to_none(value) for value in content]
    return None if isinstance(content, float) and content != content else content


def _replace_folder(work: Path, out: Path) -> None:
    """Rename ``work`` to ``out``; a kill in between leaves ``out`` absent, never incomplete."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    work.rename(out)
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some file systems cannot do that for a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
