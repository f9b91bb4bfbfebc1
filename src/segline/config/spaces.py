"""The space that a search draws a hyperparameter from: a list of values, or a range."""

from dataclasses import dataclass
from typing import Any

from segline.config.fields import as_declared, find_error, split_annotation

FACTOR = 1.2


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

    def at(self, share: float) -> Any:
        """The value at a share, in [0, 1), of the way through the space."""
        if self.values:
            return self.values[int(share * len(self.values))]
        drawn = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        return round(drawn) if self.whole else drawn

    def near(self, value: Any, *, above: bool) -> Any:
        """The next value of a list, or a fifth more or less within the range, of a whole number at least one.

        Jaderberg et al. 2017, section 4.1.1.
        """
        if self.values:
            place = self.values.index(value) + (1 if above else -1)
            return self.values[min(max(place, 0), len(self.values) - 1)]
        moved = value * (FACTOR if above else 2 - FACTOR)
        if self.whole:
            moved = max(round(moved), value + 1) if above else min(round(moved), value - 1)
        return type(value)(min(max(moved, self.low), self.high))


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
        errors.append(f"{where}: got {value!r}, expected a list of values, or low, high and perhaps log: true")
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
        found = [f"{where}: got {value!r}, expected low below high, and above 0 where log is true"]
    errors += found
    whole = split_annotation(annotation)[0] is int
    return Space() if found else Space(low=float(low), high=float(high), log=log, whole=whole)
