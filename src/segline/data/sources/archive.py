"""Archives: zip and tar, plain or compressed. They are unpacked into ``files``, whole or not at all.

Every member is looked at before the first is unpacked. Only files are written, under names that stay below the
folder; a link becomes a copy of the file that it leads to. Hidden members are left out, and a single folder that
everything lies in is taken for the root. Of members with one name, a tar's last one counts, as files may be appended to
a tar; a zip must not have them.
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
from segline.data.sources.kept import forget_manifest, kept_from, no_room, refuse_too_big
from segline.data.sources.opened import ResolvedSource
from segline.errors import SourceError
from segline.files.atomic import MARK, file_hash, write_text, writing
from segline.files.s3 import one_line
from segline.files.trees import Folder
from segline.progress import bar

PIECE = 1024 * 1024
LONGEST_TARGET = 4096
"""Bytes of a path that a link leads to, as on Linux."""
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError, NotImplementedError, UnicodeError)
Kind = Literal["file", "folder", "link", "other"]


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        name: as the archive has it, with slashes.
        read: opens the content of a file.
        target: of a link, from the archive's root.
    """

    name: str
    kind: Kind
    size: int
    read: Callable[[], IO[bytes]]
    target: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The name's parts without those that say nothing."""
        return tuple(part for part in self.name.split("/") if part not in ("", "."))

    @property
    def shown(self) -> bool:
        """Whether a folder's listing would have it."""
        return self.kind in ("file", "link") and not any(part[0] == "." or part == "__MACOSX" for part in self.parts)


def open_archive(settings: Ingest, files: Path) -> ResolvedSource:
    """An archive of this machine, unpacked into ``files`` unless it is there already."""
    archive = Path(settings.source)
    digest = checked_hash(archive, settings.source, settings.sha256)
    if not kept_from(files).startswith(f"{mark_of(digest)}\n"):
        unpack(archive, settings.source, files, f"{mark_of(digest)}\n")
    return ResolvedSource(Folder(files), root="", revision=f"sha256:{digest}")


def mark_of(digest: str) -> str:
    """How the mark of an archive's files begins."""
    return f"archive sha256:{digest}"


def checked_hash(archive: Path, where: str, wanted: str) -> str:
    """The archive's SHA-256.

    Raises:
        SourceError: it is not the one that is wanted, or the archive cannot be read.
    """
    try:
        digest = file_hash(archive)
    except OSError as error:
        raise SourceError(f"ingest.source: {where} cannot be read ({error.strerror}); mend it") from None
    if wanted and digest != wanted.lower():
        raise SourceError(
            f"ingest.sha256: {where} has {digest}, expected {wanted.lower()}; it is damaged or another file"
        )
    return digest


def unpack(archive: Path, where: str, files: Path, mark: str) -> None:
    """Make ``files`` the content of an archive.

    Args:
        archive: the file.
        where: the archive as the user knows it.
        files: the folder to make or to replace.
        mark: to tell later what the files came from.

    Raises:
        SourceError: the archive is damaged, too big, or has a member that must not be written.
    """
    try:
        with _members(archive) as members, writing(files) as work:
            try:
                _write(_checked(members, where, files), work)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
            write_text(work / MARK, mark)
            forget_manifest(files)
    except OSError as error:
        if error.errno is None:  # bz2 and gzip say so of damage
            raise _damaged(where, error) from None
        raise no_room(files, error) from None
    except (*DAMAGED, RuntimeError) as error:
        raise _damaged(where, error) from None


def _damaged(where: str, error: Exception) -> SourceError:
    reason = one_line(error) or type(error).__name__
    return SourceError(
        f"{where} is no whole archive that can be read ({reason}); "
        "give a zip, tar, tar.gz, tar.bz2 or tar.xz, or get it again"
    )


def _checked(members: list[Member], where: str, files: Path) -> dict[tuple[str, ...], Member]:
    """The members to write, by their path below the folder."""
    by_name = {"/".join(member.parts): member for member in members}
    for member in members:
        if problem := _problem(member, by_name):
            raise SourceError(
                f"{where}: {member.name!r} {problem}; nothing was unpacked, mend the archive or refuse it"
            )
    shown = [member for member in members if member.shown]
    if not shown:
        raise SourceError(f"{where} holds no files; give another archive")
    needed = [_led_to(member, by_name) for member in shown]
    refuse_too_big(sum(member.size for member in needed), where, files)
    tops = {member.parts[0] if len(member.parts) > 1 else "" for member in shown}
    skip = 1 if len(tops) == 1 and "" not in tops else 0
    return {member.parts[skip:]: content for member, content in zip(shown, needed, strict=True)}


def _problem(member: Member, by_name: dict[str, Member]) -> str:
    """Why the archive must not be unpacked because of this member; empty when it may."""
    if _leaves(member.name) or (not member.parts and member.kind != "folder"):
        return "would lie outside of the folder"
    if member.kind == "other":
        return "is no file, folder or link"
    if not _is_text(member.name):
        return "is no name in UTF-8"
    if member.shown and by_name["/".join(member.parts)] is not member:
        return "is there twice"
    if member.kind == "link" and _leaves(member.target):
        return f"is a link to {member.target!r}, outside of the folder"
    if member.shown and _led_to(member, by_name).kind != "file":
        return f"is a link to {member.target!r}, which is no file in the archive"
    return ""


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or "\0" in name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _led_to(member: Member, by_name: dict[str, Member]) -> Member:
    """The member at the end of a chain of links; a link when the chain has no end."""
    for _ in by_name:
        if member.kind != "link":
            break
        member = by_name.get(member.target, member)
    return member


def _write(members: dict[tuple[str, ...], Member], work: Path) -> None:
    with bar("unpacking", len(members)) as advance:
        for parts, member in members.items():
            path = work.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.read() as source, path.open("wb") as stream:
                shutil.copyfileobj(source, stream, PIECE)
            advance(1)


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    """What is in an archive, which is open meanwhile."""
    with archive.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(archive) as opened:
            yield list(_of_zip(opened))
    else:
        with tarfile.open(archive, "r:*") as opened:
            yield list({member.parts: member for member in _of_tar(opened)}.values())


def _of_zip(opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        name = info.filename.replace("\\", "/")  # some Windows programs write names so
        mode = info.external_attr >> 16
        if info.is_dir():
            kind: Kind = "folder"
        elif stat.S_ISLNK(mode):
            kind = "link" if info.file_size <= LONGEST_TARGET else "other"
        else:
            kind = "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "other"
        target = _beside(name, _content(opened, info).decode()) if kind == "link" else ""
        yield Member(name, kind, info.file_size, partial(opened.open, info), target)


def _content(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """What a link holds; not all at once, as its size may be a lie."""
    with opened.open(info) as stream:
        return stream.read(LONGEST_TARGET)


def _of_tar(opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened.getmembers():
        if info.isdir() or info.isfile():
            kind: Kind = "folder" if info.isdir() else "file"
        else:
            kind = "link" if info.issym() or info.islnk() else "other"
        target = _beside(info.name, info.linkname) if info.issym() else posixpath.normpath(info.linkname)
        yield Member(info.name, kind, info.size, partial(_extract, opened, info), target)
    _refuse_cut(opened)


def _extract(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(info)
    assert content is not None, f"{info.name} is a file"
    return content


def _beside(name: str, target: str) -> str:
    """A symbolic link's target, from the archive's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _refuse_cut(opened: tarfile.TarFile) -> None:
    """tarfile takes whatever is no header for the end; but a tar ends with a block of zeros and nothing after it."""
    rest = opened.fileobj
    assert rest is not None
    whole = rest.tell() > opened.offset
    while whole and (piece := rest.read(PIECE)):
        whole = not any(piece)
    if not whole:
        raise tarfile.ReadError("it ends too early, or a header in it is broken")
