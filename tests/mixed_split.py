"""A split in memory, whose items have the shapes that a test wants."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from segline.classes import IGNORED
from segline.data.split import Split


@dataclass(frozen=True)
class MixedSplit(Split):
    """Images (h, w, 3) and labels (h, w) of any shapes, and distance maps (c, h, w) by kind."""

    images: list
    labels: list
    distances: dict = field(default_factory=dict)

    @cached_property
    def index(self):
        keys = [f"frame{number}" for number in range(len(self.images))]
        return pd.DataFrame({"key": keys, "group": keys, "top": 0, "left": 0, "scale": 1.0})

    def shape(self, position):
        return self.labels[position].shape

    def take(self, positions):
        return np.stack([self.images[number] for number in positions]), self.take_labels(positions)

    def take_labels(self, positions):
        return np.stack([self.labels[number] for number in positions])

    def take_distances(self, names, positions):
        return {name: np.stack([self.distances[name][number] for number in positions]) for name in names}


def random_split(folder, shapes, classes, *, ignored=0.1):
    """A split of noise, whose items have these shapes."""
    rng = np.random.default_rng(len(shapes))
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    labels = [rng.integers(0, classes, shape, np.uint8) for shape in shapes]
    for label in labels:
        label[rng.random(label.shape) < ignored] = IGNORED
    return MixedSplit(folder, images, labels)
