"""Sections of the parameters as text."""

import json
from dataclasses import asdict
from typing import Any


def as_json(section: Any) -> str:
    """Return a section as canonical JSON text, for records and fingerprints."""
    return json.dumps(asdict(section), sort_keys=True)
