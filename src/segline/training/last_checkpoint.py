"""The last checkpoint of a trial and the one before it, which takes its place when it is damaged. It needs no torch."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zipfile import ZipFile

from segline.artifacts.candidates import CHECKPOINT, PREVIOUS


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint is there and each of its parts has the CRC-32 that it was written with."""
    try:
        with ZipFile(path) as content:
            return content.testzip() is None
    except Exception:  # the reader meets any bytes, and raises any type
        return False


def keep_previous(folder: Path) -> None:
    """Give the last checkpoint a second name, under which it stays when the next one is written."""
    last, temporary = folder / CHECKPOINT, folder / f".{PREVIOUS}.{os.getpid()}.tmp"
    if not last.is_file():
        return
    try:
        temporary.unlink(missing_ok=True)
        os.link(last, temporary)
        os.replace(temporary, folder / PREVIOUS)
    except OSError:  # a file system without links: for a moment there is the one before alone
        os.replace(last, folder / PREVIOUS)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_damaged(folder: Path, is_good: Callable[[Path], bool] = is_whole) -> str:
    """Put the checkpoint before the last one in its place, if that is damaged or missing.

    If both are damaged they are removed, and the trial starts anew: it ends with the same bits, and nothing in the
    files could have saved the time.

    Args:
        folder: The folder of the trial.
        is_good: A function that says whether a checkpoint can be read.

    Returns:
        What was done, in a line; empty if nothing was.
    """
    last, previous = folder / CHECKPOINT, folder / PREVIOUS
    was_there = last.is_file()
    if is_good(last) or not (was_there or previous.is_file()):
        return ""
    if is_good(previous):
        os.replace(previous, last)
        return f"{last} is damaged; training goes on from the checkpoint before it" if was_there else ""
    last.unlink(missing_ok=True)
    previous.unlink(missing_ok=True)
    return f"{last} is damaged, and no checkpoint before it is whole; the trial starts anew"
