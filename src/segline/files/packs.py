"""Packs: many files in a few large ones, because every file costs a request and a pause wherever it is copied.

A pack is a plain tar, so that people can look into it (``tar -tf``, ``tar -xf``). The index beside the packs holds the
pack, offset, size and CRC-32 of each file; a file is read by its offset, and no other byte of the pack is. Packs are
written by :mod:`segline.files.pack_writer`.
"""

import errno
import json
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from segline.errors import StageError
from segline.files.trees import File, check_content, sha256_of

INDEX = "index.json"


class Entry(NamedTuple):
    """The place of a file.

    Attributes:
        pack: the name of its pack.
        offset: the position of its first byte in the pack.
        size: its size in bytes.
        crc: the CRC-32 of its content.
    """

    pack: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Packs:
    """The files in the packs of a folder, as a :class:`segline.files.trees.Tree`. Their names are the source's own."""

    root: Path

    def __reduce__(self) -> tuple[type["Packs"], tuple[Path]]:
        return Packs, (self.root,)  # a process that reads them gets the index from the disk

    @property
    def where(self) -> str:
        """The folder's path."""
        return str(self.root)

    @cached_property
    def files(self) -> dict[str, File]:
        """All files, sorted by path. Their stamp is that of their pack.

        Raises:
            StageError: the index or a pack is missing or damaged.
        """
        stats = {pack: (self.root / pack).stat() for pack in {entry.pack for entry in self._entries.values()}}
        stamps = {pack: f"{stat.st_mtime_ns}.{stat.st_ctime_ns}" for pack, stat in stats.items()}
        return {path: File(entry.size, stamps[entry.pack]) for path, entry in sorted(self._entries.items())}

    def read(self, path: str, checksum: str = "") -> bytes:
        """Return a file's content. Raises OSError if it is damaged, or if ``checksum`` is given and differs."""
        entry = self._entry(path)
        data = self._bytes(entry, entry.size)
        if zlib.crc32(data) != entry.crc:
            raise OSError(errno.EIO, f"it is damaged: remove {self.root} and ingest again", path)
        check_content(data, checksum, path)
        return data

    def head(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a file, or all of a shorter one. Raises OSError if it is unreadable."""
        entry = self._entry(path)
        return self._bytes(entry, min(size, entry.size))

    def checksum(self, path: str) -> str:
        """Return ``sha256:`` and the digest of the content. Raises OSError if it cannot be read or is damaged."""
        return sha256_of(self.read(path))

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        again = "run `segline ingest` again"
        try:
            stat = (self.root / INDEX).stat()
            sizes, entries = _read_index(self.root / INDEX, stat.st_mtime_ns, stat.st_ino)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise StageError(f"{self.root / INDEX} is missing or broken; {again}") from None
        for pack, size in sizes.items():
            path = self.root / pack
            if not path.is_file() or path.stat().st_size != size:
                raise StageError(f"{path} is missing or damaged (expected {size} bytes); {again}")
        return entries

    def _entry(self, path: str) -> Entry:
        if path not in self._entries:
            raise OSError(errno.ENOENT, f"it is not among the files of {self.root}", path)
        return self._entries[path]

    def _bytes(self, entry: Entry, size: int) -> bytes:
        with (self.root / entry.pack).open("rb") as stream:
            stream.seek(entry.offset)
            return stream.read(size)


@lru_cache(maxsize=2)
def _read_index(path: Path, stamp: int, inode: int) -> tuple[dict[str, int], dict[str, Entry]]:
    """Return the size of each pack and the entry of each file; ``stamp`` and ``inode`` tell when to read it again."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = {name: Entry(*values) for name, values in content["files"].items()}
    sizes: dict[str, int] = content["packs"]
    if any("/" in pack for pack in sizes) or not {entry.pack for entry in entries.values()} <= sizes.keys():
        raise ValueError("a file lies in a pack that is not listed")
    return sizes, entries
