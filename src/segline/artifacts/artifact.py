"""The common part of all artifacts: their mark, their metadata, and the message for a damaged file."""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from segline import __version__
from segline.artifacts import mark
from segline.artifacts.code import code_hash
from segline.errors import StageError
from segline.files import atomic

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
        only: The files that the mark covers, as far as they exist; empty for all files. It is for a folder whose other
            files have their checksums in one of these.
    """

    name: str
    stage: str
    format: int
    code: tuple[str, ...]
    metadata: Callable[[Path], Record] = no_record
    metrics: Callable[[Path], Record] = no_record
    page: str = ""
    only: tuple[str, ...] = ()

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
        """Write the mark of a folder: the number of the format, and the size and CRC-32 of every file in it."""
        names = self._covered(folder)
        paths = [folder / name for name in names]
        sums = zip(names, paths, mark.crc_of_each(paths, shown=f"summing {self.name}"), strict=True)
        files = {name: (path.stat().st_size, crc) for name, path, crc in sums}
        mark.write(folder, mark.Mark(artifact=self.name, format=self.format, version=__version__, files=files))

    def check_format(self, folder: Path) -> mark.Mark:
        """Return the mark of a folder that this version of Segline can read.

        Raises:
            StageError: The folder has no mark, a damaged one, or that of another artifact or format.
        """
        path = folder / mark.FILE
        try:
            found = mark.read(folder)
        except mark.OutdatedError as error:
            raise self._other_format(folder, error.number, "an earlier segline") from None
        except FileNotFoundError:
            if not folder.is_dir() or not any(folder.iterdir()):
                raise StageError(f"{folder / (self.only or (mark.FILE,))[0]} is missing; {self._again}") from None
            raise StageError(f"{folder} was written by 0.1, or has lost its {mark.FILE}; {self._again}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise StageError(f"{path} is damaged; {self._again}") from None
        if found.artifact != self.name:
            raise StageError(f"{folder} holds the {found.artifact}, expected the {self.name}; {self._again}")
        if found.format != self.format:
            raise self._other_format(folder, found.format, f"segline {found.version}")
        return found

    def check(self, folder: Path, *, folders: Collection[str] | None = None) -> None:
        """Compare the files of a folder with its mark.

        Args:
            folder: The folder that the stage wrote.
            folders: The folders in it whose files are compared, for a reader that needs no other; None for all. The
                files beside them always are.

        Raises:
            StageError: A file is missing, damaged or not from the stage, or another version of Segline wrote it.
        """

        def concerns(name: str) -> bool:
            parent, slash, _ = name.partition("/")
            return folders is None or not slash or parent in folders

        expected = {name: sums for name, sums in self.check_format(folder).files.items() if concerns(name)}
        present = self._covered(folder)
        if foreign := [name for name in present if concerns(name) and name not in expected]:
            raise StageError(
                f"{folder / foreign[0]} is not from `segline {self.stage}`; move it away, or {self._again}"
            )
        for name, (size, _) in expected.items():
            self._check_size(folder / name, size)
        paths = [folder / name for name in expected]
        try:
            for path, crc in zip(paths, mark.crc_of_each(paths, shown=f"checking {self.name}"), strict=True):
                self._check_crc(path, crc, expected[path.relative_to(folder).as_posix()][1])
        except OSError as error:
            raise StageError(f"{error.filename} cannot be read ({error.strerror}); {self._again}") from None

    def _covered(self, folder: Path) -> list[str]:
        """Return the names of the files in a folder that its mark is to cover."""
        return [name for name in self.only if (folder / name).is_file()] if self.only else mark.list_files(folder)

    @property
    def _again(self) -> str:
        return f"run `segline {self.stage}` again"

    def _other_format(self, folder: Path, number: int, writer: str) -> StageError:
        age = "newer" if number > self.format else "older"
        advice = "install that version, or " if number > self.format else ""
        return StageError(
            f"{folder} was written by {writer} in the {age} format {number}, expected {self.format}; "
            f"{advice}{self._again}"
        )

    def _check_size(self, path: Path, expected: int) -> None:
        if not path.is_file():
            raise StageError(f"{path} is missing; {self._again}")
        if (size := path.stat().st_size) != expected:
            raise StageError(f"{path} is damaged ({size} bytes, expected {expected}); {self._again}")

    def _check_crc(self, path: Path, crc: int, expected: int) -> None:
        if crc != expected:
            raise StageError(f"{path} is damaged (CRC {crc:08x}, expected {expected:08x}); {self._again}")

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Turn an error while a file is read into one line that says how to write the file again.

        Raises:
            StageError: The file is missing or broken.
        """
        try:
            yield
        except (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, BadZipFile):
            raise StageError(f"{path} is missing or broken; {self._again}") from None

    def read_json(self, path: Path) -> Record:
        """Return the mapping that a JSON file holds.

        Raises:
            StageError: The file is missing or broken.
        """
        with self.reading(path):
            return dict(json.loads(path.read_text(encoding="utf-8")))
