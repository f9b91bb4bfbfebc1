"""The webhook that is told how a run ended.

Its address is a secret, as whoever knows it can post there: nothing of it is shown but the name of the variable.
"""

import http.client
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from threading import Thread
from urllib.parse import urlsplit

from segline.files.http import open_url

VARIABLE = "SEGLINE_WEBHOOK"
TIMEOUT_S = 10.0
"""The longest silence of the server."""
DEADLINE_S = 20.0
"""The time that all takes at most: a server that sends a byte now and then is never silent."""


def post(address: str, content: Mapping[str, str]) -> str:
    """Post a record as JSON; return why the webhook did not take it, in a line, or an empty text.

    Whatever the address is and whatever its server answers, nothing is raised, and a redirect is not followed.
    """
    address = address.strip()
    problem = _address_problem(address)
    if problem:
        return f"the address in {VARIABLE} {problem}; nothing was posted"
    answers: list[str] = []
    # A daemon: it does not keep the process while a server sends without end.
    thread = Thread(target=lambda: answers.append(_send(address, json.dumps(content).encode())), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    reason = answers[0] if answers else f"its answer is not complete after {DEADLINE_S:g} s"
    return f"the webhook in {VARIABLE} did not take the outcome: {reason}" if reason else ""


def _address_problem(address: str) -> str:
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        return "is no URL"
    if url.scheme not in ("http", "https"):
        return "does not begin with https:// or http://"
    if not host:
        return "names no server"
    if re.search(r"[^!-~]", address):
        return "has a space or a sign that is not ASCII; write it in percent-encoding"
    return "has a login before its server, which is not sent; leave it out" if "@" in url.netloc else ""


def _send(address: str, body: bytes) -> str:
    """Return why the server did not take the body; empty if it did. The texts of errors may hold the address."""
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
    try:
        open_url(request, redirects="none", timeout_s=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        leads = ", which leads elsewhere; give the address that it leads to" if 300 <= error.code < 400 else ""
        return f"it answered {error.code}{leads}"
    except Exception as error:  # A thread has nobody to raise to, and this must not end the exit handler.
        return _describe(getattr(error, "reason", error))
    return ""


def _describe(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted; set SSL_CERT_FILE"
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT_S:g} s"
    if isinstance(error, http.client.HTTPException):
        return f"its answer is no HTTP ({type(error).__name__})"
    return (error.strerror if isinstance(error, OSError) and error.strerror else "") or type(error).__name__
