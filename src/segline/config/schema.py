"""The JSON Schema (2020-12) of ``params.yaml``, by which editors complete, explain and check its keys.

It refuses what the loader refuses for the shape of a value. It cannot say what holds between several values, nor that
2.0 is no whole number, nor that a number is finite.
"""

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from segline.config import tables
from segline.config.components import ComponentSpec, Table
from segline.config.fields import ClassMaps, Pattern, Range, Size, Unit, split_annotation
from segline.config.params import Params
from segline.config.sections.train import hyperparameters
from segline.config.serialization import as_document
from segline.config.spaces import Space, has_ranges

Schema = dict[str, Any]
WIDTH = 120
ONE_LINE = r"^[^\u0000-\u001f\u007f]*[^\s\u0000-\u001f\u007f][^\u0000-\u001f\u007f]*$"
"""The pattern of text that can be shown in one line."""
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema() -> Schema:
    """Return the JSON Schema of ``params.yaml``."""
    root = _section(Params())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The parameters of Segline, params.yaml",
        **root,
        "type": ["object", "null"],  # An empty file holds the defaults.
        "$defs": {"logarithmic": _logarithmic()},
    }


def schema_text() -> str:
    """Return the JSON Schema as text, as it is committed in ``docs/params.schema.json``."""
    return _format(schema()) + "\n"


def _format(value: Any, depth: int = 0) -> str:
    """Return JSON in which every mapping and list that fits is on one line."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) + depth <= WIDTH or not isinstance(value, dict | list):
        return text
    entries = (
        [f"{json.dumps(key)}: {_format(entry, depth + 1)}" for key, entry in value.items()]
        if isinstance(value, dict)
        else [_format(entry, depth + 1) for entry in value]
    )
    line = "\n" + " " * depth
    return f"{text[0]}{line} " + f",{line} ".join(entries) + line + text[-1]


def _section(section: Any) -> Schema:
    """Return the schema of a section, whose values are the defaults."""
    hints = get_type_hints(type(section), include_extras=True)
    properties = {entry.name: _field(hints[entry.name], getattr(section, entry.name)) for entry in fields(section)}
    return {"description": str(type(section).__doc__).replace("``", "`"), **_mapping(properties)}


def _field(annotation: Any, default: Any = MISSING) -> Schema:
    kind, notes = split_annotation(annotation)
    if is_dataclass(kind) and kind is not ComponentSpec:
        return _section(default)
    described = _description(notes) | ({} if default is MISSING else {"default": as_document(default)})
    return _type(kind, notes) | described


def _type(kind: Any, notes: tuple[Any, ...]) -> Schema:
    table = next((note for note in notes if isinstance(note, Table)), None)
    if table:
        entry = _component(table)
        return entry if kind is ComponentSpec else {"type": "array", "items": entry, "minItems": 1}
    if kind == dict[str, Space]:
        return _mapping({name: _space(annotation) for name, annotation in hyperparameters().items()})
    if kind == ClassMaps:
        return _mapping({layout: _class_map(layout) for layout in tables.options("data.layouts")})
    if kind == Size:
        side = _type(int, notes)
        return {"anyOf": [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _type(inner[0], ())}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(inner[1], ())}
    if inner:  # A union, such as bool | str.
        return {"type": [TYPES[part] for part in inner]}
    return {"type": TYPES[kind], **_limits(notes)}


def _limits(notes: tuple[Any, ...]) -> Schema:
    limits: Schema = {}
    for note in notes:
        if isinstance(note, Range):
            limits |= {"minimum": note.low} | ({} if math.isinf(note.high) else {"maximum": note.high})
        if isinstance(note, Pattern):
            limits["pattern"] = f"^(?:{note.regex})$"
    return limits


def _description(notes: tuple[Any, ...]) -> Schema:
    """Return the meaning as a sentence, with the unit."""
    meaning = next((note for note in notes if isinstance(note, str)), "")
    unit = next((f" Unit: {note.name}." for note in notes if isinstance(note, Unit)), "")
    return {"description": f"{meaning[0].upper()}{meaning[1:]}.{unit}"} if meaning else {}


def _mapping(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _component(table: Table) -> Schema:
    """Return the schema of a name, or of a name with its options; of several names where sums are accepted."""
    defaults = tables.defaults(table.package)
    options = {
        name: _mapping({key: _field(hint, defaults[name].get(key, MISSING)) for key, hint in hints.items()})
        for name, hints in table.options().items()
    }
    with_options = _mapping({name: known | {"type": ["object", "null"]} for name, known in options.items()})
    size = {"minProperties": 1} | ({} if table.weighted else {"maxProperties": 1})
    return {"anyOf": [{"enum": list(options)}, with_options | size]}


def _space(annotation: Any) -> Schema:
    """Return the schema of a list of values, or of a range of a number."""
    kind, notes = split_annotation(annotation)
    item = _type(kind, notes)
    values = {"type": "array", "items": item, "minItems": 1}
    if not has_ranges(annotation):
        return values | _description(notes)
    bounds = _mapping({"low": item, "high": item, "log": {"type": "boolean", "default": False}})
    space = bounds | {"required": ["low", "high"], "$ref": "#/$defs/logarithmic"}
    return {"anyOf": [values, space], **_description(notes)}


def _logarithmic() -> Schema:
    """Return what holds for a range that is even in the logarithm."""
    return {
        "if": {"required": ["log"], "properties": {"log": {"const": True}}},
        "then": {"properties": {"low": {"exclusiveMinimum": 0}}},
    }


def _class_map(layout: str) -> Schema:
    """Return the schema of the new classes of a layout."""
    known = tables.class_names(layout)
    name = {"enum": list(known)} if known else {"type": "string"}
    classes = {"type": "array", "items": name, "minItems": 1, "uniqueItems": True}
    return {"type": "object", "propertyNames": {"pattern": ONE_LINE}, "additionalProperties": classes}
