"""Copies between buckets and this machine, and the tree of files that a manifest refers to.

A stage's output folder may be in a bucket: :func:`upload` copies it there, :func:`download` copies it back.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from segline.errors import SourceError, StageError
from segline.files import multipart
from segline.files.atomic import MARK, write_file, write_text
from segline.files.cache import cache_dir
from segline.files.hashing import file_md5
from segline.files.locks import machine_lock
from segline.files.paths import safe_path
from segline.files.s3 import SCHEME, Bucket
from segline.files.trees import File

THREADS = 8
"""The number of threads that copy a folder."""
PARTIAL = f"{MARK}.partial"
"""The object that exists while a folder is being uploaded, and after an upload that was cut off."""


def local_file(address: str, folder: Path) -> Path:
    """Return the path of a file; an object of a bucket is copied into ``folder`` under a name with its hash.

    Args:
        address: a path of this machine, or ``s3://bucket/key``.
        folder: the folder for the copy.

    Raises:
        SourceError: the file does not exist, or cannot be read.
    """
    if not address.startswith(SCHEME):
        path = Path(address).expanduser().resolve()
        if not path.is_file():
            raise SourceError(f"{address!r} is not a file (looked from {Path.cwd()}); fix the path")
        return path
    url, _, name = address.rpartition("/")
    if not name or url + "/" == SCHEME:
        raise SourceError(f"{address} names no object; expected s3://bucket/key")
    try:
        content = Bucket(url).read(name)
    except OSError as error:
        raise SourceError(f"{address} cannot be read ({error.strerror}); fix the address") from None
    path = folder.resolve() / f"{hashlib.sha256(content).hexdigest()[:16]}-{name}"
    if not path.is_file():
        write_file(path, lambda temporary: temporary.write_bytes(content))
    return path


def download(url: str, folder: Path | None = None) -> Path:
    """Copy a folder of a bucket into the cache, which all processes of this machine share, and return the copy.

    The name of the copy is a hash of the URL and the content: the same content is fetched once, and other content
    is another folder.

    Args:
        url: ``s3://bucket/prefix``.
        folder: the copy that another machine has of it; if this machine lacks it, the same one is made here.

    Raises:
        SourceError: the folder is empty, incomplete or unreadable, or differs from what ``folder`` was copied from.
    """
    if folder and folder.is_dir():
        return folder
    bucket = Bucket(url.rstrip("/"))
    files = bucket.all_files
    if not files:
        raise SourceError(f"{url}: there is nothing below it; fix the address, or run the stage that writes it")
    if PARTIAL in files:
        raise SourceError(f"{url} is being written, or that was cut off; run the stage that writes it again")
    listing = json.dumps([bucket.url, [[path, file.stamp, file.size] for path, file in files.items()]])
    copy = (folder.parent if folder else cache_dir()) / hashlib.sha256(listing.encode()).hexdigest()[:16]
    if folder and copy != folder:
        raise SourceError(f"{url} was changed since this run began; run the same command again")
    with machine_lock(copy):
        if not copy.is_dir():
            work = copy.with_name(f"{copy.name}.partial")
            work.mkdir(exist_ok=True)
            _for_each(partial(_fetch, bucket, work), files, url)
            write_text(_origin_file(copy), bucket.url)
            work.rename(copy)
    return copy


def origin(folder: Path) -> str:
    """Return the URL that a folder was downloaded from; empty for any other folder."""
    file = _origin_file(folder.resolve())
    return file.read_text(encoding="utf-8") if folder.resolve().parent == cache_dir() and file.is_file() else ""


def upload(folder: Path, url: str) -> None:
    """Make a prefix of a bucket hold exactly the files of a folder; files that are already there are not sent.

    Args:
        folder: a folder of this machine.
        url: ``s3://bucket/prefix``, empty or written by this function before.

    Raises:
        SourceError: the bucket cannot be listed or written.
        StageError: below the prefix are objects that Segline did not write.
    """
    bucket = Bucket(url.rstrip("/"))
    remote = bucket.all_files
    if remote and not {MARK, PARTIAL} & set(remote):
        raise StageError(f"{url} holds objects that segline did not write; give --out another prefix")
    local = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    missing = [name for name, path in local.items() if name not in remote or not matches_etag(path, remote[name])]
    extra = set(remote) - set(local) - {MARK, PARTIAL}
    if not missing and not extra and MARK in remote and PARTIAL not in remote:
        return
    with tempfile.NamedTemporaryFile() as empty:
        _for_each(lambda name: bucket.write(name, Path(empty.name)), [PARTIAL], url)
        _for_each(lambda name: bucket.write(name, local[name]), missing, url)
        _for_each(bucket.remove, extra, url)
        _for_each(lambda name: bucket.write(name, local.get(name, Path(empty.name))), [MARK], url)
        _for_each(bucket.remove, [PARTIAL], url)


def matches_etag(path: Path, file: File) -> bool:
    """Return whether a file has the content of an object that Segline sent, by its ETag.

    The ETag of an object sent whole is its MD5, that of one sent in parts is made from theirs.
    """
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.stamp == (multipart.etag(path) if "-" in file.stamp else file_md5(path))


def _origin_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.url")


def _fetch(bucket: Bucket, work: Path, name: str) -> None:
    path = safe_path(work, name, bucket.url)
    if not matches_etag(path, bucket.all_files[name]):
        bucket.fetch(name, path, bucket.checksum(name))


def _for_each(task: Callable[[str], None], names: Iterable[str], url: str) -> None:
    """Run a task for every object, in ``THREADS`` threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for future in [pool.submit(task, name) for name in names]:
                future.result()
        except OSError as error:
            raise SourceError(f"{url}: {error.filename}: {error.strerror}; fix that and run again") from None
        finally:
            pool.shutdown(cancel_futures=True)
