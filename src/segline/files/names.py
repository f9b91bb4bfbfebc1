"""Names of files that are made from names in the data, which may be longer than a file's."""

import hashlib

MAX_BYTES = 200
"""The longest name in UTF-8. Linux allows 255 bytes, of which prefixes, suffixes and temporary names take some."""


def bounded(name: str) -> str:
    """Return a name that a file can have: a longer one keeps its start, and ends with its hash."""
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: MAX_BYTES - 1 - len(digest)].decode(errors='ignore')}-{digest}"
