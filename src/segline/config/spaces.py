"""The space that a search draws a hyperparameter from: a list of values, or a range."""

from dataclasses import dataclass
from typing import Any

from segline.config.fields import as_declared, find_error, split_annotation
from segline.errors import shown


@dataclass(frozen=True, kw_only=True)
class Space:
    """Equally likely values, or a range from ``low`` to ``high``, even in the logarithm if ``log``.

    A range of a whole number gives whole numbers (``whole``).
    """

    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False


def parse_space(value: object, annotation: Any, where: str, errors: list[str]) -> Space:
    """Read the space that a user wrote for a hyperparameter; what is wrong is added to ``errors``.

    Args:
        value: Such as ``[0.01, 0.05]`` or ``{low: 1e-4, high: 1e-2, log: true}``.
        annotation: The type and range of the hyperparameter.
        where: The dotted key, for messages.
    """
    if isinstance(value, list) and value:
        item_errors = [find_error(item, annotation) for item in value]
        errors += [f"{where}[{index}]: {error}" for index, error in enumerate(item_errors) if error]
        return Space(values=tuple(as_declared(item, annotation) for item in value))
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        errors.append(f"{where}: got {shown(value)}, expected a list of values, or low, high and perhaps log: true")
        return Space()
    return _parse_range(value, annotation, where, errors)


def has_ranges(annotation: Any) -> bool:
    """Return whether a hyperparameter can be drawn from a range: it is a number, not one of listed values."""
    return split_annotation(annotation)[0] in (int, float)


def _parse_range(value: dict[str, Any], annotation: Any, where: str, errors: list[str]) -> Space:
    found = [f"{where}.{end}: {error}" for end in ("low", "high") if (error := find_error(value[end], annotation))]
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not found and not has_ranges(annotation):
        found = [f"{where}: got a range, expected a list of values"]
    if not found and (not isinstance(log, bool) or low >= high or (log and low <= 0)):
        found = [f"{where}: got {shown(value)}, expected low below high, and above 0 where log is true"]
    errors += found
    whole = split_annotation(annotation)[0] is int
    return Space() if found else Space(low=float(low), high=float(high), log=log, whole=whole)
