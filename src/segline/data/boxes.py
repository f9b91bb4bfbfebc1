"""A rectangle of an image."""

from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle of an image, in px."""

    top: int
    left: int
    height: int
    width: int
