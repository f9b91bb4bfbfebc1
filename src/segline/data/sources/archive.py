"""Archives: zip and tar, plain or compressed. They are unpacked into the packs of ``files`` atomically.

All members are checked before the first is unpacked. Only files are taken, under names that stay below the folder; a
link stands for its target. Hidden members are left out. If all members are in a single folder, that folder is
the root. Of members with the same name, the last one of a tar counts, because files may be appended to a tar; in a zip
they are an error. What an archive may hold is limited by its own size: see :mod:`segline.data.sources.members`.
"""

import shutil
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from struct import error as StructError

from segline.config.sections import Ingest
from segline.data.sources.members import Member, TooBigError, check_sum, limit_bytes, open_members
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import check_free_space, delete_manifest, mark_of, staged_origin, write_failed
from segline.errors import SourceError, one_line
from segline.files.atomic import MARK, write_text, writing
from segline.files.hashing import file_hash
from segline.files.pack_writer import PackWriter, packing
from segline.files.packs import Packs
from segline.files.paths import name_problem
from segline.progress import progress_bar

MAX_LINKS = 40
"""The longest chain of links, as on Linux."""
DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    LZMAError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
    StructError,
)
"""The errors that zipfile, tarfile and the decompressors raise for bytes that are no archive."""


def open_archive(settings: Ingest, files: Path) -> ResolvedSource:
    """Return an archive of this machine, unpacked into ``files`` unless it is there already."""
    archive = Path(settings.source)
    digest = verified_hash(archive, settings.source, settings.sha256)
    if not staged_origin(files).startswith(f"{mark_prefix(digest)}\n"):
        mark = f"{mark_prefix(digest)}\n"
        unpack(archive, settings.source, files, mark, max_ratio=settings.max_unpack_ratio)
    return ResolvedSource(Packs(files), root="", revision=f"sha256:{digest}")


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


def unpack(archive: Path, source: str, files: Path, mark: str, *, max_ratio: int) -> None:
    """Replace ``files`` by the content of an archive.

    Args:
        archive: the file.
        source: the archive as the user named it.
        files: the folder to create or to replace.
        mark: the text of the mark, which names the origin of the files.
        max_ratio: the most that it may hold, as a multiple of its size.

    Raises:
        SourceError: the archive is damaged, too large, or has a member that must not be written.
    """
    try:
        limit = limit_bytes(archive, max_ratio)
        with open_members(archive, limit) as members, writing(files) as work:
            try:
                selected = _select(members, source, files, limit)
                with packing(work) as packs:
                    _write(selected, packs)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
            write_text(work / MARK, mark_of(mark))
            delete_manifest(files)
    except TooBigError as error:
        raise SourceError(
            f"{source} {error}; nothing was unpacked; get it from a source that you trust, or raise "
            f"ingest.max_unpack_ratio (now {max_ratio})"
        ) from None
    except OSError as error:
        if error.errno is None:  # bz2 and gzip report damage so
            raise _damaged(source, error) from None
        raise write_failed(files, error) from None
    except DAMAGE_ERRORS as error:
        raise _damaged(source, error) from None


def _damaged(source: str, error: Exception) -> SourceError:
    return SourceError(
        f"{source} is no whole archive that can be read ({one_line(error)}); "
        "give a zip, tar, tar.gz, tar.bz2 or tar.xz, or get it again"
    )


def _select(members: list[Member], source: str, files: Path, limit: int) -> dict[tuple[str, ...], Member]:
    """Return the members to write, by their path below the folder and in the order of their contents in the archive.

    Raises:
        SourceError: any member is refused, or the disk has no room.
        TooBigError: they have more bytes than ``limit``.
    """
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
    sizes = [member.size for member in contents]
    check_free_space(sum(sizes), source, files)
    check_sum(sizes, limit)
    tops = {member.parts[0] if len(member.parts) > 1 else "" for member in visible}
    skip = 1 if len(tops) == 1 and "" not in tops else 0
    place = {id(member): number for number, member in enumerate(members)}
    chosen = sorted(zip(visible, contents, strict=True), key=lambda pair: place[id(pair[1])])
    return {member.parts[skip:]: content for member, content in chosen}


def _problem(member: Member, by_name: dict[str, Member]) -> str:
    """Return why this member makes the archive unacceptable; empty if it does not."""
    path = "/".join(member.parts)
    if _escapes(member.name) or (not path and member.kind != "folder"):
        return "would lie outside of the folder"
    if path and (problem := name_problem(path)):
        return problem
    if member.kind == "other":
        return "is no file, folder or link"
    if not _is_utf8(member.name):
        return "is no name in UTF-8"
    if member.is_visible and by_name[path] is not member:
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
    for _ in range(MAX_LINKS):
        if member.kind != "link":
            break
        member = by_name.get(member.target, member)
    return member


def _write(members: dict[tuple[str, ...], Member], packs: PackWriter) -> None:
    written: dict[int, str] = {}
    with progress_bar("unpacking", len(members)) as advance:
        for parts, member in members.items():
            path = "/".join(parts)
            if id(member) in written:
                packs.add_copy(path, written[id(member)])
            else:
                _write_file(path, member, packs)
                written[id(member)] = path
            advance(1)


def _write_file(path: str, member: Member, packs: PackWriter) -> None:
    """Write a member's content; more or fewer bytes than it declares are damage."""
    with member.read() as source:
        packs.add(path, member.size, source)
        if source.read(1):
            raise EOFError(f"{member.name!r} has more than the {member.size} bytes that it is said to have")
