"""Uploads in parts: S3 takes at most 5 GiB in one request, and a part that is cut off is sent again alone."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

THRESHOLD_BYTES = 256 * 2**20
"""Files above this size are sent in parts."""
PART_BYTES = 16 * 2**20
"""The size of a part, which is in memory while it is sent."""
MAX_PARTS = 10_000
T = TypeVar("T")


class Retry(Protocol):
    """A function that repeats a request."""

    def __call__(self, request: Callable[[], T], /) -> T:
        """Send the request until it succeeds, and return its answer."""


def part_bytes(size: int) -> int:
    """Return the size of the parts of a file, so that there are not too many."""
    return PART_BYTES * max(1, -(-size // (PART_BYTES * MAX_PARTS)))


def etag(path: Path) -> str:
    """Return the ETag of a file that :func:`upload` sent: the MD5 over the parts' MD5, and their number."""
    size, digests = part_bytes(path.stat().st_size), []
    with path.open("rb") as stream:
        while part := stream.read(size):
            digests.append(hashlib.md5(part, usedforsecurity=False).digest())
    return _join(digests)


def upload(client: Any, address: Mapping[str, str], file: Path, retry: Retry) -> None:
    """Copy a file into an object, which has the new content when the last part is there, else the old.

    Args:
        client: boto3's client.
        address: The bucket and the key of the object.
        file: The file, which is not empty.
        retry: The function that sends each request.

    Raises:
        SourceError: As ``retry`` does. The parts are deleted then; after a kill the bucket keeps them until a rule of
            its lifecycle deletes them.
        OSError: The same, or the file cannot be read.
    """
    number = retry(lambda: client.create_multipart_upload(**address))["UploadId"]
    named = {**address, "UploadId": number}
    try:
        parts, digests = _send_parts(client, named, file, retry)
        retry(lambda: _complete(client, named, parts, _join(digests)))
    except BaseException:
        with suppress(Exception):
            client.abort_multipart_upload(**named)
        raise


def _send_parts(
    client: Any, named: Mapping[str, str], file: Path, retry: Retry
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Send all parts in order; return their numbers and ETags, and their MD5."""
    parts, digests, size = [], [], part_bytes(file.stat().st_size)
    with file.open("rb") as stream:
        while content := stream.read(size):
            digests.append(hashlib.md5(content, usedforsecurity=False).digest())
            request = _Part(client, named, len(digests), content)
            parts.append({"PartNumber": request.number, "ETag": retry(request)["ETag"]})
    return parts, digests


class _Part:
    """The request that sends one part."""

    def __init__(self, client: Any, named: Mapping[str, str], number: int, content: bytes) -> None:
        self.client, self.named, self.number, self.content = client, named, number, content

    def __call__(self) -> Any:
        return self.client.upload_part(**self.named, PartNumber=self.number, Body=self.content)


def _complete(client: Any, named: Mapping[str, str], parts: list[dict[str, Any]], expected: str) -> None:
    """Make the object of its parts; an upload that is gone has succeeded if the object is what was sent."""
    try:
        client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    except client.exceptions.NoSuchUpload:
        head = client.head_object(Bucket=named["Bucket"], Key=named["Key"])
        if head["ETag"].strip('"') != expected:
            raise


def _join(digests: list[bytes]) -> str:
    joined = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(digests)}"
