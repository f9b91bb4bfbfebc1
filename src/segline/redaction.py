"""Secrets in texts that are shown or stored: logins and signed queries of addresses, and tokens.

What looks like a secret is replaced or left out, a little too much rather than too little. The time is linear in the
length of the text: no pattern can begin inside of what another attempt of it has read.
"""

import re
from urllib.parse import unquote

HIDDEN = "***"
LONGEST_PLAIN = 24
"""The length from which a value of a query counts as a secret, whatever its name is."""
URL = re.compile(r"(?<!\w)((?:\w[\w+.-]{0,30}+://)++)([^\s\"'<>]*+)")
LOGIN = re.compile(r"//[^/@\s]*+@")
"""A login behind what is no scheme."""
ASSIGNMENT = re.compile(r"(?<![\w%.-])([\w%.-]++)(\s?=\s?)([^\s&;,\"'<>]++)")
AUTHORIZATION = re.compile(r"(?i)\b(authorization\W{1,6}(?:bearer|basic|token)\s|bearer\s)([\w.~+/=-]{8,}+)")
TOKEN = re.compile(r"\b(?:gh[a-z]_|github_pat_|glpat-|hf_|xox[a-z]-|AKIA)[\w-]{12,}+")
SECRET_NAMES = ("pass", "pwd", "secret", "token", "sig", "cred", "key", "auth", "jwt", "sas", "policy", "session")
"""Parts of the names of parameters in a query whose values are secrets."""
STRONG_NAME = re.compile(r"(?i)passw|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|signature|credential")
"""What is in the name of a setting outside an address whose value is a secret."""
LOGIN_WITH_SLASH = re.compile(r"[^/@:?#\[]*+:(?!\d{1,5}(?:[/?#]|$))[^@]*+@")
"""A login whose password has characters that an address should not have; a port is none."""


def redact(text: str) -> str:
    """Return a text without logins in addresses, without values of signed queries, and without tokens.

    >>> redact("https://ann:pa55@example.org/a.zip?version=2&X-Amz-Signature=0f1e")
    'https://example.org/a.zip?version=2&X-Amz-Signature=***'
    """
    text = URL.sub(lambda match: match[1] + _redact_rest(match[2]), text)
    text = LOGIN.sub("//", text)
    text = ASSIGNMENT.sub(_redact_assignment, text)
    text = AUTHORIZATION.sub(lambda match: f"{match[1]}{HIDDEN}", text)
    return TOKEN.sub(HIDDEN, text)


def has_login(address: str) -> bool:
    """Return whether an address contains a user's name or password."""
    match = URL.match(address)
    return match is not None and _without_login(match[2]) != match[2]


def _redact_rest(rest: str) -> str:
    """Return what follows the scheme of an address without its secrets."""
    rest = _without_login(rest)
    start = _start_of_query(rest)
    return rest[:start] + "".join(_redact_parameter(part) for part in re.split(r"([?&;#])", rest[start:]))


def _start_of_query(url: str) -> int:
    return min((place for place in (url.find("?"), url.find("#")) if place >= 0), default=len(url))


def _without_login(rest: str) -> str:
    """Return what follows ``://`` without a user's name and password."""
    place = rest.find("/")
    authority = rest if place < 0 else rest[:place]
    if "@" in authority[: _start_of_query(authority)]:
        return authority.rpartition("@")[2] + rest[len(authority) :]
    match = LOGIN_WITH_SLASH.match(rest)
    return rest[match.end() :] if match else rest


def _redact_parameter(part: str) -> str:
    name, equals, value = part.partition("=")
    plain_name = re.sub(r"\W|_", "", unquote(name)).lower()
    if equals and value and (any(word in plain_name for word in SECRET_NAMES) or len(value) >= LONGEST_PLAIN):
        return f"{name}={HIDDEN}"
    return HIDDEN if not equals and len(part) >= LONGEST_PLAIN else part


def _redact_assignment(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{HIDDEN}" if STRONG_NAME.search(unquote(match[1])) else match[0]
