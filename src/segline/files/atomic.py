"""Outputs that are either whole or not there.

A stage writes into ``<out>.partial`` and the folder takes its name when it is whole. A killed run leaves the
partial folder behind; the next run with the same fingerprint finds its finished pieces there and continues.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segline.errors import StageError

MARK = ".segline"
"""In every folder that a stage wrote; it holds the fingerprint."""
PATIENCE_S = 20.0


@contextmanager
def writing(out: Path, *, fingerprint: str = "") -> Iterator[Path]:
    """Yield the folder to write into; it becomes ``out`` when the block ends without an error.

    Args:
        out: the folder to make or to replace.
        fingerprint: what the content depends on. Pieces that an unfinished run with the same fingerprint
            left are kept; without one the folder always starts empty.

    Raises:
        StageError: another process is writing ``out``, or ``out`` holds what no stage wrote.
    """
    out = out.resolve()
    _refuse_foreign(out)
    work = out.with_name(out.name + ".partial")
    with locked(out):
        mark = work / MARK
        if not fingerprint or not mark.is_file() or mark.read_text() != fingerprint:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_text(mark, fingerprint)
        for torn in work.rglob(".*.tmp"):
            torn.unlink()
        yield work
        _replace_folder(work, out)


def unfinished_fingerprint(out: Path) -> str:
    """Return the fingerprint of a run that was begun to write ``out`` and was not finished; empty without one."""
    mark = out.with_name(f"{out.name}.partial") / MARK
    return mark.read_text() if mark.is_file() else ""


def tree_hash(folder: Path) -> str:
    """The SHA-256 over the names and contents of all files below a folder but hidden ones, in hex."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    lines = [f"{path.relative_to(folder).as_posix()} {file_hash(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _refuse_foreign(out: Path) -> None:
    """Replacing a folder deletes it, so it has to be one that a stage wrote."""
    if out.is_file() or Path.cwd().is_relative_to(out):
        raise StageError(f"{out} is a file, or holds the folder you are in; give --out a folder that may be replaced")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise StageError(f"{out} holds files that segline did not write; move them or give --out another folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_file(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, in one canonical form; NaN is written as null."""
    write_text(path, json.dumps(_without_nan(content), indent=2, sort_keys=True) + "\n")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then give it the name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(path):
            write(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of a write, which names no file, the one that was being written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, unwritable(error.errno), str(path)) from None


def unwritable(number: int) -> str:
    """What to tell of a file that cannot be written, given the error's number."""
    return f"cannot be written ({os.strerror(number)}); mend that and run the same command again"


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def source_hash(*packages: str) -> str:
    """The SHA-256 over the source files of the named modules and packages ("segline.models", "streets")."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in packages:
        base = root.joinpath(*package.split("."))
        for file in sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content


def _replace_folder(work: Path, out: Path) -> None:
    """Give ``work`` the name ``out``; a kill in between leaves ``out`` absent, never half."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    work.rename(out)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes from writing ``out`` meanwhile.

    Raises:
        StageError: another process is writing it, and goes on for longer than our patience.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    with path.open("a") as stream:
        deadline = time.monotonic() + PATIENCE_S
        while not _try_lock(stream.fileno()):
            if time.monotonic() > deadline:
                raise StageError(f"{out} is being written by another segline; wait for it or stop it, then run again")
            time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
