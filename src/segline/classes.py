"""What a class of the label maps is."""

from dataclasses import dataclass

IGNORED = 255
"""The class id of pixels that count nowhere: in no loss, no metric and no statistic."""


@dataclass(frozen=True)
class LabelClass:
    """A class and the colour it is shown in (RGB, 0 to 255)."""

    name: str
    colour: tuple[int, int, int]
