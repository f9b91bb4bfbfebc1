"""The classes of label maps."""

from dataclasses import dataclass
from typing import Any

IGNORED = 255
"""The class id of pixels that count in no loss, no metric and no statistic."""


@dataclass(frozen=True)
class LabelClass:
    """A class and the color in which it is shown (RGB, 0 to 255)."""

    name: str
    color: tuple[int, int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the class as plain values for JSON; version 0.1 reads the key ``colour`` alone."""
        return {"name": self.name, "colour": self.color}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "LabelClass":
        """Return the inverse of :meth:`to_dict`; the key may also be ``color``."""
        color = content["color"] if "color" in content else content["colour"]
        return cls(content["name"], tuple(color))
