"""Names that others chose, such as keys of buckets: a file is written only below the folder that is meant for it."""

import os
import re
from pathlib import Path

from segline.errors import SourceError

DRIVE = re.compile(r"[A-Za-z]:(/|$)")


def name_problem(name: str) -> str:
    """Return why a name is no path below a folder, such as "has an empty part"; empty if it is one.

    Args:
        name: the name with slashes between its parts.
    """
    parts = name.split("/")
    if name.startswith("/"):
        return "begins with a slash, so it leads out of the folder"
    if ".." in parts:
        return "has the part '..', so it leads out of the folder"
    if "\\" in name or DRIVE.match(name):
        return "has a backslash or a drive, so it leads out of the folder on some systems"
    if "" in parts or "." in parts:
        return "has an empty part or the part '.', so another name stands for the same file"
    return "has a null character" if "\0" in name else ""


def safe_path(folder: Path, name: str, where: str) -> Path:
    """Return the path of the file ``name`` below a folder.

    Args:
        folder: the folder, which need not exist.
        name: the name as another system gives it.
        where: the origin of the name, for messages.

    Raises:
        SourceError: the name leads out of the folder, by itself or through a link there, or names no file.
    """
    problem = name_problem(name)
    path = folder / ("" if problem else name)
    if not problem and not os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), "")):
        problem = "leads through a link out of the folder"
    if problem:
        raise SourceError(f"{where}: the name {name!r} {problem}; nothing was written for it, rename or remove it")
    return path
