"""The common part of all artifacts: the mark of their format, their metadata, and the message for a broken file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segline.artifacts.code import code_hash
from segline.errors import StageError
from segline.files import atomic

MARK = "artifact.json"
"""The file in every artifact that holds the number of its format."""

Record = dict[str, Any]
"""A mapping of plain values, as JSON holds it."""


def no_record(folder: Path) -> Record:
    """Return an empty record, for an artifact without metadata or metrics."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The folder that a stage writes.

    Attributes:
        name: The artifact's name, which is also its word on the command line (``--dataset``).
        stage: The stage that writes it.
        format: The number of the files' format. An artifact with another number is refused.
        code: The modules and packages of ``src`` that the content depends on.
        metadata: The function that returns the artifact's metadata, given its folder.
        metrics: The function that returns the artifact's metrics, given its folder.
        page: The HTML page for people, below the folder; empty for none.
    """

    name: str
    stage: str
    format: int
    code: tuple[str, ...]
    metadata: Callable[[Path], Record] = no_record
    metrics: Callable[[Path], Record] = no_record
    page: str = ""

    @contextmanager
    def writing(self, out: Path, *, depends_on: str = "") -> Iterator[Path]:
        """Yield the folder to write into; it becomes ``out`` when the block ends without an error.

        Args:
            out: The folder to make or to replace.
            depends_on: A text of all that the content depends on beside code and format. With it, the files of an
                unfinished run with the same text, code and format are kept; without it the folder starts empty.

        Raises:
            StageError: Another process is writing ``out``, or ``out`` holds files that no stage wrote.
        """
        with atomic.writing(out, fingerprint=self.fingerprint(depends_on) if depends_on else "") as work:
            yield work
            self.write_mark(work)

    def fingerprint(self, depends_on: str) -> str:
        """Return a text that changes with ``depends_on``, the code and the format."""
        return f"{depends_on} format {self.format} code {code_hash(self.code)}"

    def write_mark(self, folder: Path) -> None:
        """Write the number of the format into a folder."""
        atomic.write_json(folder / MARK, {"artifact": self.name, "format": self.format})

    def check_format(self, folder: Path) -> None:
        """Refuse a folder that another version of Segline wrote.

        Raises:
            StageError: The folder has no mark, or one with another number.
        """
        again = f"run `segline {self.stage}` again"
        with self.reading(folder / MARK):
            if not (folder / MARK).is_file() and any(folder.iterdir()):
                raise StageError(f"{folder} was written by segline 0.1, whose format is no longer read; {again}")
            number = json.loads((folder / MARK).read_text(encoding="utf-8"))["format"]
        if number != self.format:
            raise StageError(f"{folder} has format {number}, expected {self.format}; {again}")

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Turn an error while a file is read into one line that says how to write the file again.

        Raises:
            StageError: The file is missing or broken.
        """
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            raise StageError(f"{path} is missing or broken; run `segline {self.stage}` again") from None

    def read_json(self, path: Path) -> Record:
        """Return the mapping that a JSON file holds.

        Raises:
            StageError: The file is missing or broken.
        """
        with self.reading(path):
            return dict(json.loads(path.read_text(encoding="utf-8")))
