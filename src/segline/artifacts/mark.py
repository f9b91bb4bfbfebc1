"""The mark of an artifact, ``artifact.json``: the number of its format, and the size and CRC-32 of each of its files.

A stage writes the mark last, and whoever reads the artifact compares the files with it (see
:meth:`segline.artifacts.artifact.Artifact.check`). CRC-32 finds what disks, copies and hands damage; it is no
protection against somebody who writes a mark of his own. Hidden files, which only programs such as editors and file
systems leave, are not part of an artifact.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from segline.files import atomic
from segline.progress import progress_bar

FILE = "artifact.json"
SEAL = "seal"
"""The key of the CRC-32 over the rest of the mark."""
BLOCK_BYTES = 1 << 20
THREADS = 8
"""The number of files that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The content of a mark.

    Attributes:
        artifact: The name of the artifact.
        format: The number of the files' format.
        version: The version of Segline that wrote it.
        files: The size in bytes and the CRC-32 of each file, by its path relative to the artifact's folder.
    """

    artifact: str
    format: int
    version: str
    files: Mapping[str, tuple[int, int]]


def write(folder: Path, mark: Mark) -> None:
    """Write a mark with its seal into a folder, atomically."""
    atomic.write_text(folder / FILE, _render(asdict(mark)))


def read(folder: Path) -> Mark:
    """Read the mark of a folder.

    Raises:
        OutdatedError: It has no seal, as the marks of older versions.
        ValueError: It is damaged.
        OSError: It is missing or cannot be read.
    """
    text = (folder / FILE).read_text(encoding="utf-8")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    if SEAL not in content and isinstance(content.get("format"), int) and "files" not in content:
        raise OutdatedError(content["format"])
    content.pop(SEAL, None)
    if _render(content) != text:
        raise ValueError("its seal does not fit")
    files = {name: (size, crc) for name, (size, crc) in content["files"].items()}
    return Mark(artifact=content["artifact"], format=content["format"], version=content["version"], files=files)


class OutdatedError(Exception):
    """A mark has no sums; ``number`` is the number of its format."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def list_files(folder: Path) -> list[str]:
    """Return the paths of the files below a folder, relative to it and sorted: all but hidden ones and the mark."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    return sorted(name for name in found if name != FILE)


def crc_of_each(paths: list[Path], *, shown: str) -> Iterator[int]:
    """Yield the CRC-32 of each file in order; several files are read at once.

    Args:
        paths: The files.
        shown: What the progress bar says.

    Raises:
        OSError: A file cannot be read.
    """
    with (
        progress_bar(shown, sum(path.stat().st_size for path in paths)) as advance,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for path, crc in zip(paths, pool.map(_crc, paths), strict=True):
            advance(path.stat().st_size)
            yield crc


def _crc(path: Path) -> int:
    crc, block = 0, bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as stream, memoryview(block) as view:
        while size := stream.readinto(block):
            crc = zlib.crc32(view[:size], crc)
    return crc


def _render(content: Mapping[str, object]) -> str:
    """Return the only text of a mark with this content and its seal."""
    seal = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    return json.dumps({**content, SEAL: seal}, sort_keys=True) + "\n"
