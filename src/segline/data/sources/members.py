"""The members of archives, and the limits to what an archive may hold.

A few kilobytes may declare terabytes, or hold them: sparse members, zeros behind the end, headers without end. So the
declared sizes are added up before anything is unpacked, and the decompressed bytes are counted while headers are read.
"""

import bz2
import gzip
import io
import lzma
import math
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Literal, cast

CHUNK_BYTES = 1024 * 1024
MAX_READ_BYTES = 16 * 1024 * 1024
"""The longest header of a tar."""
ALWAYS_ACCEPTED_BYTES = 64 * 1024 * 1024
"""The unpacked size that no archive is too small for."""
MAX_MEMBERS = 4_000_000
"""The most members; each takes about a kilobyte of memory."""
MAX_TARGET_BYTES = 4096
"""The longest path that a link may lead to, as on Linux."""
DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\0\0": lzma.open,
}
"""How the file of a compressed tar begins, and the function that decompresses it."""
Kind = Literal["file", "folder", "link", "other"]


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        name: the name in the archive, with slashes.
        kind: "other" is a device, a pipe or the like.
        size: the unpacked size in bytes.
        read: a function that opens the content of a file.
        target: the path that a link leads to, relative to the archive's root.
    """

    name: str
    kind: Kind
    size: int
    read: Callable[[], IO[bytes]]
    target: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the name without empty ones and dots."""
        return tuple(part for part in self.name.split("/") if part not in ("", "."))

    @property
    def is_visible(self) -> bool:
        """Whether the member is a file or link that :class:`Folder` would list."""
        return self.kind in ("file", "link") and not any(part[0] == "." or part == "__MACOSX" for part in self.parts)


class TooBigError(Exception):
    """The archive holds more than may come out of one of its size; the message goes on after its name."""


def limit_bytes(archive: Path, max_ratio: int) -> int:
    """Return the most bytes that an archive may hold: a multiple of its size, or ``ALWAYS_ACCEPTED_BYTES``."""
    return max(archive.stat().st_size * max_ratio, ALWAYS_ACCEPTED_BYTES)


def check_sum(sizes: Iterable[int], limit: int) -> int:
    """Return the sum of the declared sizes.

    Raises:
        TooBigError: it is more than ``limit``.
        tarfile.ReadError: a size is below zero.
    """
    total = 0
    for size in sizes:
        if size < 0:
            raise tarfile.ReadError("a member is said to have less than no bytes")
        total += size
        if total > limit:
            raise TooBigError(f"says that it holds {_gigabytes(total)} or more, accepted are {_gigabytes(limit)}")
    return total


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.3f} GB"


@contextmanager
def open_members(archive: Path, limit: int) -> Iterator[list[Member]]:
    """Yield the members of an archive, which is open until the block ends.

    Args:
        archive: the file.
        limit: the most bytes that it may hold, in its members and, decompressed, in all.

    Raises:
        TooBigError: it holds or declares more, or has more than ``MAX_MEMBERS`` members.
    """
    with archive.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(file) as opened:
                yield _counted(_zip_members(opened))
            return
        decompress = next((opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic)), None)
        stream = _Bounded(decompress(file) if decompress else file, limit)
        with tarfile.TarFile(fileobj=stream) as tar:
            members = _counted(_tar_members(tar, limit))
            stream.budget = math.inf
            yield list({member.parts: member for member in members}.values())


def _counted(members: Iterator[Member]) -> list[Member]:
    listed = list(islice(members, MAX_MEMBERS + 1))
    if len(listed) > MAX_MEMBERS:
        raise TooBigError(f"has more than {MAX_MEMBERS} members")
    return listed


class _Bounded(io.RawIOBase):
    """The decompressed bytes of a tar, of which the headers may be read and skipped for so many bytes only.

    Attributes:
        budget: the bytes that may still be read or skipped forward.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream = stream
        self.limit = limit
        self.budget: float = limit + ALWAYS_ACCEPTED_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header in it is said to have {size} bytes")
        content = self.stream.read(size)
        self._spend(len(content))
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        before = self.stream.tell()
        if whence == io.SEEK_SET:
            self._spend(max(offset - before, 0))
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise TooBigError(f"holds more than {_gigabytes(self.limit)}, which is the most that is accepted")


def _zip_members(opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        name = info.filename.replace("\\", "/")  # as some Windows programs write names
        mode = info.external_attr >> 16
        if info.is_dir():
            kind: Kind = "folder"
        elif stat.S_ISLNK(mode):
            kind = "link" if info.file_size <= MAX_TARGET_BYTES else "other"
        else:
            kind = "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "other"
        target = _link_target(name, _link_text(opened, info).decode()) if kind == "link" else ""
        yield Member(name, kind, info.file_size, partial(opened.open, info), target)


def _link_text(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the target of a link; only its beginning is read, as the stated size may be false."""
    with opened.open(info) as stream:
        return stream.read(MAX_TARGET_BYTES)


def _tar_members(opened: tarfile.TarFile, limit: int) -> Iterator[Member]:
    total = 0
    for info in opened:
        total = check_sum((total, info.size), limit)  # before the next header, which lies behind the content
        if info.isdir() or info.isfile():
            kind: Kind = "folder" if info.isdir() else "file"
        else:
            kind = "link" if info.issym() or info.islnk() else "other"
        target = _link_target(info.name, info.linkname) if info.issym() else posixpath.normpath(info.linkname)
        yield Member(info.name, kind, info.size, partial(_extract, opened, info), target)
    _check_complete(opened)


def _extract(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(info)
    assert content is not None, f"{info.name} is a file"
    return content


def _link_target(name: str, target: str) -> str:
    """Return the target of a symbolic link, relative to the archive's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _check_complete(opened: tarfile.TarFile) -> None:
    """Raise ReadError unless the tar ends with zeros only: tarfile takes anything that is no header for the end."""
    rest = opened.fileobj
    assert rest is not None
    complete = rest.tell() > opened.offset
    while complete and (chunk := rest.read(CHUNK_BYTES)):
        complete = not any(chunk)
    if not complete:
        raise tarfile.ReadError("it ends too early, or a header in it is broken")
