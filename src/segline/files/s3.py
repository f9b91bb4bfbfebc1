"""Buckets of S3, and of servers with the same interface. The only importer of boto3.

Endpoint, region and credentials come from boto3's usual chain (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, a role, ...), and
so does the style of addresses, from the file ``AWS_CONFIG_FILE``; ``AWS_REQUEST_PAYER=requester`` is Segline's own.
A request that fails for a passing reason is repeated (see :mod:`segline.files.retry`), and a body that is cut off is
continued where it stopped, as long as the object is still the same.

A problem with one object (it was deleted, it changed while it was read, it is in an archive tier) is an OSError, so
that a stage can name the file and go on. A problem that affects every object (no credentials, no permission, no
answer) is a SourceError and ends the run.
"""

import errno
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

from segline.errors import SourceError, one_line
from segline.files import multipart
from segline.files.atomic import write_file
from segline.files.retry import ATTEMPTS, attempts
from segline.files.s3_errors import advice_after_attempts, code_and_status, permanent_reason, requester_pays
from segline.files.trees import File

SCHEME = "s3://"
CHUNK_BYTES = 64 * 1024
"""The bytes read at once; after a cut, fewer than these are requested a second time."""
CONNECTIONS = 32
OBJECT_ERRORS = {
    "NoSuchKey": "it is no longer in the bucket",
    "PreconditionFailed": "it was changed while it was read, or since it was ingested",
    "InvalidRange": "it was changed while it was read",
    "InvalidObjectState": "it is in an archive tier; restore it",
}
"""The error codes that concern one object, with their meaning."""
STATUS_CODES = {412: "PreconditionFailed", 416: "InvalidRange"}
"""The codes of answers that have a status and no body, as some servers and every HEAD give them."""
T = TypeVar("T")


@dataclass(frozen=True)
class Bucket:
    """The objects of a bucket below a prefix, as a :class:`segline.files.trees.Tree`.

    The checksum of an object is its ETag, which changes with the content and is known without a download. So the same
    data have another checksum on a disk.

    Attributes:
        url: ``s3://bucket/prefix``; a slash is added to the prefix if it has none at its end.
    """

    url: str

    @property
    def where(self) -> str:
        """The URL as it was given."""
        return self.url

    @cached_property
    def files(self) -> dict[str, File]:
        """All objects but hidden ones, sorted by path.

        Raises:
            SourceError: the bucket cannot be listed.
        """
        return {path: file for path, file in self.all_files.items() if "/." not in f"/{path}"}

    @cached_property
    def all_files(self) -> dict[str, File]:
        """All objects, hidden ones included, sorted by path.

        Raises:
            SourceError: the bucket cannot be listed.
        """
        listed: dict[str, File] = {}
        token = ""
        while True:
            page = self._list(token)
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(self._prefix)
                if path and not path.endswith("/"):
                    listed[path] = File(entry["Size"], entry["ETag"].strip('"'))
            token = page.get("NextContinuationToken", "")
            if not token:
                return dict(sorted(listed.items()))

    def read(self, path: str, checksum: str = "") -> bytes:
        """Return an object's content. Raises OSError if it cannot be read, or if ``checksum`` is given and differs."""
        content = BytesIO()
        self._copy(path, checksum, content)
        return content.getvalue()

    def fetch(self, path: str, file: Path, checksum: str = "") -> None:
        """Copy an object into a file atomically. Raises OSError as :meth:`read` does."""

        def fill(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                self._copy(path, checksum, stream)

        write_file(file, fill)

    def _copy(self, path: str, checksum: str, content: IO[bytes]) -> None:
        """Write an object's content into an empty stream."""
        from botocore.exceptions import FlexibleChecksumError

        expected = f'"{checksum.removeprefix("etag:").rpartition("-")[0]}"' if checksum else ""
        etag = expected

        def start_over() -> None:
            content.seek(0)
            content.truncate()

        def read_rest() -> None:
            nonlocal etag
            done = content.tell()
            condition = {"IfMatch": etag} if done or expected else {}
            rest = {"Range": f"bytes={done}-"} if done else {}
            answer = _client().get_object(**self._address(path), **condition, **rest)
            with closing(answer["Body"]) as body:
                if condition and answer["ETag"] != etag:  # a server that does not know If-Match
                    raise OSError(errno.EIO, OBJECT_ERRORS["PreconditionFailed"], path)
                if "ContentRange" not in answer:  # the whole object again, from a server that does not know Range
                    start_over()
                etag = answer["ETag"]
                try:
                    while chunk := body.read(CHUNK_BYTES):
                        content.write(chunk)
                except FlexibleChecksumError:
                    start_over()
                    raise

        self._retry(read_rest, path)

    def head(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of an object, or all of a shorter one. Raises OSError if it is unreadable."""
        from botocore.exceptions import ClientError

        def read_start() -> bytes:
            try:
                answer = _client().get_object(**self._address(path), Range=f"bytes=0-{size - 1}")
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":  # the object is empty
                    return b""
                raise
            with closing(answer["Body"]) as body:
                return bytes(body.read(size))

        return self._retry(read_start, path)

    def write(self, path: str, file: Path) -> None:
        """Copy a file into an object, which S3 does atomically. Raises OSError if the object cannot be written."""
        if file.stat().st_size > multipart.THRESHOLD_BYTES:
            multipart.upload(_client(), self._address(path), file, partial(self._retry, path=path))
            return

        def put() -> None:
            with file.open("rb") as stream:
                _client().put_object(**self._address(path), Body=stream)

        self._retry(put, path)

    def remove(self, path: str) -> None:
        """Delete an object, if it exists. Raises OSError if it cannot be deleted."""
        self._retry(lambda: _client().delete_object(**self._address(path)), path)

    def exists(self, path: str) -> bool:
        """Return whether an object exists now."""
        return bool(self.etag(path))

    def etag(self, path: str) -> str:
        """Return the ETag that an object has now; empty if there is no such object."""
        query = {"Bucket": self._name, "Prefix": f"{self._prefix}{path}", "MaxKeys": 1}
        page = self._retry(lambda: _client().list_objects_v2(**query), "")
        return "".join(entry["ETag"] for entry in page.get("Contents", ()) if entry["Key"] == query["Prefix"])

    def checksum(self, path: str) -> str:
        """Return ``etag:`` with the ETag and the size. Raises OSError if there is no such object."""
        if path not in self.all_files:
            raise OSError(errno.ENOENT, OBJECT_ERRORS["NoSuchKey"], path)
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
        """Return a page of the listing; it holds the token of the next page."""
        query = {"Bucket": self._name, "Prefix": self._prefix} | ({"ContinuationToken": token} if token else {})
        return self._retry(lambda: _client().list_objects_v2(**query), "")

    def _retry(self, request: Callable[[], T], path: str) -> T:
        """Send a request until it succeeds; ``path`` is the object that it is about, empty for the bucket."""
        from botocore.exceptions import BotoCoreError, ClientError

        for _ in attempts():
            try:
                return request()
            except (BotoCoreError, ClientError, RecursionError) as error:
                self._raise_if_permanent(error, path)
                reason, advice = one_line(error), advice_after_attempts(error)
        raise SourceError(f"{self.url}: no usable answer in {ATTEMPTS} attempts ({reason}); {advice}")

    def _raise_if_permanent(self, error: Any, path: str) -> None:
        """Raise a SourceError or OSError for an error that another attempt would meet again."""
        code, status = code_and_status(error)
        meaning = OBJECT_ERRORS.get(code) or OBJECT_ERRORS.get(STATUS_CODES.get(status, ""))
        if path and meaning:
            raise OSError(errno.EIO, meaning, path) from None
        reason = permanent_reason(error)
        if code == "NoSuchBucket":
            reason = f"there is no bucket {self._name!r}; check its name and AWS_ENDPOINT_URL"
        if reason:
            raise SourceError(f"{self.url}: {reason}") from None


_CLIENTS: dict[int, Any] = {}


def _client() -> Any:
    """Return the client of this process. Its threads share it; a forked process makes its own."""
    process = os.getpid()
    if process not in _CLIENTS:
        client = _connect()
        if _CLIENTS.setdefault(process, client) is not client:  # another thread was faster
            client.close()
    return _CLIENTS[process]


def _connect() -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},  # Bucket._retry counts the attempts
    )
    try:
        session = boto3.session.Session()
        # The other SDKs of AWS read AWS_REGION, boto3 does not.
        client = session.client("s3", config=config, region_name=session.region_name or os.environ.get("AWS_REGION"))
    except ValueError as error:
        raise SourceError(f"AWS_ENDPOINT_URL: {one_line(error)}; expected such as https://s3.example.org") from None
    if requester_pays():
        client.meta.events.register("before-call.s3", _let_requester_pay)
    return client


def _let_requester_pay(params: Any, **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"
