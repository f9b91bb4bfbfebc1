"""Writing packs, see :mod:`segline.files.packs`. The same files in the same order give the same bytes."""

import errno
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from segline.files.atomic import naming, write_text
from segline.files.packs import INDEX, Entry

PACK_BYTES = 256 * 1024 * 1024
"""A pack is closed once it is as large. An interrupted run makes one pack again at most."""
CHUNK_BYTES = 1024 * 1024
ENDING = bytes(2 * tarfile.BLOCKSIZE)


class PackWriter:
    """Writes files into the packs of a folder, one after another.

    Args:
        folder: the folder, which may hold packs that an interrupted run finished (see :meth:`resume`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._folders: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._stream: IO[bytes] | None = None

    def add(self, path: str, size: int, source: IO[bytes]) -> None:
        """Append a file.

        Args:
            path: its path, which the index keeps.
            size: its size in bytes.
            source: its content, of which ``size`` bytes are read.

        Raises:
            EOFError: the content is shorter.
            OSError: it cannot be written, or the path is that of a folder, or leads through a file.
        """
        parents = [str(parent) for parent in PurePosixPath(path).parents]
        if path in self._folders or any(parent in self.entries for parent in parents):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self._folders.update(parents)
        with naming(self.folder / self._name):
            stream = self._stream = self._stream or self._temporary.open("wb")
            stream.write(_header(path, size))
            offset, crc = stream.tell(), 0
            for chunk in _chunks(path, size, source):
                crc = zlib.crc32(chunk, crc)
                stream.write(chunk)
            stream.write(bytes(-size % tarfile.BLOCKSIZE))
            self.entries[path] = Entry(self._name, offset, size, crc)
            if stream.tell() >= PACK_BYTES:
                self._close_pack()

    def add_copy(self, path: str, original: str) -> None:
        """Let a second path stand for a file that was added already; its bytes are not kept twice."""
        self.entries[path] = self.entries[original]

    def resume(self, paths: Sequence[str], is_right: Callable[[str, bytes], bool]) -> int:
        """Take over the packs that an interrupted run finished, and remove all others.

        Args:
            paths: the paths of all files, in the order in which they are added.
            is_right: returns whether a file has the right content.

        Returns:
            How many of the first ``paths`` need not be added any more.
        """
        for pack in sorted(self.folder.glob("*.tar")):
            found = _scan(pack) if pack.name == self._name else {}
            expected = list(paths[len(self.entries) : len(self.entries) + len(found)])
            if found and expected == list(found) and all(is_right(path, data) for path, (_, data) in found.items()):
                self.entries |= {
                    path: Entry(pack.name, offset, len(data), zlib.crc32(data))
                    for path, (offset, data) in found.items()
                }
                self._sizes[pack.name] = pack.stat().st_size
            else:
                pack.unlink()
        return len(self.entries)

    def finish(self) -> None:
        """Close the last pack and write the index."""
        if self._stream:
            with naming(self.folder / self._name):
                self._close_pack()
        content = {"files": dict(sorted(self.entries.items())), "packs": self._sizes}
        write_text(self.folder / INDEX, json.dumps(content, ensure_ascii=False) + "\n")

    def discard(self) -> None:
        """Remove the pack that is not complete."""
        with suppress(OSError):  # the disk is full, which the caller has been told
            if self._stream:
                self._stream.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        """The name of the pack that is being written, or is the next."""
        return f"{len(self._sizes):05d}.tar"

    @property
    def _temporary(self) -> Path:
        return self.folder / f".{self._name}.tmp"

    def _close_pack(self) -> None:
        assert self._stream is not None, "a pack is open"
        with self._stream as stream:
            stream.write(ENDING)
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.tell()
        self._stream = None
        self._temporary.rename(self.folder / self._name)
        self._sizes[self._name] = size


@contextmanager
def packing(folder: Path) -> Iterator[PackWriter]:
    """Yield a writer of packs; they have their index if the block ends without an error."""
    writer = PackWriter(folder)
    try:
        yield writer
        writer.finish()
    finally:
        writer.discard()


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _chunks(path: str, size: int, source: IO[bytes]) -> Iterator[bytes]:
    """Yield the first ``size`` bytes of a file."""
    missing = size
    while missing and (chunk := source.read(min(CHUNK_BYTES, missing))):
        missing -= len(chunk)
        yield chunk
    if missing:
        raise EOFError(f"{path!r} is said to have {size} bytes, and has other ones")


def _scan(pack: Path) -> dict[str, tuple[int, bytes]]:
    """Return offset and content of each file of a pack; empty for a damaged one."""
    found = {}
    try:
        with tarfile.open(pack, "r:") as opened, pack.open("rb") as stream:
            for info in opened:
                stream.seek(info.offset_data)
                found[info.name] = (info.offset_data, stream.read(info.size))
    except (OSError, tarfile.TarError, ValueError):
        return {}
    return found
