"""``dvc://repository``: a folder of a DVC repository at a revision, copied into packs.

The repository is a path of this machine or a git URL; ``ingest.dvc`` gives the folder and the revision. Files that
have been copied already are not fetched again: those of another revision are taken from its packs, and a run that was
interrupted continues behind the last pack that it finished.
"""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import urlsplit

from segline.config.sections import Ingest
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import delete_manifest, mark_of, staged_origin, write_failed
from segline.errors import SourceError, one_line
from segline.files.atomic import writing
from segline.files.hashing import file_md5
from segline.files.pack_writer import packing
from segline.files.packs import Packs
from segline.files.paths import name_problem
from segline.files.retry import ATTEMPTS, attempts
from segline.files.s3_errors import permanent_reason, requester_pays
from segline.progress import progress_bar

SCHEME = "dvc://"
THREADS = 8
AHEAD = 2 * THREADS
FETCHED = ".fetched"
"""The folder for files that are not in a pack yet."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _RemoteFile:
    """A file at the revision, with the MD5 of its content in hex."""

    path: str
    md5: str


def open_dvc(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Return the folder at the revision, in the packs of ``files``."""
    repository = _repository(settings.source.removeprefix(SCHEME))
    selection = settings.dvc
    where = f"{settings.source}: {selection.path or '.'} at {selection.revision or 'HEAD'}"
    with _open_repository(repository, selection.revision, where) as system:
        remote = _list_files(system, selection.path, where)
        listing = "".join(f"{name}\0{file.md5}\n" for name, file in remote.items())
        origin = f"dvc {repository} {selection.path} {hashlib.sha256(listing.encode()).hexdigest()}"
        kept = _intact_files(files, remote)
        if staged_origin(files) != origin or len(kept) < len(remote):
            with writing(files, fingerprint=mark_of(origin)) as work:
                _write(work, remote, Packs(files), kept, partial(_fetch, system, where))
                delete_manifest(files)
        revision = system.repo.get_rev()
    return ResolvedSource(Packs(files), root="", revision=f"git:{revision}")


def _intact_files(files: Path, remote: dict[str, _RemoteFile]) -> set[str]:
    """Return the names of the files that the packs of ``files`` hold as the revision has them."""
    if not staged_origin(files):
        return set()
    packs = Packs(files)
    names = [name for name in remote if name in packs.files]

    def is_intact(name: str) -> bool:
        try:
            return _md5(packs.read(name)) == remote[name].md5
        except OSError:
            return False

    with ThreadPoolExecutor(THREADS) as pool:
        return {name for name, intact in zip(names, pool.map(is_intact, names), strict=True) if intact}


def _write(
    work: Path, remote: dict[str, _RemoteFile], old: Packs, kept: set[str], fetch: Callable[[_RemoteFile, Path], None]
) -> None:
    """Write all files into packs; several are fetched ahead.

    Args:
        work: the folder of the packs, with those that an interrupted run finished.
        remote: the files.
        old: the packs that are replaced.
        kept: the names of the files that are taken from there.
        fetch: copies a file of the repository into a file of this machine.
    """
    names, fetched = list(remote), work / FETCHED
    rmtree(fetched, ignore_errors=True)
    fetched.mkdir()

    def file_of(number: int) -> Path:
        path = fetched / str(number)
        if names[number] not in kept:
            fetch(remote[names[number]], path)
        return path

    with packing(work) as packs, ThreadPoolExecutor(THREADS) as pool, progress_bar("fetching", len(names)) as advance:
        done = packs.resume(names, lambda name, data: _md5(data) == remote[name].md5)
        advance(done)
        for number, path in zip(range(done, len(names)), _in_order(pool, file_of, done, len(names)), strict=True):
            if names[number] in kept:
                content = old.read(names[number])
                packs.add(names[number], len(content), BytesIO(content))
            else:
                with path.open("rb") as stream:
                    packs.add(names[number], path.stat().st_size, stream)
                path.unlink()
            advance(1)
    rmtree(fetched)


def _in_order(pool: ThreadPoolExecutor, task: Callable[[int], Path], start: int, stop: int) -> Iterator[Path]:
    """Yield the results of a task for numbers in order; no more than ``AHEAD`` wait to be taken."""
    waiting: deque[Future[Path]] = deque()
    try:
        for number in range(start, stop):
            waiting.append(pool.submit(task, number))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


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
    _name_proxies_in_lower_case()
    local = Path(repository).exists()
    # For a path, DVC takes None as the working directory; for a URL, it takes HEAD as the name of a branch.
    named = (revision or "HEAD") if local or revision != "HEAD" else None
    try:
        system = DVCFileSystem(repository, rev=named)
        with closing(system):
            yield system
    except DvcException as error:
        reason = one_line(_root_cause(error))
        raise SourceError(f"{where}: {reason}; {_opening_advice(reason)}") from None
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


def _opening_advice(reason: str) -> str:
    """Return what to do about a repository that cannot be opened."""
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return "set SSL_CERT_FILE to the file of the authorities that are trusted; GIT_SSL_CAINFO is not read"
    return "check ingest.source and ingest.dvc.revision, and git's login if it wants one"


def _name_proxies_in_lower_case() -> None:
    """Set the variables of the proxy in lower case where they are missing.

    DVC clones with dulwich, which reads no others: see ``default_urllib3_manager`` and ``check_for_proxy_bypass``
    in ``dulwich/client.py`` of dulwich 1.2. Behind a proxy, libgit2 reaches only ``https://`` (version 1.9).
    """
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        if value := os.environ.get(name.upper()):
            os.environ.setdefault(name, value)


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
        listed = {
            name.removeprefix(f"{root}/"): _RemoteFile(name, info.get("md5") or _md5(system.read_bytes(name)))
            for name, info in sorted(entries.items())
            if name.startswith(f"{root}/") and "/." not in name.removeprefix(root)
        }
    except DvcException:  # DVC opens the repository only now
        raise
    except Exception as error:  # the remotes of DVC raise whatever their libraries do
        _raise_if_refused(error, where)
        raise SourceError(
            f"{where}: cannot be listed ({one_line(error)}); was it pushed, is there room for DVC's notes?"
        ) from None
    for name in listed:
        if problem := name_problem(name):
            raise SourceError(f"{where}: the name {name!r} {problem}; nothing was written, rename or remove it")
    if not listed:
        raise SourceError(f"{where}: no files there; check ingest.dvc.path, it is a folder in the repository")
    return listed


def _fetch(system: Any, where: str, remote: _RemoteFile, path: Path) -> None:
    """Copy a file of the repository into a file of this machine."""
    reason = ""
    for _ in attempts():
        try:
            system.get_file(remote.path, str(path))
            if file_md5(path) != remote.md5:
                raise SourceError(f"{where}: {remote.path} is damaged in DVC's cache or remote; push it again")
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
