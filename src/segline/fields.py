"""One typed, documented value of the parameters, and the check of what a user wrote for it.

A field is an annotation: ``crop: Annotated[int, Range(32, 4096), Unit("px"), "side of the crop"] = 160``.
The same notation serves the sections of ``params.yaml`` and the options of a model or a loss.
"""

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f"at least {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Unit:
    """The unit of a number, as shown in the help."""

    name: str


NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping", list: "a list"}


def fault(value: object, annotation: Any) -> str | None:
    """Say in one line what is wrong with ``value`` for ``annotation``, or None when it fits."""
    kind, notes = _split(annotation)
    expected = _expected(kind, notes)
    return None if _fits(value, kind, notes) else f"got {value!r}, expected {expected}"


def suggestion(word: object, known: Collection[str]) -> str:
    """``; did you mean 'x'?`` for a near miss, otherwise the known names."""
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"


def describe(annotation: Any) -> tuple[str, str, str]:
    """The unit, what is accepted, and the meaning of a field, for the help."""
    kind, notes = _split(annotation)
    unit = next((note.name for note in notes if isinstance(note, Unit)), "")
    return unit, _expected(kind, notes), next((note for note in notes if isinstance(note, str)), "")


def _split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        return kind, tuple(notes)
    return annotation, ()


def _expected(kind: Any, notes: tuple[Any, ...]) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    bounds = [str(note) for note in notes if isinstance(note, Range)]
    return " ".join([NAMES.get(get_origin(kind) or kind, str(kind)), *bounds])


def _fits(value: object, kind: Any, notes: tuple[Any, ...]) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (list, dict):
        return isinstance(value, get_origin(kind))
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        return False
    bounds = (note for note in notes if isinstance(note, Range))
    return all(note.low <= value <= note.high for note in bounds)  # type: ignore[operator]
