"""``kfp.Client`` with what it lacks: limits of time, pauses before another attempt, and errors of one line.

Its own requests may wait forever, its errors have many lines, and a login page passes for an empty answer.
"""

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from kfp.client import Client
from kfp_server_api import ApiException, Configuration
from kfp_server_api.rest import RESTResponse
from urllib3.exceptions import HTTPError, ProtocolError

from segline.errors import SeglineError

CONNECT_S, ANSWER_S = 10.0, 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
PATIENCE_S = 15.0
"""How long a request is repeated, from its first failure on."""
PAGE = 100
"""The number of entries that are asked for at once."""
CONFLICT = 409
TRANSIENT = (0, CONFLICT, 429, 500, 502, 503, 504)
"""Statuses that may be better after a pause; 0 stands for no answer, and a conflict for what others just made."""
REPEATABLE = (":enable", ":disable")
"""Ends of the addresses whose POST may be carried out twice."""
T = TypeVar("T")


class ServiceError(SeglineError):
    """Kubeflow cannot be reached or refuses a request, or a run that was waited for did not succeed."""

    exit_code = 7

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class TokenFile:
    """Credentials of ``kfp.Client``: the bearer token in a file, read anew for each request, as a pod's token changes.

    kfp's own class of this kind takes any content, which then fails as a header with a traceback.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def refresh_api_key_hook(self, config: Configuration) -> None:
        """Put the token into the configuration; the API's client calls this before each request.

        Raises:
            ServiceError: The file cannot be read, or does not hold one word of ASCII.
        """
        try:
            token = self._file.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise ServiceError(f"{self._file}: {error.strerror}; expected a file that holds Kubeflow's token") from None
        if not re.fullmatch(r"[!-~]+", token):
            got = f"{len(token.split())} words, or signs beyond ASCII" if token else "nothing"
            raise ServiceError(f"{self._file}: got {got}, expected Kubeflow's token, one word of ASCII")
        config.api_key["authorization"] = token


def connect(endpoint: str, token_file: Path | None) -> Client:
    """Return kfp's client, which has sent no request yet.

    The certificates of ``SSL_CERT_FILE`` are trusted, if it is set, in place of those of certifi.
    """
    path = token_file or os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client = Client(
            host=endpoint,
            # With the default the constructor would ask for Kubeflow's health, five times with a traceback.
            namespace="-",
            credentials=TokenFile(Path(path)) if path else None,
            ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
        )
    # All parts of the API share one transport.
    transport = client.runs.run_service_list_runs.__self__.api_client.rest_client
    transport.request = partial(_request, transport.request)
    return client


def patiently(attempt: Callable[[], T], patience_s: float) -> T:
    """Return what ``attempt`` returns; after a transient error try again, with pauses that grow.

    Raises:
        ServiceError: It is not transient, or the patience is over, which is counted from the first failure.
    """
    pause_s, deadline = FIRST_PAUSE_S, None
    while True:
        try:
            return attempt()
        except ServiceError as error:
            now = time.monotonic()
            deadline = now + patience_s if deadline is None else deadline
            if error.status not in TRANSIENT or now + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def make_once(create: Callable[[], T], find: Callable[[], list[T]]) -> T:
    """Return the first that ``find`` returns, or else create it.

    What was created may be found although the attempt to create it had no answer.
    """

    def attempt() -> T:
        existing = find()
        return existing[0] if existing else create()

    return patiently(attempt, PATIENCE_S)


def pages(listing: Callable[..., Any], key: str, **options: Any) -> Iterator[Any]:
    """Yield all entries of a listing; Kubeflow wants the same filter and order with every page."""
    answer = listing(page_size=PAGE, **options)
    yield from getattr(answer, key) or []
    while answer.next_page_token:
        answer = listing(page_size=PAGE, page_token=answer.next_page_token, **options)
        yield from getattr(answer, key) or []


def find_named(listing: Callable[..., Any], key: str, name: str, **options: Any) -> list[Any]:
    """Return the entries with exactly this name; Kubeflow's filter takes capital letters for small ones."""
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    # Kubeflow decodes percent and plus signs in a filter once more than in the rest of an address.
    text = quote(json.dumps({"predicates": [predicate]}))
    return [entry for entry in pages(listing, key, filter=text, **options) if entry.display_name == name]


def _request(send: Callable[..., RESTResponse], method: str, url: str, **options: Any) -> RESTResponse:
    """Send a request of the API's client, repeatedly if it may be carried out twice."""
    if method == "POST" and not url.endswith(REPEATABLE):
        return _send(send, method, url, **options)
    return patiently(lambda: _send(send, method, url, **options), PATIENCE_S)


def _send(send: Callable[..., RESTResponse], method: str, url: str, **options: Any) -> RESTResponse:
    """Send a request once; return the answer, which is an object in JSON, or raise a ServiceError of one line."""
    what = f"Kubeflow did not carry out {method} {url}"
    try:
        response = send(method, url, **options | {"_request_timeout": (CONNECT_S, ANSWER_S)})
    except ApiException as error:
        message = f"{what}: {error.status} {_answer(error)}"
        if error.status in (401, 403):
            message += "; see --namespace, and set SEGLINE_KUBEFLOW_TOKEN to a file that holds a token"
        raise ServiceError(message, error.status) from None
    except HTTPError as error:
        cause = _cause(error)
        hint = "is the address right, and is the service up?"
        if "CERTIFICATE" in cause:
            hint = "set SSL_CERT_FILE to a file with the certificate of its authority"
        raise ServiceError(f"{what}: {cause}; {hint}", 0) from None
    if not _is_object(response.data):
        raise ServiceError(
            f"{what}: got {response.data[:40].decode(errors='replace')!r}, expected an object in JSON; "
            "if this is a login page, set SEGLINE_KUBEFLOW_TOKEN to a file that holds a token, or give the "
            "address of the API itself"
        )
    return response


def _is_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


def _answer(error: ApiException) -> str:
    """Return Kubeflow's own words in an answer that refuses, in one line."""
    try:
        body = json.loads(error.body)
        text = body.get("message") or body.get("error_message") or body.get("error") or error.reason
    except (ValueError, TypeError, AttributeError):
        text = error.reason
    return " ".join(str(text).split())[:500]


def _cause(error: HTTPError) -> str:
    """Return why there was no answer, without the objects that urllib3 names."""
    cause = getattr(error, "reason", None) or error
    return re.sub(r"^\S*\(.*?\): ", "", str(cause.args[-1] if isinstance(cause, ProtocolError) else cause))
