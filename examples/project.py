"""Make the folder in which an example runs as a line of its own; the line of the repository stays as it is.

    python -m examples.project camvid --source ../camvid --into runs/camvid
    cd runs/camvid && dvc repro && segline summary

`make camvid SOURCE=../camvid` runs both. The folder gets every parameter (``params.yaml``), the stages (``dvc.yaml``,
whose dependencies on code lead back to the repository), a list of exclusions and a DVC of its own without git. A second
time only what has changed is written, so that `dvc repro` runs no more than that.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from segline.config.loader import build, read
from segline.config.params import Params
from segline.config.serialization import as_document
from segline.data.layouts import LAYOUTS
from segline.data.sources import SOURCES
from segline.errors import SeglineError, SourceError, StageError
from segline.files.atomic import write_text
from segline.files.trees import Folder

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
MADE = "# Made by examples/project.py; changes in this file are lost.\n"
"""The first line of a file that is written anew each time."""
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n"
EXCLUSIONS = "exclusions.csv"
NO_EXCLUSIONS = "key,top,left,height,width,reason\n"


def main(words: list[str] | None = None) -> int:
    """Make the folder of an example, and return the exit code."""
    known = sorted(path.parent.name for path in EXAMPLES.glob("*/params.yaml"))
    parser = argparse.ArgumentParser(description="Make the folder in which an example runs as a line of its own.")
    parser.add_argument("example", choices=known)
    parser.add_argument("--source", required=True, help="the data: a folder, an archive, s3://bucket/prefix")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="the folder to make")
    arguments = parser.parse_args(words)
    try:
        file = EXAMPLES / arguments.example / "params.yaml"
        write_project(arguments.into, with_source(read(file), arguments.source, str(file)))
    except SeglineError as error:
        print(f"{arguments.example}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def with_source(document: Any, source: str, where: str) -> Params:
    """Return the parameters of a document with this source of data.

    Args:
        document: The content of a ``params.yaml``.
        source: What ``ingest.source`` may be; a path is relative to the working directory.
        where: The origin of the document, for messages.

    Raises:
        ParamsError: A parameter is wrong.
        SourceError: There is no such folder or file.
        DataError: The folder does not follow the layout.
    """
    address = source if source.startswith(tuple(SOURCES)) else _path(source)
    params = build(document | {"ingest": document.get("ingest", {}) | {"source": address}}, where)
    if Path(address).is_dir():
        layout = params.ingest.layout
        if not LAYOUTS[layout.name](**layout.options).find(Folder(Path(address))):
            raise SourceError(f"{address} has no images in the places of the layout {layout.name}")
    return params


def _path(source: str) -> str:
    path = Path(source).expanduser()
    if not source or not path.exists():
        raise SourceError(f"the source {source!r} is not there (looked from {Path.cwd()}); give the folder of the data")
    return str(path.resolve())


def write_project(folder: Path, params: Params) -> None:
    """Write the files with which `dvc repro` runs the line in a folder; existing exclusions are kept.

    Raises:
        StageError: The folder holds a ``params.yaml`` or ``dvc.yaml`` that was not made here.
    """
    folder = folder.resolve()
    made = {
        folder / "params.yaml": yaml.dump(as_document(params), Dumper=_Dumper, sort_keys=False, allow_unicode=True),
        folder / "dvc.yaml": yaml.safe_dump(pipeline(folder), sort_keys=False, width=1000),
    }
    kept = {folder / EXCLUSIONS: NO_EXCLUSIONS, folder / ".dvc" / "config": DVC_CONFIG}
    for path in made:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(MADE):
            raise StageError(f"{path} was not made by examples/project.py; give another folder, or remove the file")
    for path, text in {**{path: MADE + text for path, text in made.items()}, **kept}.items():
        if not path.exists() or (path in made and path.read_text(encoding="utf-8") != text):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)


class _Dumper(yaml.SafeDumper):
    """A writer that quotes what begins with no letter: YAML 1.2 takes the drive 0016E5 for a number, 1.1 does not."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text[:1].isalpha() else '"')


_Dumper.add_representer(str, _represent_text)


def pipeline(folder: Path) -> dict[str, Any]:
    """Return the stages of the repository for a line in this folder, as ``dvc.yaml`` has them.

    A package is listed file by file: DVC's list of ignored names does not reach out of the folder, and would take
    Python's compiled files for code.
    """
    document: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in document["stages"].values():
        if "deps" in stage:
            stage["deps"] = [path for entry in stage["deps"] for path in _dependencies(entry, folder)]
    return document


def _dependencies(path: str, folder: Path) -> list[str]:
    """Return a dependency as the folder sees it: data as they are, and code by a path to each of its files."""
    if not path.startswith("src/"):
        return [path]
    code = ROOT / path
    files = sorted(code.rglob("*.py")) if code.is_dir() else [code]
    return [Path(os.path.relpath(file, folder)).as_posix() for file in files]


if __name__ == "__main__":
    sys.exit(main())
