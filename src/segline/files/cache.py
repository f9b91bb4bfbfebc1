"""The folder of this machine that keeps copies of files in buckets, and the locks on them."""

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """Return ``SEGLINE_CACHE`` if it is set, else a folder among the temporary files."""
    return Path(os.environ.get("SEGLINE_CACHE") or Path(tempfile.gettempdir(), "segline-cache")).resolve()
