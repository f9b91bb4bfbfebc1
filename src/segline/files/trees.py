"""Trees: the files of a data set, whether they are in a folder or in a bucket.

A layout finds its pairs by the names alone, and every stage reads files through a tree; so no stage depends on where
the data are.
"""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from segline.errors import SourceError
from segline.files.hashing import file_hash

CHANGED = "it has changed since it was ingested: ingest again"


@dataclass(frozen=True)
class File:
    """A file, as a listing describes it.

    Attributes:
        size: the size in bytes.
        stamp: a value that changes with the content: the times of change in ns, or the ETag in a bucket.
    """

    size: int
    stamp: str


class Tree(Protocol):
    """Files by their path, which is POSIX and relative to the tree's root. Trees can be pickled and hashed."""

    def __hash__(self) -> int: ...

    @property
    def where(self) -> str:
        """The root as the user gave it, for messages."""
        ...

    @property
    def files(self) -> dict[str, File]:
        """All files, sorted by path; they are listed once.

        Raises:
            SourceError: the root cannot be listed.
        """
        ...

    def read(self, path: str, checksum: str = "") -> bytes:
        """Return a file's content. Raises OSError if it cannot be read, or if ``checksum`` is given and differs."""
        ...

    def head(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a file, or all of a shorter one. Raises OSError if it is unreadable."""
        ...

    def checksum(self, path: str) -> str:
        """Return an identifier of the content, such as ``sha256:...``. Raises OSError if it cannot be read."""
        ...


def sha256_of(data: bytes) -> str:
    """Return ``sha256:`` and the digest of a content."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_content(data: bytes, checksum: str, path: str) -> None:
    """Raise OSError if a checksum is given, and a file's content has another one."""
    if checksum and checksum != sha256_of(data):
        raise OSError(errno.EIO, CHANGED, path)


@dataclass(frozen=True)
class Folder:
    """The files below a folder of this machine. Links are followed, except into a folder that contains the link."""

    root: Path

    @property
    def where(self) -> str:
        """The folder's path."""
        return str(self.root)

    @cached_property
    def files(self) -> dict[str, File]:
        """All files but hidden ones, sorted by path.

        Raises:
            SourceError: a folder cannot be listed.
        """
        try:
            return dict(sorted(_walk(str(self.root), "", (os.path.realpath(self.root),))))
        except OSError as error:
            raise SourceError(f"{error.filename} cannot be listed ({error.strerror}); fix it or remove it") from None
        except UnicodeEncodeError as error:
            raise SourceError(f"{self.root}: {error.object!a} is no name in UTF-8; rename it") from None

    def read(self, path: str, checksum: str = "") -> bytes:
        """Return a file's content. Raises OSError if it cannot be read, or if ``checksum`` is given and differs."""
        data = (self.root / path).read_bytes()
        check_content(data, checksum, path)
        return data

    def head(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a file, or all of a shorter one. Raises OSError if it is unreadable."""
        with (self.root / path).open("rb") as stream:
            return stream.read(size)

    def checksum(self, path: str) -> str:
        """Return ``sha256:`` and the digest of the content. Raises OSError if it cannot be read."""
        return f"sha256:{file_hash(self.root / path)}"


def _walk(folder: str, prefix: str, parents: tuple[str, ...]) -> Iterator[tuple[str, File]]:
    """Yield every file below a folder; a link to one of the ``parents`` is skipped, as it would never end."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{prefix}{entry.name}"
            path.encode()  # raises for a name that is not UTF-8
            if _is_broken_link(entry):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else f"{parents[-1]}/{entry.name}"
                if not any(f"{parent}/".startswith(f"{real.rstrip('/')}/") for parent in parents):
                    yield from _walk(entry.path, f"{path}/", (*parents, real))
            elif entry.is_file():
                stat = entry.stat()
                yield path, File(stat.st_size, f"{stat.st_mtime_ns}.{stat.st_ctime_ns}")


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link to a missing file, or to itself."""
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return True
    return False


class TreeWrapper:
    """A tree that passes everything on to another one; a subclass changes how it reads.

    Args:
        tree: the wrapped tree.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    @property
    def where(self) -> str:
        """The root of the wrapped tree, for messages."""
        return self.tree.where

    @property
    def files(self) -> dict[str, File]:
        """The files of the wrapped tree."""
        return self.tree.files

    def read(self, path: str, checksum: str = "") -> bytes:
        """Return a file's content from the wrapped tree."""
        return self.tree.read(path, checksum)

    def head(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a file from the wrapped tree."""
        return self.tree.head(path, size)

    def checksum(self, path: str) -> str:
        """Return the checksum of a file from the wrapped tree, as it is now."""
        return self.tree.checksum(path)


class Checked(TreeWrapper):
    """A tree that returns a file only if it has not changed since its checksum was taken.

    Args:
        tree: the wrapped tree.
        checksums: path to checksum; a file without one is not checked.
    """

    def __init__(self, tree: Tree, checksums: Mapping[str, str]) -> None:
        super().__init__(tree)
        self.checksums = checksums

    def read(self, path: str, checksum: str = "") -> bytes:
        """Return a file's content. Raises OSError if it cannot be read, or has changed."""
        return self.tree.read(path, checksum or self.checksums.get(path, ""))


@contextmanager
def prefetch(tree: Tree, paths: Sequence[str], depth: int = 4) -> Iterator[Tree]:
    """Yield the same tree, but threads read the next files of ``paths`` in the background.

    Args:
        tree: the tree to read from.
        paths: the paths in the order in which they will be read; other reads are possible too.
        depth: the number of files that are read ahead.
    """
    with ThreadPoolExecutor(depth) as pool:
        prefetching = _PrefetchingTree(tree, deque(dict.fromkeys(paths)), pool, depth)
        try:
            yield prefetching
        finally:
            prefetching.waiting.clear()
            for _, future in prefetching.started:
                future.cancel()


class _PrefetchingTree(TreeWrapper):
    """A tree whose next ``depth`` files are read in the background."""

    def __init__(self, tree: Tree, waiting: deque[str], pool: ThreadPoolExecutor, depth: int) -> None:
        super().__init__(tree)
        self.waiting, self.pool, self.depth = waiting, pool, depth
        self.started: deque[tuple[str, Future[bytes]]] = deque()

    def read(self, path: str, checksum: str = "") -> bytes:
        while self.waiting and len(self.started) < self.depth:
            following = self.waiting.popleft()
            self.started.append((following, self.pool.submit(self.tree.read, following)))
        if not self.started or self.started[0][0] != path:
            return self.tree.read(path, checksum)
        return self.started.popleft()[1].result()
