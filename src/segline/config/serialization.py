"""Parameters as JSON text, and as the document of ``params.yaml``."""

import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from segline.config.components import ComponentSpec
from segline.config.spaces import Space


def as_json(section: Any) -> str:
    """Return a section as canonical JSON text, for records and fingerprints."""
    return json.dumps(asdict(section), sort_keys=True)


def as_document(value: Any) -> Any:
    """Return parameters, or a part of them, as ``params.yaml`` has them."""
    if isinstance(value, ComponentSpec):
        weight = {} if value.weight == 1.0 else {"weight": value.weight}
        return {value.name: as_document(value.options) | weight}
    if isinstance(value, Space):
        low, high = (int(end) if value.whole else end for end in (value.low, value.high))
        return list(value.values) or {"low": low, "high": high, "log": value.log}
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: as_document(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, dict):
        return {key: as_document(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_sum_as_document(entry) if isinstance(entry, tuple) else as_document(entry) for entry in value]
    return value


def _sum_as_document(terms: tuple[ComponentSpec, ...]) -> dict[str, Any]:
    """Return a weighted sum as one entry of the list of losses."""
    return {name: options for term in terms for name, options in as_document(term).items()}
