"""What a dataset layout says: how to find pairs, read a label map and name its classes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segline.classes import LabelClass
from segline.errors import DataError

UNKNOWN = 254
"""Stands in a layout's table for raw values that it does not know."""


@dataclass(frozen=True)
class Pair:
    """An image and its label map, as paths relative to the source.

    ``group`` is what must not be on two sides of a split (a drive, a patient); ``split`` is the layout's
    own ("train", "val", "test"), or empty.
    """

    key: str
    image: str
    label: str
    group: str
    split: str = ""


@dataclass(frozen=True)
class Layout:
    """A dataset layout.

    Attributes:
        classes: the classes, in the order of their ids.
        background: the id that does not count as foreground, or None when every class does.
        find: the pairs below a folder, sorted by key. Raises DataError when the folder is not of this layout.
        read_label: a label file to raw values, uint8 or uint16 of shape (h, w).
        table: raw value to class id, ``classes.IGNORED`` or ``UNKNOWN``; 65536 entries, uint8.
    """

    classes: tuple[LabelClass, ...]
    background: int | None
    find: Callable[[Path], list[Pair]]
    read_label: Callable[[Path], NDArray[np.integer]]
    table: NDArray[np.uint8]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of their ids."""
        return tuple(entry.name for entry in self.classes)


def value_table(classes: Iterable[tuple[int, int]]) -> NDArray[np.uint8]:
    """A table from (raw value, class id) pairs; every other value is ``UNKNOWN``."""
    table = np.full(65536, UNKNOWN, np.uint8)
    for raw, class_id in classes:
        table[raw] = class_id
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank. Raises DataError when it is no text."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; write the list again") from None


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB, uint8 of shape (h, w, 3). Raises OSError when it cannot be decoded."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_indices(path: Path) -> NDArray[np.integer]:
    """A one-channel or palette label file as its values, shape (h, w).

    Raises:
        OSError: the file cannot be decoded, has several channels, or values beyond 16 bits.
    """
    with Image.open(path) as image:
        values = np.asarray(image)
    if values.ndim != 2:
        raise OSError(f"a label map has one channel, this file has {values.shape[-1]}")
    if values.dtype.kind not in "bui" or values.min() < 0 or values.max() > 65535:
        raise OSError("a label map holds whole numbers from 0 to 65535, this file holds others")
    return values if values.dtype == np.uint8 else values.astype(np.uint16)
