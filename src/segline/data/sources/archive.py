"""Archives: zip and tar, plain or compressed. They are unpacked into ``files`` atomically.

All members are checked before the first is unpacked. Only files are written, under names that stay below the folder; a
link becomes a copy of its target. Hidden members are left out. If all members are in a single folder, that folder is
the root. Of members with the same name, the last one of a tar counts, because files may be appended to a tar; in a zip
they are an error.
"""

import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path
from typing import IO, Literal

from segline.config.sections import Ingest
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import check_free_space, delete_manifest, staged_origin, write_failed
from segline.errors import SourceError, one_line
from segline.files.atomic import MARK, write_text, writing
from segline.files.hashing import file_hash
from segline.files.trees import Folder
from segline.progress import progress_bar

CHUNK_BYTES = 1024 * 1024
MAX_TARGET_BYTES = 4096
"""The longest path that a link may lead to, as on Linux."""
DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    LZMAError,
    NotImplementedError,
    UnicodeError,
)
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


def open_archive(settings: Ingest, files: Path) -> ResolvedSource:
    """Return an archive of this machine, unpacked into ``files`` unless it is there already."""
    archive = Path(settings.source)
    digest = verified_hash(archive, settings.source, settings.sha256)
    if not staged_origin(files).startswith(f"{mark_prefix(digest)}\n"):
        unpack(archive, settings.source, files, f"{mark_prefix(digest)}\n")
    return ResolvedSource(Folder(files), root="", revision=f"sha256:{digest}")


def mark_prefix(digest: str) -> str:
    """Return the beginning of the mark in the folder of an unpacked archive."""
    return f"archive sha256:{digest}"


def verified_hash(archive: Path, source: str, expected: str) -> str:
    """Return the archive's SHA-256.

    Args:
        archive: the file.
        source: the archive as the user named it.
        expected: the right SHA-256; empty if any is right.

    Raises:
        SourceError: the SHA-256 is not the expected one, or the archive cannot be read.
    """
    try:
        digest = file_hash(archive)
    except OSError as error:
        raise SourceError(f"ingest.source: {source} cannot be read ({error.strerror}); fix it") from None
    if expected and digest != expected.lower():
        raise SourceError(
            f"ingest.sha256: {source} has {digest}, expected {expected.lower()}; it is damaged or another file"
        )
    return digest


def unpack(archive: Path, source: str, files: Path, mark: str) -> None:
    """Replace ``files`` by the content of an archive.

    Args:
        archive: the file.
        source: the archive as the user named it.
        files: the folder to create or to replace.
        mark: the text of the mark, which names the origin of the files.

    Raises:
        SourceError: the archive is damaged, too large, or has a member that must not be written.
    """
    try:
        with _members(archive) as members, writing(files) as work:
            try:
                _write(_select(members, source, files), work)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
            write_text(work / MARK, mark)
            delete_manifest(files)
    except OSError as error:
        if error.errno is None:  # bz2 and gzip report damage so
            raise _damaged(source, error) from None
        raise write_failed(files, error) from None
    except (*DAMAGE_ERRORS, RuntimeError) as error:
        raise _damaged(source, error) from None


def _damaged(source: str, error: Exception) -> SourceError:
    return SourceError(
        f"{source} is no whole archive that can be read ({one_line(error)}); "
        "give a zip, tar, tar.gz, tar.bz2 or tar.xz, or get it again"
    )


def _select(members: list[Member], source: str, files: Path) -> dict[tuple[str, ...], Member]:
    """Return the members to write, by their path below the folder; raise a SourceError if any member is refused."""
    by_name = {"/".join(member.parts): member for member in members}
    for member in members:
        if problem := _problem(member, by_name):
            raise SourceError(
                f"{source}: {member.name!r} {problem}; nothing was unpacked, fix the archive or use another"
            )
    visible = [member for member in members if member.is_visible]
    if not visible:
        raise SourceError(f"{source} holds no files; give another archive")
    contents = [_resolve_link(member, by_name) for member in visible]
    check_free_space(sum(member.size for member in contents), source, files)
    tops = {member.parts[0] if len(member.parts) > 1 else "" for member in visible}
    skip = 1 if len(tops) == 1 and "" not in tops else 0
    return {member.parts[skip:]: content for member, content in zip(visible, contents, strict=True)}


def _problem(member: Member, by_name: dict[str, Member]) -> str:
    """Return why this member makes the archive unacceptable; empty if it does not."""
    if _escapes(member.name) or (not member.parts and member.kind != "folder"):
        return "would lie outside of the folder"
    if member.kind == "other":
        return "is no file, folder or link"
    if not _is_utf8(member.name):
        return "is no name in UTF-8"
    if member.is_visible and by_name["/".join(member.parts)] is not member:
        return "is there twice"
    if member.kind == "link" and _escapes(member.target):
        return f"is a link to {member.target!r}, outside of the folder"
    if member.is_visible and _resolve_link(member, by_name).kind != "file":
        return f"is a link to {member.target!r}, which is no file in the archive"
    return ""


def _escapes(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or "\0" in name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _resolve_link(member: Member, by_name: dict[str, Member]) -> Member:
    """Return the member at the end of a chain of links; a link if the chain has no end."""
    for _ in by_name:
        if member.kind != "link":
            break
        member = by_name.get(member.target, member)
    return member


def _write(members: dict[tuple[str, ...], Member], work: Path) -> None:
    with progress_bar("unpacking", len(members)) as advance:
        for parts, member in members.items():
            path = work.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.read() as source, path.open("wb") as stream:
                shutil.copyfileobj(source, stream, CHUNK_BYTES)
            advance(1)


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    """Yield the members of an archive, which is open until the block ends."""
    with archive.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(archive) as opened:
            yield list(_zip_members(opened))
    else:
        with tarfile.open(archive, "r:*") as opened:
            yield list({member.parts: member for member in _tar_members(opened)}.values())


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


def _tar_members(opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened.getmembers():
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
