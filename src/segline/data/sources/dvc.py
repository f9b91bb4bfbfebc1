"""``dvc://repository``: a folder of a DVC repository at a revision, copied file by file.

The repository is a path of this machine or a git URL; ``ingest.dvc`` says which folder and which revision of it.
Files that are there already with the same content are not fetched again.
"""

import errno
import filecmp
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segline.config.sections import Ingest
from segline.data.sources.kept import forget_manifest, keep_files, no_room
from segline.data.sources.opened import ResolvedSource
from segline.errors import SourceError
from segline.files.atomic import write_file
from segline.files.s3 import ATTEMPTS, one_line, pauses
from segline.files.trees import Folder
from segline.progress import bar

SCHEME = "dvc://"
THREADS = 8
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _Remote:
    """A file at the revision; ``md5`` is empty for what git keeps itself."""

    path: str
    md5: str


def open_dvc(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """The folder at the revision, copied into ``files``."""
    repository = _repository(settings.source.removeprefix(SCHEME))
    wanted = settings.dvc
    where = f"{settings.source}: {wanted.path or '.'} at {wanted.revision or 'HEAD'}"
    with _opened(repository, wanted.revision, where) as system:
        remote = _listed(system, wanted.path, where)
        keep_files(files, f"dvc {repository} {wanted.path}")
        _remove_others(files, remote)
        try:
            with bar("fetching", len(remote)) as advance, ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(lambda name: _fetch(system, remote[name], files, name, where), remote):
                    advance(1)
        finally:
            _remove_torn(files)
        revision = system.repo.get_rev()
    return ResolvedSource(Folder(files), root="", revision=f"git:{revision}")


def _repository(address: str) -> str:
    """The absolute path of a repository of this machine, or a git URL as it is."""
    if address and Path(address).exists():
        return str(Path(address).resolve())
    if ":" in address:
        url = urlsplit(address)
        # Over ssh the user is no secret; over https a token may stand in its place.
        if url.password or (url.username and url.scheme in ("http", "https")):
            raise SourceError(
                "ingest.source: the address has a login in it, which every manifest would keep; leave it out, and "
                "let a credential helper of git or GIT_ASKPASS give it"
            )
        return address
    raise SourceError(
        f"ingest.source: {SCHEME}{address} is not there (looked from {Path.cwd()}); give the path or the git URL of a "
        "repository"
    )


@contextmanager
def _opened(repository: str, revision: str, where: str) -> Iterator[Any]:
    """DVC's file system of the repository; a clone of it is removed in the end."""
    try:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.repo.open_repo import clean_repos
    except ModuleNotFoundError:
        raise SourceError(f"{where}: DVC is not installed; install segline[dvc]") from None
    local = Path(repository).exists()
    # Of a path, DVC takes None for the working directory; of a URL, HEAD for the name of a branch.
    named = (revision or "HEAD") if local or revision != "HEAD" else None
    try:
        system = DVCFileSystem(repository, rev=named)
        with closing(system):
            yield system
    except DvcException as error:
        cause = _first_cause(error)
        raise SourceError(
            f"{where}: {one_line(cause) or type(cause).__name__}; check ingest.source and ingest.dvc.revision, and "
            "git's login if it wants one"
        ) from None
    finally:
        clean_repos()


def _first_cause(error: BaseException) -> BaseException:
    """What DVC and its libraries have wrapped."""
    while error.__cause__:
        error = error.__cause__
    return error


def _listed(system: Any, path: str, where: str) -> dict[str, _Remote]:
    """The files below the path, by their name there; hidden ones are left out."""
    from dvc.exceptions import DvcException

    root = f"/{path.strip('/')}".rstrip("/").removesuffix("/.")
    try:
        found = system.find(root or "/", detail=True)
    except DvcException:  # DVC opens the repository only now
        raise
    except Exception as error:  # the remotes of DVC raise whatever their libraries do
        reason = one_line(error) or type(error).__name__
        raise SourceError(
            f"{where}: cannot be listed ({reason}); was it pushed, is there room for DVC's notes?"
        ) from None
    listed = {
        name.removeprefix(f"{root}/"): _Remote(name, info.get("md5", ""))
        for name, info in sorted(found.items())
        if name.startswith(f"{root}/")
    }
    shown = {name: remote for name, remote in listed.items() if "/." not in f"/{name}"}  # nor anything with ..
    if not shown:
        raise SourceError(f"{where}: no files there; check ingest.dvc.path, it is a folder in the repository")
    return shown


def _remove_others(files: Path, wanted: dict[str, _Remote]) -> None:
    """Remove what the revision does not have."""
    _remove_torn(files)
    for name in Folder(files).files.keys() - wanted.keys():
        forget_manifest(files)
        (files / name).unlink()
    for folder, _, _ in os.walk(files, topdown=False):
        with suppress(OSError):  # it is not empty
            os.rmdir(folder)


def _remove_torn(files: Path) -> None:
    """Remove what a kill or a full disk left behind, ours and DVC's."""
    for torn in files.rglob(".*.tmp"):
        torn.unlink()


def _fetch(system: Any, remote: _Remote, files: Path, name: str, where: str) -> None:
    """Copy a file, unless it is there already."""
    path = files / name
    if remote.md5 and path.is_file() and _md5(path) == remote.md5:
        return

    def copy(temporary: Path) -> None:
        _copy(system, remote, temporary, where)
        if not path.is_file() or not filecmp.cmp(path, temporary, shallow=False):
            forget_manifest(files)

    reason = ""
    for pause in pauses():
        time.sleep(pause)
        try:
            write_file(path, copy)
            return
        except FileNotFoundError:
            raise SourceError(
                f"{where}: {remote.path} is neither in DVC's cache nor in its remote; run `dvc push` where it was added"
            ) from None
        except SourceError:
            raise
        except Exception as error:  # as above
            if isinstance(error, OSError) and error.errno in FULL:
                raise no_room(path, OSError(error.errno, error.strerror)) from None
            reason = one_line(error) or type(error).__name__
    raise SourceError(
        f"{where}: {remote.path} could not be fetched in {ATTEMPTS} attempts ({reason}); run the same command again"
    )


def _copy(system: Any, remote: _Remote, temporary: Path, where: str) -> None:
    system.get_file(remote.path, str(temporary))
    if remote.md5 and _md5(temporary) != remote.md5:
        raise SourceError(f"{where}: {remote.path} is damaged in DVC's cache or remote; push it again")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
