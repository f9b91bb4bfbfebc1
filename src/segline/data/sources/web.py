"""``https://`` and ``http://``: an archive that is downloaded, then unpacked.

A download that was cut, or killed, continues where it stopped, if the server can and still has the same file.
"""

import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segline.config.sections import Ingest
from segline.data.sources.archive import checked_hash, mark_of, unpack
from segline.data.sources.kept import NoRoomError, kept_from, no_room, refuse_too_big
from segline.data.sources.opened import ResolvedSource
from segline.errors import SourceError
from segline.files.atomic import MARK, write_text
from segline.files.s3 import ATTEMPTS, one_line, pauses
from segline.files.trees import Folder
from segline.progress import bar, log

PIECE = 64 * 1024
MEBIBYTE = 1024 * 1024
SILENCE_S = 60
PASSING = (408, 425, 429)


@dataclass(frozen=True)
class Version:
    """Which content a URL had; without an ETag or a date it cannot be told from any other.

    Attributes:
        size: in bytes; -1 when the server did not say.
    """

    url: str
    etag: str
    modified: str
    size: int

    @property
    def validator(self) -> str:
        """What ``If-Range`` may be given; empty when there is nothing."""
        return self.modified if self.etag.startswith("W/") or not self.etag else self.etag


class _UnchangedError(Exception):
    """The URL has the version that was unpacked before."""


class _CutError(Exception):
    """The server did not answer, or not to the end; it may do better."""


def open_web(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """The archive at a URL, unpacked into ``files`` unless it is there already."""
    url, wanted = settings.source, settings.sha256.lower()
    if not _host(url):
        raise SourceError(f"ingest.source: {url!r} names no server; give such as https://example.org/data.zip")
    if not wanted and url.startswith("http://"):
        raise SourceError(f"ingest.sha256: {url} is not https, so the archive must be checked; give its SHA-256")
    kept = kept_from(files)
    if not (wanted and kept.startswith(f"{mark_of(wanted)}\n")):
        kept = _fetch(settings, files, kept)
    digest = kept.partition("\n")[0].removeprefix(mark_of(""))
    return ResolvedSource(Folder(files), root="", revision=f"sha256:{digest}")


def _fetch(settings: Ingest, files: Path, kept: str) -> str:
    """Download and unpack, unless the URL still has what ``kept`` says; returns the mark of the files."""
    url = settings.source
    checked = bool(settings.sha256)
    known = "" if checked else kept.partition("\n")[2]
    download = Download(url, files.with_name(f"{files.name}.download"), known, plain=checked)
    try:
        archive = download.run()
    except _UnchangedError:
        return kept
    try:
        digest = checked_hash(archive, url, settings.sha256)
        if not settings.sha256:
            log(f"ingest: {url} was not checked against a SHA-256; to have it checked, set ingest.sha256 to {digest}")
        mark = f"{mark_of(digest)}\n{download.version}"
        unpack(archive, url, files, mark)
    except SourceError as error:
        if not isinstance(error, NoRoomError):
            download.forget()
        raise
    download.forget()
    return mark


@dataclass(frozen=True)
class Download:
    """A file on its way.

    Attributes:
        url: where it comes from.
        folder: holds what has come so far, and of which version it is.
        known: the version (see there) that is not wanted again.
        plain: whether the server may lead to an address that is not https.
    """

    url: str
    folder: Path
    known: str
    plain: bool

    def run(self) -> Path:
        """Download what is missing; returns the file.

        Raises:
            SourceError: the server refuses, does not answer, or there is no room.
        """
        reason = ""
        waits = pauses()
        while (pause := next(waits, None)) is not None:
            time.sleep(pause)
            before = self._have
            try:
                self._go_on()
                return self._path
            except _CutError as error:
                reason = one_line(error)
            if self._have >= before + MEBIBYTE:
                waits = pauses()
        raise SourceError(f"{self.url}: no whole answer in {ATTEMPTS} attempts ({reason}); run the same command again")

    @property
    def version(self) -> str:
        """The version of what has come, as JSON text; empty when nothing has."""
        try:
            return self._about.read_text()
        except OSError:
            return ""

    def forget(self) -> None:
        """Remove what has come."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return self.folder / "archive"

    @property
    def _about(self) -> Path:
        return self.folder / "version.json"

    @property
    def _have(self) -> int:
        return self._path.stat().st_size if self._path.is_file() else 0

    def _begun(self) -> Version | None:
        """The version of what has come, if the server can be asked for the rest of it."""
        try:
            version = Version(**json.loads(self.version))
        except (ValueError, TypeError):
            return None
        same = version.url == self.url and version.validator
        return version if same and 0 < self._have <= version.size else None

    def _go_on(self) -> None:
        begun = self._begun()
        if begun and self._have == begun.size:
            return
        headers = {"Range": f"bytes={self._have}-", "If-Range": begun.validator} if begun else {}
        with _open(self.url, headers) as response:
            if not self.plain and not response.url.startswith("https:"):
                raise SourceError(f"{self.url} leads to {response.url}, which is not https; set ingest.sha256")
            goes_on = begun and response.headers.get("Content-Range", "").startswith(f"bytes {self._have}-")
            version = begun if begun and goes_on else self._begin(response)
            self._append(response, version.size)
        if version.size not in (-1, self._have):
            raise _CutError(f"cut off after {self._have} of {version.size} bytes")

    def _begin(self, response: Any) -> Version:
        """Forget what came of another version."""
        version = Version(
            self.url,
            response.headers.get("ETag", ""),
            response.headers.get("Last-Modified", ""),
            -1 if response.length is None else response.length,
        )
        text = json.dumps(asdict(version))
        if version.validator and text == self.known:
            raise _UnchangedError
        self.forget()
        self.folder.mkdir(parents=True)
        write_text(self.folder / MARK, "download")
        refuse_too_big(version.size, self.url, self.folder)
        write_text(self._about, text)
        return version

    def _append(self, response: Any, size: int) -> None:
        try:
            with bar("downloading, MiB", max(size, 0) // MEBIBYTE) as advance, self._path.open("ab") as stream:
                advance(self._have // MEBIBYTE)
                while piece := _read(response):
                    stream.write(piece)
                    advance(stream.tell() // MEBIBYTE - (stream.tell() - len(piece)) // MEBIBYTE)
        except OSError as error:
            raise no_room(self._path, error) from None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _open(url: str, headers: dict[str, str]) -> Any:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in PASSING:
            raise _CutError(f"{error.code} {error.reason}") from None
        raise SourceError(f"{url}: the server says {error.code} {error.reason}; check the URL") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise SourceError(f"ingest.source: {url!r} is no URL that can be asked ({one_line(error)}); mend it") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise SourceError(f"{url}: {reason.verify_message}; mend the certificate or set SSL_CERT_FILE") from None
        raise _CutError(one_line(error)) from None


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(PIECE))
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(one_line(error)) from None
