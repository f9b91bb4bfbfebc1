"""The items of one split as their readers see them, whatever the files: crops of one shape or frames of many."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.artifacts.dataset import CROPS, INDEX
from segline.classes import IGNORED
from segline.errors import StageError

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Positions = Sequence[int] | NDArray[np.integer]

MAX_PIXELS = 2_000_000
"""The most pixels of a forward pass where ``evaluate.max_pixels``, which has this default, is not known."""


@dataclass(frozen=True)
class Split(ABC):
    """The items of one split in a fixed order, read as they are asked for; their shapes may differ.

    Attributes:
        folder: The folder of the split.
    """

    folder: Path

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per item: key, group, top, left (px of the source image), scale (its px for one of the item)."""
        return pd.read_csv(self.folder / INDEX, dtype={"key": str, "group": str, "classes": str}, keep_default_na=False)

    @property
    def name(self) -> str:
        """The name of the split: train, val or test."""
        return self.folder.name.removesuffix(CROPS)

    def __len__(self) -> int:
        return len(self.index)

    @abstractmethod
    def shape(self, position: int) -> tuple[int, int]:
        """Return the height and width of an item, in px, without reading it."""

    @abstractmethod
    def take(self, positions: Positions) -> tuple[Images, Labels]:
        """Return the items at these positions, which have one shape: images (n, h, w, 3) and labels (n, h, w)."""

    @abstractmethod
    def take_labels(self, positions: Positions) -> Labels:
        """Return the labels (n, h, w) of the items at these positions, as :meth:`take` does, without their images."""

    @abstractmethod
    def take_distances(self, names: Sequence[str], positions: Positions) -> dict[str, NDArray[np.float32]]:
        """Return the distance maps of these kinds at these positions, each (n, channels, h, w).

        Raises:
            StageError: The data set has no such maps.
        """

    def class_presence(self) -> NDArray[np.bool_]:
        """Return whether each item has a pixel of each class, (n, 255)."""
        presence = np.zeros((len(self), IGNORED), bool)
        for row, ids in zip(presence, self.index["classes"], strict=True):
            row[[int(each) for each in ids.split()]] = True
        return presence

    def keys(self, positions: Positions) -> list[str]:
        """Return the keys of the images that the items at these positions are from."""
        return [str(key) for key in self.index["key"].to_numpy()[np.asarray(positions)]]

    def pixels(self, positions: Positions) -> int:
        """Return the number of pixels of the items at these positions."""
        return sum(height * width for height, width in map(self.shape, map(int, positions)))

    def ranges(self, size: int, max_pixels: int = MAX_PIXELS) -> Iterator[range]:
        """Yield the positions of all items in order, in batches that depend on nothing but the shapes and the limits.

        The items of a batch follow one another and have one shape. There are at most ``size`` of them, and no more than
        one if two have more than ``max_pixels`` pixels.
        """
        start = 0
        while start < len(self):
            height, width = shape = self.shape(start)
            most = min(len(self), start + max(1, min(size, max_pixels // (height * width))))
            stop = start + 1
            while stop < most and self.shape(stop) == shape:
                stop += 1
            yield range(start, stop)
            start = stop

    def batches(self, size: int) -> Iterator[tuple[Images, Labels]]:
        """Yield the images and labels of :meth:`ranges`."""
        for positions in self.ranges(size):
            yield self.take(positions)


def refuse_missing(names: Sequence[str], present: Collection[str]) -> None:
    """Refuse kinds of distance maps that a data set does not have.

    Raises:
        StageError: One of them is not there.
    """
    missing = [name for name in names if name not in present]
    if missing:
        raise StageError(f"label.distances lacks {missing[0]!r}; add it and run `segline label` again")
