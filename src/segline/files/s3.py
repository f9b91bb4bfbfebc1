"""Where stages find the files of a manifest, in folders and in buckets. The only importer of boto3.

Buckets are those of S3 and of what speaks its language; they are read in place.

Endpoint, region and credentials come by boto3's usual chain (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, a role, ...).
Every request is made up to ``ATTEMPTS`` times, and a body that is cut off is continued where it stopped, as long as
the object is still the same.

What goes wrong with one object (it vanished, it changed while it was read, it lies in an archive tier) is an OSError,
so that a stage can name the file and go on. What would go wrong with every object (no credentials, no permission, no
answer) is a SourceError and ends the run.

A folder that a stage wrote may lie in a bucket as well: :func:`upload` brings it there, :func:`download` back.
"""

import errno
import fcntl
import hashlib
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

from segline.errors import SourceError, StageError
from segline.files.atomic import MARK, write_file, write_text
from segline.files.trees import File

SCHEME = "s3://"
ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
PIECE = 64 * 1024
"""Bytes read at once: no more than these are asked for again after a cut."""
CONNECTIONS = 32
THREADS = 8
"""That copy a folder."""
PARTIAL = f"{MARK}.partial"
"""The object that says that a folder is being uploaded, or that its upload was cut off."""
OF_ONE_OBJECT = {
    "NoSuchKey": "it is no longer in the bucket",
    "PreconditionFailed": "it was changed while it was read, or since it was ingested",
    "InvalidRange": "it was changed while it was read",
    "InvalidObjectState": "it lies in an archive tier; restore it",
}
PASSING = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded", "InternalError"}
T = TypeVar("T")


@dataclass(frozen=True)
class Bucket:
    """The objects of a bucket below a prefix, as a tree.

    An object's ETag stands for its content: it changes with it, and is known without a download. So equal data on a
    disk have another checksum.

    Attributes:
        url: ``s3://bucket/prefix``; the prefix ends at a slash, whether it is written or not.
    """

    url: str

    @property
    def where(self) -> str:
        """The URL as it was given."""
        return self.url

    @cached_property
    def files(self) -> dict[str, File]:
        """Every object, sorted by path; those with a hidden name are left out.

        Raises:
            SourceError: the bucket cannot be listed.
        """
        return {path: file for path, file in self.all_files.items() if "/." not in f"/{path}"}

    @cached_property
    def all_files(self) -> dict[str, File]:
        """The same with hidden names.

        Raises:
            SourceError: the bucket cannot be listed.
        """
        found: dict[str, File] = {}
        token = ""
        while True:
            page = self._list(token)
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(self._prefix)
                if path and not path.endswith("/"):
                    found[path] = File(entry["Size"], entry["ETag"].strip('"'))
            token = page.get("NextContinuationToken", "")
            if not token:
                return dict(sorted(found.items()))

    def read(self, path: str, checksum: str = "") -> bytes:
        """An object's content. Raises OSError when it cannot be read, or has another checksum than the one given."""
        content = BytesIO()
        self._copy(path, checksum, content)
        return content.getvalue()

    def fetch(self, path: str, file: Path, checksum: str = "") -> None:
        """Make an object a file, whole or not at all. Raises OSError as :meth:`read` does."""

        def fill(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                self._copy(path, checksum, stream)

        write_file(file, fill)

    def _copy(self, path: str, checksum: str, content: IO[bytes]) -> None:
        """An object's content, at the end of what is there; a stream that is empty at first."""
        from botocore.exceptions import FlexibleChecksumError

        wanted = f'"{checksum.removeprefix("etag:").rpartition("-")[0]}"' if checksum else ""
        etag = wanted

        def forget() -> None:
            content.seek(0)
            content.truncate()

        def go_on() -> None:
            nonlocal etag
            done = content.tell()
            same = {"IfMatch": etag} if done or wanted else {}
            rest = {"Range": f"bytes={done}-"} if done else {}
            answer = _client().get_object(**self._address(path), **same, **rest)
            with closing(answer["Body"]) as body:
                if same and answer["ETag"] != etag:  # a server that does not know If-Match
                    raise OSError(errno.EIO, OF_ONE_OBJECT["PreconditionFailed"], path)
                if "ContentRange" not in answer:  # the whole again, from a server that does not know Range
                    forget()
                etag = answer["ETag"]
                try:
                    while piece := body.read(PIECE):
                        content.write(piece)
                except FlexibleChecksumError:
                    forget()
                    raise

        self._patiently(go_on, path)

    def head(self, path: str, size: int) -> bytes:
        """The first ``size`` bytes of an object, or all when it is shorter. Raises OSError when it cannot be read."""
        from botocore.exceptions import ClientError

        def begin() -> bytes:
            try:
                answer = _client().get_object(**self._address(path), Range=f"bytes=0-{size - 1}")
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":  # the object is empty
                    return b""
                raise
            with closing(answer["Body"]) as body:
                return bytes(body.read(size))

        return self._patiently(begin, path)

    def write(self, path: str, file: Path) -> None:
        """Make a file an object, whole or not at all. Raises OSError when it cannot be written."""

        def put() -> None:
            with file.open("rb") as stream:
                _client().put_object(**self._address(path), Body=stream)

        self._patiently(put, path)

    def remove(self, path: str) -> None:
        """Delete an object, if it is there. Raises OSError when it cannot be deleted."""
        self._patiently(lambda: _client().delete_object(**self._address(path)), path)

    def has(self, path: str) -> bool:
        """Whether an object is there now."""
        return bool(self.stamp(path))

    def stamp(self, path: str) -> str:
        """The ETag that an object has now; empty when there is none."""
        words = {"Bucket": self._name, "Prefix": f"{self._prefix}{path}", "MaxKeys": 1}
        page = self._patiently(lambda: _client().list_objects_v2(**words), "")
        return "".join(entry["ETag"] for entry in page.get("Contents", ()) if entry["Key"] == words["Prefix"])

    def checksum(self, path: str) -> str:
        """``etag:`` with the ETag and the size. Raises OSError when there is no such object."""
        if path not in self.all_files:
            raise OSError(errno.ENOENT, OF_ONE_OBJECT["NoSuchKey"], path)
        file = self.all_files[path]
        return f"etag:{file.stamp}-{file.size}"

    @property
    def _prefix(self) -> str:
        prefix = self.url.removeprefix(SCHEME).partition("/")[2].strip("/")
        return f"{prefix}/" if prefix else ""

    @property
    def _name(self) -> str:
        return self.url.removeprefix(SCHEME).partition("/")[0]

    def _address(self, path: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": f"{self._prefix}{path}"}

    def _list(self, token: str) -> Any:
        """A page of the listing, and in it the token of the next."""
        words = {"Bucket": self._name, "Prefix": self._prefix} | ({"ContinuationToken": token} if token else {})
        return self._patiently(lambda: _client().list_objects_v2(**words), "")

    def _patiently(self, request: Callable[[], T], path: str) -> T:
        """What the request returns in the end; ``path`` is the object that it asks for, empty for the bucket."""
        from botocore.exceptions import BotoCoreError, ClientError

        for pause in pauses():
            time.sleep(pause)
            try:
                return request()
            except (BotoCoreError, ClientError) as error:
                self._refuse_lasting(error, path)
                reason = one_line(error)
        raise SourceError(
            f"{self.url}: no usable answer in {ATTEMPTS} attempts ({reason}); is AWS_ENDPOINT_URL right? "
            "If it is, run the same command again later"
        )

    def _refuse_lasting(self, error: Exception, path: str) -> None:
        """Raise what to tell of a failure that will not pass; return when it may."""
        from botocore import exceptions as kinds

        if isinstance(error, kinds.ClientError):
            self._refuse_answer(error, path)
        elif isinstance(error, kinds.NoCredentialsError | kinds.PartialCredentialsError | kinds.ProfileNotFound):
            raise SourceError(
                f"{self.url}: {one_line(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                "(on Kubernetes in the secret segline-s3), or AWS_PROFILE"
            ) from None
        elif not isinstance(
            error,
            kinds.HTTPClientError | kinds.ConnectionError | kinds.IncompleteReadError | kinds.FlexibleChecksumError,
        ):
            raise SourceError(f"{self.url}: {one_line(error)}; check the URL and the configuration of AWS") from None

    def _refuse_answer(self, error: Any, path: str) -> None:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response["Error"]["Code"]
        if path and code in OF_ONE_OBJECT:
            raise OSError(errno.EIO, OF_ONE_OBJECT[code], path) from None
        if status >= 500 or status == 429 or code in PASSING:
            return
        if code == "NoSuchBucket":
            raise SourceError(
                f"{self.url}: there is no bucket {self._name!r}; check its name and AWS_ENDPOINT_URL"
            ) from None
        if status in (401, 403) or "Token" in code:
            raise SourceError(
                f"{self.url}: access denied ({code}); check the credentials, and their permission to list and to read"
            ) from None
        raise SourceError(f"{self.url}: {one_line(error)}; check the URL and the configuration of AWS") from None


def local_file(place: str, keep: Path) -> Path:
    """A file of this machine, or an object of a bucket, which is copied into ``keep`` under a name by its content.

    Args:
        place: a path, or ``s3://bucket/key``.
        keep: the folder to copy into.

    Raises:
        SourceError: it is not there, or cannot be read.
    """
    if not place.startswith(SCHEME):
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise SourceError(f"{place!r} is not a file (looked from {Path.cwd()}); mend the path")
        return path
    folder, _, name = place.rpartition("/")
    if not name or folder + "/" == SCHEME:
        raise SourceError(f"{place} names no object; expected s3://bucket/key")
    try:
        content = Bucket(folder).read(name)
    except OSError as error:
        raise SourceError(f"{place} cannot be read ({error.strerror}); mend the address") from None
    path = keep.resolve() / f"{hashlib.sha256(content).hexdigest()[:16]}-{name}"
    if not path.is_file():
        write_file(path, lambda temporary: temporary.write_bytes(content))
    return path


def cache() -> Path:
    """Where folders of buckets are kept on this machine: ``SEGLINE_CACHE``, else a folder for temporary files."""
    return Path(os.environ.get("SEGLINE_CACHE") or Path(tempfile.gettempdir(), "segline-cache")).resolve()


def download(url: str, folder: Path | None = None) -> Path:
    """A folder that lies in a bucket, as one of this machine; all processes of the machine share it.

    It is named by its address and content: what is there is not fetched again, and what changes is another folder.

    Args:
        url: ``s3://bucket/prefix``.
        folder: where another machine has it; it has to be the same content.

    Raises:
        SourceError: there is nothing, it is not whole, it cannot be read, or it is not what ``folder`` had.
    """
    if folder and folder.is_dir():
        return folder
    bucket = Bucket(url.rstrip("/"))
    files = bucket.all_files
    if not files:
        raise SourceError(f"{url}: there is nothing below it; mend the address, or run the stage that writes it")
    if PARTIAL in files:
        raise SourceError(f"{url} is being written, or that was cut off; run the stage that writes it again")
    listing = json.dumps([bucket.url, [[path, file.stamp, file.size] for path, file in files.items()]])
    place = (folder.parent if folder else cache()) / hashlib.sha256(listing.encode()).hexdigest()[:16]
    if folder and place != folder:
        raise SourceError(f"{url} was changed since this run began; run the same command again")
    with alone(place):
        if not place.is_dir():
            work = place.with_name(f"{place.name}.partial")
            work.mkdir(exist_ok=True)
            _at_once(partial(_fetch, bucket, work), files, url)
            write_text(_note(place), bucket.url)
            work.rename(place)
    return place


def origin(folder: Path) -> str:
    """The URL that a folder was downloaded from; empty for any other folder."""
    note = _note(folder.resolve())
    return note.read_text() if folder.resolve().parent == cache() and note.is_file() else ""


def upload(folder: Path, url: str) -> None:
    """Make the prefix of a bucket hold the files of a folder and no others; what is there already is not sent.

    Args:
        folder: of this machine.
        url: ``s3://bucket/prefix``, empty or written by this function before.

    Raises:
        SourceError: the bucket cannot be listed or written.
        StageError: below the prefix lies what Segline did not write.
    """
    bucket = Bucket(url.rstrip("/"))
    there = bucket.all_files
    if there and not {MARK, PARTIAL} & set(there):
        raise StageError(f"{url} holds objects that segline did not write; give --out another prefix")
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    missing = [name for name, path in here.items() if name not in there or not is_same(path, there[name])]
    over = set(there) - set(here) - {MARK, PARTIAL}
    if not missing and not over and MARK in there and PARTIAL not in there:
        return
    with tempfile.NamedTemporaryFile() as empty:
        _at_once(lambda name: bucket.write(name, Path(empty.name)), [PARTIAL], url)
        _at_once(lambda name: bucket.write(name, here[name]), missing, url)
        _at_once(bucket.remove, over, url)
        _at_once(lambda name: bucket.write(name, here.get(name, Path(empty.name))), [MARK], url)
        _at_once(bucket.remove, [PARTIAL], url)


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.url")


def _fetch(bucket: Bucket, work: Path, name: str) -> None:
    if ".." in name.split("/"):
        raise OSError(errno.EINVAL, "its name leads out of the folder", name)
    if not is_same(work / name, bucket.all_files[name]):
        bucket.fetch(name, work / name, bucket.checksum(name))


def is_same(path: Path, file: File) -> bool:
    """Whether a file has an object's content: an object that was sent in one piece has its MD5 as ETag."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest() == file.stamp


def _at_once(task: Callable[[str], None], names: Iterable[str], url: str) -> None:
    """Do something with every object, several at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for done in [pool.submit(task, name) for name in names]:
                done.result()
        except OSError as error:
            raise SourceError(f"{url}: {error.filename}: {error.strerror}; mend that and run again") from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine makes ``path``, and make the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = cache() / "locks" / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def pauses() -> Iterator[float]:
    """The seconds to wait before each of the attempts: none, then twice as long every time, with jitter."""
    yield 0.0
    for attempt in range(ATTEMPTS - 1):
        yield FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1)


_CLIENTS: dict[int, Any] = {}


def _client() -> Any:
    """The client of this process: its threads share it, but it does not outlive a fork."""
    process = os.getpid()
    if process not in _CLIENTS:
        made = _connect()
        if _CLIENTS.setdefault(process, made) is not made:  # another thread was faster
            made.close()
    return _CLIENTS[process]


def _connect() -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},  # the attempts are counted here
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise SourceError(f"AWS_ENDPOINT_URL: {one_line(error)}; expected such as https://s3.example.org") from None


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
