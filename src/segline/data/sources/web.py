"""``https://`` and ``http://``: an archive that is downloaded, then unpacked.

A download that was cut off or killed continues where it stopped, if the server supports that and the file is the same.
"""

import http.client
import json
import shutil
import ssl
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segline.config.sections import Ingest
from segline.data.sources.archive import mark_prefix, unpack, verified_hash
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import StagingError, check_free_space, staged_origin, write_failed
from segline.errors import SourceError, clip, one_line
from segline.files.atomic import MARK, write_text
from segline.files.http import RedirectError, open_url
from segline.files.packs import Packs
from segline.files.retry import ATTEMPTS, attempts
from segline.progress import log, progress_bar
from segline.redaction import redact

CHUNK_BYTES = 64 * 1024
MEBIBYTE = 1024 * 1024
TIMEOUT_S = 60
TRANSIENT_STATUSES = (408, 425, 429)
"""HTTP statuses below 500 that another attempt may not meet."""


@dataclass(frozen=True)
class Version:
    """The version of the content at a URL; without an ETag or a date, versions cannot be told apart.

    Attributes:
        url: the URL, without the secrets in it.
        etag: the header ``ETag``; empty if there was none.
        modified: the header ``Last-Modified``; empty if there was none.
        size: the size in bytes; -1 if the server did not give it.
    """

    url: str
    etag: str
    modified: str
    size: int

    @property
    def validator(self) -> str:
        """The value for the header ``If-Range``; empty if there is none."""
        return self.modified if self.etag.startswith("W/") or not self.etag else self.etag


class _NotModifiedError(Exception):
    """The URL still has the version that was unpacked before."""


class _TransientError(Exception):
    """The server did not answer, or not to the end; another attempt may succeed."""


def open_web(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Return the archive at a URL, unpacked into ``files`` unless it is there already."""
    url, expected = settings.source, settings.sha256.lower()
    if not _host(url):
        raise SourceError(f"ingest.source: {url!r} names no server; give such as https://example.org/data.zip")
    if not expected and url.startswith("http://"):
        raise SourceError(f"ingest.sha256: {url} is not https, so the archive must be checked; give its SHA-256")
    mark = staged_origin(files)
    if not (expected and mark.startswith(f"{mark_prefix(expected)}\n")):
        mark = _fetch(settings, files, mark)
    digest = mark.partition("\n")[0].removeprefix(mark_prefix(""))
    return ResolvedSource(Packs(files), root="", revision=f"sha256:{digest}")


def _fetch(settings: Ingest, files: Path, old_mark: str) -> str:
    """Download and unpack, unless the URL still has the version in ``old_mark``; return the mark of the files."""
    url = settings.source
    has_checksum = bool(settings.sha256)
    known = "" if has_checksum else old_mark.partition("\n")[2]
    download = Download(url, files.with_name(f"{files.name}.download"), known, allow_http=has_checksum)
    try:
        archive = download.run()
    except _NotModifiedError:
        return old_mark
    try:
        digest = verified_hash(archive, url, settings.sha256)
        if not settings.sha256:
            log(f"ingest: {url} was not checked against a SHA-256; to have it checked, set ingest.sha256 to {digest}")
        mark = f"{mark_prefix(digest)}\n{download.version}"
        unpack(archive, url, files, mark, max_ratio=settings.max_unpack_ratio)
    except SourceError as error:
        if not isinstance(error, StagingError):
            download.delete()
        raise
    download.delete()
    return mark


@dataclass(frozen=True)
class Download:
    """A file that is being downloaded.

    Attributes:
        url: the URL of the file.
        folder: the folder with the bytes downloaded so far, and with their version.
        known: the version, as :attr:`version` gives it, that is unpacked already and not downloaded again.
        allow_http: whether the server may redirect to an address that is not https.
    """

    url: str
    folder: Path
    known: str
    allow_http: bool

    def run(self) -> Path:
        """Download the missing bytes and return the file. An attempt that got a MiB further starts the count anew.

        Raises:
            SourceError: the server refuses, does not answer, or the disk is full.
        """
        reason = ""
        remaining = attempts()
        while next(remaining, None):
            before = self._size
            try:
                self._resume()
                return self._path
            except _TransientError as error:
                reason = one_line(error)
            if self._size >= before + MEBIBYTE:
                remaining = attempts()
        raise SourceError(f"{self.url}: no whole answer in {ATTEMPTS} attempts ({reason}); run the same command again")

    @property
    def version(self) -> str:
        """The version of the downloaded bytes, as JSON text; empty if there are none."""
        try:
            return self._version_file.read_text(encoding="utf-8")
        except OSError:
            return ""

    def delete(self) -> None:
        """Delete the downloaded bytes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return self.folder / "archive"

    @property
    def _version_file(self) -> Path:
        return self.folder / "version.json"

    @property
    def _size(self) -> int:
        return self._path.stat().st_size if self._path.is_file() else 0

    def _resumable(self) -> Version | None:
        """Return the version of the downloaded bytes, if the rest of it can be requested."""
        try:
            version = Version(**json.loads(self.version))
        except (ValueError, TypeError):
            return None
        same = version.url == redact(self.url) and version.validator
        return version if same and 0 < self._size <= version.size else None

    def _resume(self) -> None:
        partial = self._resumable()
        if partial and self._size == partial.size:
            return
        headers = {"Range": f"bytes={self._size}-", "If-Range": partial.validator} if partial else {}
        with _open(self.url, headers, allow_http=self.allow_http) as response:
            is_rest = partial and response.headers.get("Content-Range", "").startswith(f"bytes {self._size}-")
            version = partial if partial and is_rest else self._start_over(response)
            self._append(response, version.size)
        if version.size not in (-1, self._size):
            raise _TransientError(f"cut off after {self._size} of {version.size} bytes")

    def _start_over(self, response: Any) -> Version:
        """Delete the bytes of another version, and record the version of the response."""
        version = Version(
            redact(self.url),
            response.headers.get("ETag", ""),
            response.headers.get("Last-Modified", ""),
            -1 if response.length is None else response.length,
        )
        text = json.dumps(asdict(version))
        if version.validator and text == self.known:
            raise _NotModifiedError
        self.delete()
        self.folder.mkdir(parents=True)
        write_text(self.folder / MARK, "download")
        check_free_space(version.size, self.url, self.folder)
        write_text(self._version_file, text)
        return version

    def _append(self, response: Any, size: int) -> None:
        try:
            with progress_bar("downloading, MiB", max(size, 0) // MEBIBYTE) as advance, self._path.open("ab") as stream:
                advance(self._size // MEBIBYTE)
                while chunk := _read(response):
                    stream.write(chunk)
                    advance(stream.tell() // MEBIBYTE - (stream.tell() - len(chunk)) // MEBIBYTE)
        except OSError as error:
            raise write_failed(self._path, error) from None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _open(url: str, headers: dict[str, str], *, allow_http: bool) -> Any:
    try:
        request = urllib.request.Request(url, headers=headers)
        return open_url(request, redirects="any" if allow_http else "https", timeout_s=TIMEOUT_S)
    except RedirectError as error:
        advice = "set ingest.sha256" if str(error) == "http" and not allow_http else "give the address of the archive"
        raise SourceError(f"{url} leads to an address of {error}, which is not https; {advice}") from None
    except urllib.error.HTTPError as error:
        error.close()
        answer = clip(f"{error.code} {' '.join(str(error.reason).split())}")
        if error.code >= 500 or error.code in TRANSIENT_STATUSES:
            raise _TransientError(answer) from None
        raise SourceError(f"{url}: the server says {answer}; check the URL") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise SourceError(f"ingest.source: {url!r} is no valid URL ({one_line(error)}); fix it") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise SourceError(f"{url}: {reason.verify_message}; fix the certificate or set SSL_CERT_FILE") from None
        raise _TransientError(one_line(error)) from None


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(CHUNK_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(one_line(error)) from None
