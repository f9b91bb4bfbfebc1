"""HTTP with no surprises: only http and https, and no hop that the caller does not accept."""

import urllib.request
from http.client import HTTPMessage
from typing import IO, Any, Literal
from urllib.parse import urljoin, urlsplit

from segline.errors import clip

Redirects = Literal["https", "any", "none"]
"""Which redirects are followed: only to https, also to http, or none; another scheme never is."""


class RedirectError(Exception):
    """A server leads to an address that is not accepted; the message is its scheme."""


def open_url(request: urllib.request.Request, *, redirects: Redirects, timeout_s: float) -> Any:
    """Send a request to an address of http or https, and return the response, which the caller closes.

    Args:
        request: the request.
        redirects: which redirects are followed. With "none" an answer that leads elsewhere is an HTTPError.
        timeout_s: the longest silence.

    Raises:
        RedirectError: a hop, not only the last one, leads to an address that is not accepted.
        urllib.error.URLError: there is no server, or the address has another scheme.
        urllib.error.HTTPError: the server does not answer with success.
        ValueError, OSError, http.client.HTTPException: the address or the answer is no such thing.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    if redirects != "none":
        opener.add_handler(_CheckedRedirects(("https",) if redirects == "https" else ("http", "https")))
    return opener.open(request, timeout=timeout_s)


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> Any:
        """Refuse an address of another scheme before anything is made of it."""
        location = headers.get("location") or headers.get("uri") or ""
        scheme = urlsplit(urljoin(req.full_url, location)).scheme
        if scheme not in self.schemes:
            fp.close()
            raise RedirectError(clip(scheme, 20) or "no scheme")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302
