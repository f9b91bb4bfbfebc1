"""A registry of images: the digest behind a tag, and what is attached to an image.

The requests are those of the OCI distribution specification 1.1 (github.com/opencontainers/distribution-spec). The
logins are those of ``docker login``, with its credential helpers; for those of ``podman login``,
``REGISTRY_AUTH_FILE`` names the file, which has the same form (containers-auth.json(5)).
"""

import hashlib
import os
import re
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import docker
import docker.auth
import requests

from segline.errors import SeglineError, one_line

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFESTS = (
    OCI_INDEX,
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""The kinds of manifest; a registry that is asked for others makes one of another digest."""
DIGEST = r"sha256:[0-9a-f]{64}"
HUB = {"docker.io": "registry-1.docker.io"}
"""The server behind the name that images of Docker Hub have."""
TIMEOUT_S = 30.0


class RegistryError(SeglineError):
    """A registry cannot be reached, refuses a request, or lacks an image."""

    exit_code = 7


class UnreachableError(RegistryError):
    """A registry does not answer."""


class Repository:
    """The images of one name in a registry.

    Args:
        name: The name of the images, which begins with the registry's host, such as
            ``registry.example.org/segline/train``. Only this machine is asked without TLS.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._host, _, path = name.partition("/")
        scheme = "http" if _is_loopback(self._host) else "https"
        self._url = f"{scheme}://{HUB.get(self._host, self._host)}/v2/{path}/"
        self._session = requests.Session()
        self._session.verify = os.environ.get("SSL_CERT_FILE") or True

    def digest(self, tag: str) -> str:
        """Return the digest behind a tag; for an image of several platforms it is that of their index.

        Raises:
            RegistryError: There is no such tag, or the registry cannot be reached or refuses.
        """
        answer = self.request("HEAD", f"manifests/{tag}", allowed=(404,), headers={"Accept": ", ".join(MANIFESTS)})
        if answer.status_code == 404:
            raise RegistryError(f"{self.name} has no tag {tag}; push the image first, or fix --registry and --tag")
        digest = answer.headers.get("Docker-Content-Digest", "")
        return digest if re.fullmatch(DIGEST, digest) else sha256(self.manifest(tag)[0])

    def manifest(self, reference: str) -> tuple[bytes, str]:
        """Return the manifest behind a tag or digest, and its type; an empty one if there is none."""
        headers = {"Accept": ", ".join(MANIFESTS)}
        answer = self.request("GET", f"manifests/{reference}", allowed=(404,), headers=headers)
        if answer.status_code == 404:
            return b"", ""
        return answer.content, answer.headers.get("Content-Type", "").partition(";")[0]

    def request(self, method: str, path: str, *, allowed: tuple[int, ...] = (), **options: Any) -> requests.Response:
        """Return the answer to a request, for which a registry that asks for it gets the login.

        Args:
            method: The method of HTTP.
            path: A path below the repository, or an address that the registry gave.
            allowed: The statuses that are no error beside those of success.
            options: The body, parameters and headers, as ``requests`` names them.

        Raises:
            UnreachableError: The registry does not answer.
            RegistryError: It refuses, or the login cannot be read.
        """
        url = urljoin(self._url, path)
        try:
            answer = self._session.request(method, url, timeout=TIMEOUT_S, **options)
            if answer.status_code == 401:
                self._sign_in(answer.headers.get("WWW-Authenticate", ""))
                answer = self._session.request(method, url, timeout=TIMEOUT_S, **options)
        except requests.RequestException as error:
            raise UnreachableError(f"the registry {self._host} cannot be reached ({_describe(error)})") from None
        if answer.status_code in (401, 403):
            raise RegistryError(
                f"the registry {self._host} refuses {self.name} ({answer.status_code}); "
                f"use `docker login {self._host}` with an account that has the right"
            )
        if not answer.ok and answer.status_code not in allowed:
            text = one_line(Exception(answer.text))[:200]
            raise RegistryError(f"the registry {self._host} answers {answer.status_code} to {method} {path} ({text})")
        return answer

    def _sign_in(self, challenge: str) -> None:
        """Take the login, or a token that it gives, for the requests that follow, as the registry asks."""
        scheme, _, rest = challenge.partition(" ")
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        login = _login(self._host)
        user, password = login.get("username", ""), login.get("password", "")
        if scheme.lower() == "basic" and user:
            self._session.auth = (user, password)
        if scheme.lower() != "bearer" or not _is_safe(asked.get("realm", "")):
            return
        realm = asked.pop("realm")
        if identity := login.get("identitytoken"):
            form = {**asked, "grant_type": "refresh_token", "refresh_token": identity, "client_id": "segline"}
            answer = requests.post(realm, data=form, timeout=TIMEOUT_S, verify=self._session.verify)
        else:
            auth = (user, password) if user else None
            answer = requests.get(realm, params=asked, auth=auth, timeout=TIMEOUT_S, verify=self._session.verify)
        content = answer.json() if answer.ok else {}
        if token := content.get("token") or content.get("access_token"):
            self._session.auth = partial(_bear, token)


def _bear(token: str, request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def find_digest(name: str, tag: str) -> str:
    """Return the digest of an image: that of the registry, or if it does not answer here, that of the local engine.

    The engine knows the digests of images that it has pushed or pulled.

    Raises:
        RegistryError: Neither knows it.
    """
    try:
        return Repository(name).digest(tag)
    except UnreachableError as error:
        digest = _digest_in_engine(name, tag)
        if not digest:
            raise RegistryError(f"{error}; nor does Docker here know what {name}:{tag} is in its registry") from None
        return digest


def sha256(content: bytes) -> str:
    """Return the digest of a content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _describe(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return (
            "its certificate is not trusted, or it speaks no TLS; SSL_CERT_FILE names a private authority's certificate"
        )
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT_S:g} s"
    known = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))
    return known[1] if known else type(error).__name__


def _digest_in_engine(name: str, tag: str) -> str:
    try:
        client = docker.from_env()
        known = client.images.get(f"{name}:{tag}").attrs["RepoDigests"] or []
        client.close()
    except docker.errors.DockerException:
        return ""
    return next((entry.partition("@")[2] for entry in known if entry.startswith(f"{name}@")), "")


def _login(host: str) -> dict[str, str]:
    """Return what the login keeps for a registry, with keys in lower case; empty for nothing.

    Raises:
        RegistryError: A credential helper fails.
    """
    try:
        found = docker.auth.load_config(os.environ.get("REGISTRY_AUTH_FILE")).resolve_authconfig(host) or {}
    except docker.errors.DockerException as error:
        raise RegistryError(f"the login for {host} cannot be read ({one_line(error)[:200]})") from None
    return {name.lower(): value for name, value in found.items()}


def _is_loopback(host: str) -> bool:
    return re.fullmatch(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", host) is not None


def _is_safe(realm: str) -> bool:
    """Return whether a login may be sent to an address."""
    parts = urlsplit(realm)
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.netloc))
