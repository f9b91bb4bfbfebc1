"""One typed, documented value of the parameters, and the check of what a user wrote for it.

A field is an annotation: ``crop: Annotated[int, Range(32, 4096), Unit("px"), "side of the crop"] = 160``.
The same notation serves the sections of ``params.yaml`` and the options of a model or a loss.
"""

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f"at least {_plain(self.low)}" if math.isinf(self.high) else f"{_plain(self.low)} to {_plain(self.high)}"


@dataclass(frozen=True)
class Unit:
    """The unit of a number, as shown in the help."""

    name: str


Pretrained = Annotated[
    bool | str,
    "where the encoder starts: true for ImageNet weights from timm's hub, a file (.safetensors, .pth) or "
    "s3://bucket/key, false for random weights",
]
"""The option of every architecture with an encoder."""

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict[str, float]: "a mapping of names to numbers",
    dict[str, dict[str, list[str]]]: "a mapping of layouts to mappings of classes",
}


def fault(value: object, annotation: Any) -> str | None:
    """Say in one line what is wrong with ``value`` for ``annotation``, or None when it fits."""
    kind, notes = _split(annotation)
    expected = _expected(kind, notes)
    return None if _fits(value, kind, notes) else f"got {value!r}, expected {expected}"


def as_declared(value: Any, annotation: Any) -> Any:
    """The value, a whole number made a float where a float is declared."""
    kind, _ = _split(annotation)
    return float(value) if kind is float and type(value) is int else value


def is_whole(annotation: Any) -> bool:
    """Whether a field is a whole number."""
    return _split(annotation)[0] is int


def suggestion(word: object, known: Collection[str]) -> str:
    """``; did you mean 'x'?`` for a near miss, otherwise the known names; of options there may be none."""
    if not known:
        return "; it has no options"
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"


def describe(annotation: Any) -> tuple[str, str, str]:
    """The unit, what is accepted, and the meaning of a field, for the help."""
    kind, notes = _split(annotation)
    unit = next((note.name for note in notes if isinstance(note, Unit)), "")
    return unit, _expected(kind, notes), next((note for note in notes if isinstance(note, str)), "")


def _plain(bound: float) -> str:
    """A whole number in full, any other short."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        return kind, tuple(notes)
    return annotation, ()


def _expected(kind: Any, notes: tuple[Any, ...]) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return "a list of " + ", ".join(map(str, get_args(get_args(kind)[0])))
    if isinstance(kind, UnionType):
        return " or ".join(_expected(part, notes) for part in get_args(kind))
    bounds = [str(note) for note in notes if isinstance(note, Range)]
    return " ".join([NAMES.get(kind, str(kind)), *bounds])


def _fits(value: object, kind: Any, notes: tuple[Any, ...]) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in inner)
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
    return all(note.low <= value <= note.high for note in notes if isinstance(note, Range))  # type: ignore[operator]
