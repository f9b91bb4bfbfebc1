"""``dvc://repository``: a folder of a DVC repository at a revision, copied file by file.

The repository is a path of this machine or a git URL; ``ingest.dvc`` gives the folder and the revision. Files that
have been copied already are not fetched again.
"""

import errno
import filecmp
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segline.config.sections import Ingest
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import delete_manifest, prepare_staging, write_failed
from segline.errors import SourceError, one_line
from segline.files.atomic import write_file
from segline.files.hashing import file_md5
from segline.files.paths import safe_path
from segline.files.retry import ATTEMPTS, attempts
from segline.files.s3_errors import permanent_reason, requester_pays
from segline.files.trees import Folder
from segline.progress import progress_bar

SCHEME = "dvc://"
THREADS = 8
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _RemoteFile:
    """A file at the revision; ``md5`` is empty for a file that is in git itself."""

    path: str
    md5: str


def open_dvc(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Return the folder at the revision, copied into ``files``."""
    repository = _repository(settings.source.removeprefix(SCHEME))
    selection = settings.dvc
    where = f"{settings.source}: {selection.path or '.'} at {selection.revision or 'HEAD'}"
    with _open_repository(repository, selection.revision, where) as system:
        remote = _list_files(system, selection.path, where)
        prepare_staging(files, f"dvc {repository} {selection.path}")
        _remove_other_files(files, remote)
        try:
            with progress_bar("fetching", len(remote)) as advance, ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(lambda name: _fetch(system, remote[name], files, name, where), remote):
                    advance(1)
        finally:
            _remove_temporary_files(files)
        revision = system.repo.get_rev()
    return ResolvedSource(Folder(files), root="", revision=f"git:{revision}")


def _repository(address: str) -> str:
    """Return the absolute path of a repository of this machine, or a git URL unchanged."""
    if address and Path(address).exists():
        return str(Path(address).resolve())
    if ":" in address:
        url = urlsplit(address)
        # Over ssh the user name is no secret; over https it may be a token.
        if url.password or (url.username and url.scheme in ("http", "https")):
            raise SourceError(
                "ingest.source: the address contains a login, which every manifest would keep; leave it out, and "
                "let a credential helper of git or GIT_ASKPASS give it"
            )
        return address
    raise SourceError(
        f"ingest.source: {SCHEME}{address} is not there (looked from {Path.cwd()}); give the path or the git URL of a "
        "repository"
    )


@contextmanager
def _open_repository(repository: str, revision: str, where: str) -> Iterator[Any]:
    """Yield DVC's file system of the repository; a clone of it is removed at the end."""
    try:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc.repo.open_repo import clean_repos
    except ModuleNotFoundError:
        raise SourceError(f"{where}: DVC is not installed; install segline[dvc]") from None
    _let_requester_pay()
    local = Path(repository).exists()
    # For a path, DVC takes None as the working directory; for a URL, it takes HEAD as the name of a branch.
    named = (revision or "HEAD") if local or revision != "HEAD" else None
    try:
        system = DVCFileSystem(repository, rev=named)
        with closing(system):
            yield system
    except DvcException as error:
        raise SourceError(
            f"{where}: {one_line(_root_cause(error))}; check ingest.source and ingest.dvc.revision, and "
            "git's login if it wants one"
        ) from None
    finally:
        clean_repos()


def _root_cause(error: BaseException) -> BaseException:
    """Return the error that DVC and its libraries have wrapped."""
    while error.__cause__:
        error = error.__cause__
    return error


def _raise_if_refused(error: BaseException, where: str) -> None:
    """Raise for an error of the remote's bucket that another attempt would meet again."""
    from botocore.exceptions import BotoCoreError, ClientError

    cause = _root_cause(error)
    if isinstance(cause, ClientError | BotoCoreError) and (reason := permanent_reason(cause)):
        raise SourceError(f"{where}: the DVC remote: {reason}") from None


def _let_requester_pay() -> None:
    """Tell the file system of DVC's S3 remotes who pays, for which DVC has no setting."""
    import fsspec.config

    if requester_pays():
        fsspec.config.conf.setdefault("s3", {})["requester_pays"] = True


def _list_files(system: Any, path: str, where: str) -> dict[str, _RemoteFile]:
    """Return all files below the path but hidden ones, by their name relative to it."""
    from dvc.exceptions import DvcException

    root = f"/{path.strip('/')}".rstrip("/").removesuffix("/.")
    try:
        entries = system.find(root or "/", detail=True)
    except DvcException:  # DVC opens the repository only now
        raise
    except Exception as error:  # the remotes of DVC raise whatever their libraries do
        _raise_if_refused(error, where)
        raise SourceError(
            f"{where}: cannot be listed ({one_line(error)}); was it pushed, is there room for DVC's notes?"
        ) from None
    listed = {
        name.removeprefix(f"{root}/"): _RemoteFile(name, info.get("md5", ""))
        for name, info in sorted(entries.items())
        if name.startswith(f"{root}/")
    }
    # Names with .. are left out as well.
    visible = {name: remote for name, remote in listed.items() if "/." not in f"/{name}"}
    if not visible:
        raise SourceError(f"{where}: no files there; check ingest.dvc.path, it is a folder in the repository")
    return visible


def _remove_other_files(files: Path, remote: dict[str, _RemoteFile]) -> None:
    """Remove the files that the revision does not have."""
    _remove_temporary_files(files)
    for name in Folder(files).files.keys() - remote.keys():
        delete_manifest(files)
        (files / name).unlink()
    for folder, _, _ in os.walk(files, topdown=False):
        with suppress(OSError):  # it is not empty
            os.rmdir(folder)


def _remove_temporary_files(files: Path) -> None:
    """Remove temporary files, ours and DVC's, that a kill or a full disk left behind."""
    for temporary in files.rglob(".*.tmp"):
        temporary.unlink()


def _fetch(system: Any, remote: _RemoteFile, files: Path, name: str, where: str) -> None:
    """Copy a file, unless it is there already."""
    path = safe_path(files, name, where)
    if remote.md5 and path.is_file() and file_md5(path) == remote.md5:
        return

    def copy(temporary: Path) -> None:
        _copy(system, remote, temporary, where)
        if not path.is_file() or not filecmp.cmp(path, temporary, shallow=False):
            delete_manifest(files)

    reason = ""
    for _ in attempts():
        try:
            write_file(path, copy)
            return
        except FileNotFoundError:
            advice = _name_advice(remote.path) or "run `dvc push` where it was added"
            raise SourceError(f"{where}: {remote.path} is neither in DVC's cache nor in its remote; {advice}") from None
        except SourceError:
            raise
        except Exception as error:  # the remotes of DVC raise whatever their libraries do
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise write_failed(path, OSError(error.errno, error.strerror)) from None
            _raise_if_refused(error, where)
            reason = one_line(error)
    advice = _name_advice(remote.path) or "run the same command again"
    raise SourceError(f"{where}: {remote.path} could not be fetched in {ATTEMPTS} attempts ({reason}); {advice}")


def _name_advice(name: str) -> str:
    """Return what to do about a name that DVC cannot read from a version-aware remote; empty for any other.

    DVC appends the version to the key as the query of a URL, of which ``#`` and ``?`` are signs (dvc-s3 3,
    ``S3FileSystem.join_version``). It uploads such a file without a word.
    """
    if not set("#?") & set(name):
        return ""
    return (
        "if the remote is version-aware, DVC reads no name with # or ? from it: rename the file and push it, or push "
        "to a remote without version_aware and worktree"
    )


def _copy(system: Any, remote: _RemoteFile, temporary: Path, where: str) -> None:
    system.get_file(remote.path, str(temporary))
    if remote.md5 and file_md5(temporary) != remote.md5:
        raise SourceError(f"{where}: {remote.path} is damaged in DVC's cache or remote; push it again")
