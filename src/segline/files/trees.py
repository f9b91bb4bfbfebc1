"""The files of a data set, wherever they lie: on a disk, in a bucket.

A layout finds its pairs from the names alone, and every stage reads through a tree; so no stage knows where the
data are.
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
from segline.files.atomic import file_hash

CHANGED = "it has changed since it was ingested: ingest again"


@dataclass(frozen=True)
class File:
    """What can be known of a file without reading it.

    Attributes:
        size: in bytes.
        stamp: differs whenever the content does: the time of change in ns, or a bucket's ETag.
    """

    size: int
    stamp: str


class Tree(Protocol):
    """Files by their path, which is POSIX and relative to the tree's root. Trees can be pickled and hashed."""

    def __hash__(self) -> int: ...

    @property
    def where(self) -> str:
        """The root as the user knows it, for messages."""
        ...

    @property
    def files(self) -> dict[str, File]:
        """Every file, sorted by path; listed once.

        Raises:
            SourceError: the root cannot be listed.
        """
        ...

    def read(self, path: str, checksum: str = "") -> bytes:
        """A file's content. Raises OSError when it cannot be read, or has another checksum than the one given."""
        ...

    def head(self, path: str, size: int) -> bytes:
        """The first ``size`` bytes of a file, or all when it is shorter. Raises OSError when it cannot be read."""
        ...

    def checksum(self, path: str) -> str:
        """What tells this content from any other, such as ``sha256:...``. Raises OSError when it cannot be read."""
        ...


@dataclass(frozen=True)
class Folder:
    """The files below a folder of this machine. Links are followed, but none into a folder that is above it."""

    root: Path

    @property
    def where(self) -> str:
        """The folder's path."""
        return str(self.root)

    @cached_property
    def files(self) -> dict[str, File]:
        """Every file, sorted by path; hidden ones are left out.

        Raises:
            SourceError: a folder cannot be listed.
        """
        try:
            found = dict(_walk(str(self.root), "", (os.path.realpath(self.root),)))
        except OSError as error:
            raise SourceError(f"{error.filename} cannot be listed ({error.strerror}); mend it or remove it") from None
        except UnicodeEncodeError as error:
            raise SourceError(f"{self.root}: {error.object!a} is no name in UTF-8; rename it") from None
        return dict(sorted(found.items()))

    def read(self, path: str, checksum: str = "") -> bytes:
        """A file's content. Raises OSError when it cannot be read, or has another checksum than the one given."""
        data = (self.root / path).read_bytes()
        if checksum and checksum != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise OSError(errno.EIO, CHANGED, path)
        return data

    def head(self, path: str, size: int) -> bytes:
        """The first ``size`` bytes of a file, or all when it is shorter. Raises OSError when it cannot be read."""
        with (self.root / path).open("rb") as stream:
            return stream.read(size)

    def checksum(self, path: str) -> str:
        """``sha256:`` and the digest of the content. Raises OSError when it cannot be read."""
        return f"sha256:{file_hash(self.root / path)}"


def _walk(folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, File]]:
    """Every file below a folder; a link that leads to one of the folders above it would never end."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{prefix}{entry.name}"
            path.encode()  # raises for a name that is not UTF-8
            if _leads_nowhere(entry):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
                if not any(f"{one}/".startswith(f"{real.rstrip('/')}/") for one in above):
                    yield from _walk(entry.path, f"{path}/", (*above, real))
            elif entry.is_file():
                stat = entry.stat()
                yield path, File(stat.st_size, f"{stat.st_mtime_ns}.{stat.st_ctime_ns}")


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to nothing, or to itself."""
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
    """A tree around another, which it only reads in another way.

    Args:
        tree: the files.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    @property
    def where(self) -> str:
        """That of the tree."""
        return self.tree.where

    @property
    def files(self) -> dict[str, File]:
        """Those of the tree."""
        return self.tree.files

    def read(self, path: str, checksum: str = "") -> bytes:
        """A file's content, as the tree gives it."""
        return self.tree.read(path, checksum)

    def head(self, path: str, size: int) -> bytes:
        """The first ``size`` bytes of a file, as the tree gives them."""
        return self.tree.head(path, size)

    def checksum(self, path: str) -> str:
        """That of the file as it is now."""
        return self.tree.checksum(path)


class Checked(TreeWrapper):
    """A tree that gives a file only as it was when its checksum was taken.

    Args:
        tree: the files.
        checksums: path to checksum; a file without one is given as it is.
    """

    def __init__(self, tree: Tree, checksums: Mapping[str, str]) -> None:
        super().__init__(tree)
        self.checksums = checksums

    def read(self, path: str, checksum: str = "") -> bytes:
        """A file's content. Raises OSError when it cannot be read, or has changed."""
        return self.tree.read(path, checksum or self.checksums.get(path, ""))


@contextmanager
def reading_ahead(tree: Tree, paths: Sequence[str], depth: int = 4) -> Iterator[Tree]:
    """The same tree; while a file is worked on, threads read the next ones in the order of ``paths``.

    Args:
        tree: the files.
        paths: in the order in which they will be asked for; others can be asked for too.
        depth: how many files are read ahead.
    """
    with ThreadPoolExecutor(depth) as pool:
        ahead = _Ahead(tree, deque(dict.fromkeys(paths)), pool, depth)
        try:
            yield ahead
        finally:
            ahead.pending.clear()
            for _, future in ahead.under_way:
                future.cancel()


class _Ahead(TreeWrapper):
    """A tree with some of its files on the way."""

    def __init__(self, tree: Tree, pending: deque[str], pool: ThreadPoolExecutor, depth: int) -> None:
        super().__init__(tree)
        self.pending, self.pool, self.depth = pending, pool, depth
        self.under_way: deque[tuple[str, Future[bytes]]] = deque()

    def read(self, path: str, checksum: str = "") -> bytes:
        while self.pending and len(self.under_way) < self.depth:
            following = self.pending.popleft()
            self.under_way.append((following, self.pool.submit(self.tree.read, following)))
        if not self.under_way or self.under_way[0][0] != path:
            return self.tree.read(path, checksum)
        return self.under_way.popleft()[1].result()
