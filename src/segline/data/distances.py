"""Distance maps of label maps, made once for the losses that need them.

Distances are Euclidean, in px, from the centre of a pixel to a contour. Contours run between pixels, so that one is
half a px nearer than the centre of the first pixel beyond it, and no distance is below 0.5. Ignored pixels are unknown:
they make no contour and belong to no class and no instance. What maps hold at ignored pixels themselves means nothing.

float16 keeps a distance to within 0.05 % of it: 0.06 px at 200 px, exactly what is a half or a whole up to 1024 px.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segline.classes import IGNORED

FAR = 1000.0
"""Stands where there is nothing to be distant from; ``border`` and ``touching`` hold nothing larger."""

Maps = NDArray[np.float16]
Distances = NDArray[np.float64]
Numbers = NDArray[np.integer]

NOBODY = -1
EIGHT_NEIGHBOURS = np.ones((3, 3))


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a crop.

    Attributes:
        labels: class ids (h, w), 255 = ignored.
        raw: the label file's own values (h, w), which may tell instances apart.
        classes: how many there are.
        background: the id of the class that is not foreground, or None.
    """

    labels: NDArray[np.uint8]
    raw: NDArray[np.integer]
    classes: int
    background: int | None

    @property
    def known(self) -> NDArray[np.bool_]:
        """The pixels that are not ignored."""
        known: NDArray[np.bool_] = self.labels != IGNORED
        return known

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """The known pixels that are not background."""
        return self.known if self.background is None else self.known & (self.labels != self.background)


def border(truth: Truth) -> Maps:
    """The distance to the nearest contour between two classes, (1, h, w); ``FAR`` where there is none.

    It is the distance to the nearest pixel of another class, less 0.5.
    """
    return np.minimum(_to_contour(truth), FAR).astype(np.float16)[None]


def signed(truth: Truth) -> Maps:
    """The signed distance to the contour of each class, (classes, h, w) (Kervadec et al. 2019, section 2).

    It is negative inside the class, from -0.5 at its rim, and positive outside, from +0.5 next to it; the paper's code
    has 0 and 1 there. A class that has no contour, as it is not there or is all that is known, has 0 everywhere.
    """
    maps = np.zeros((truth.classes, *truth.labels.shape), np.float16)
    present = np.unique(truth.labels[truth.known])
    if len(present) > 1:
        inside = _to_contour(truth)
        for class_id in present:
            own = truth.labels == class_id
            maps[class_id] = np.where(own, -inside, _to(own) - 0.5)
        maps[:, ~truth.known] = 0
    return maps


def touching(truth: Truth) -> Maps:
    """The sum of the distances to the nearest two instances, (1, h, w) (Ronneberger et al. 2015, equation 2).

    A pixel inside an instance is at no distance from it, so that there the sum is the distance to the next. It is
    ``FAR`` everywhere when there are fewer than two. The paper does not say whether its distances are to pixels or to
    contours; here they are to contours as in all maps.
    """
    instances = _instances(truth)
    if instances.max() < 1:
        return np.full((1, *instances.shape), FAR, np.float16)
    outside = instances == NOBODY
    to_nearest, places = ndimage.distance_transform_edt(outside, return_indices=True)
    to_second = _to_others(instances, instances[tuple(places)])
    sums = np.where(outside, to_nearest - 0.5, 0) + (to_second - 0.5)
    return np.minimum(sums, FAR).astype(np.float16)[None]


DISTANCES: dict[str, Callable[[Truth], Maps]] = {"border": border, "signed": signed, "touching": touching}


def channels(name: str, classes: int) -> int:
    """How many maps a kind has for a crop."""
    return classes if name == "signed" else 1


def _to_contour(truth: Truth) -> Distances:
    """From known pixels to the nearest contour between two classes; infinite where there is none, 0 if ignored."""
    classes = np.full(truth.labels.shape, NOBODY)
    _, classes[truth.known] = np.unique(truth.labels[truth.known], return_inverse=True)
    return np.where(truth.known, _to_others(classes, classes) - 0.5, 0)


def _instances(truth: Truth) -> Numbers:
    """Each foreground pixel's instance, counted from 0: the 8-connected pixels of one raw value."""
    numbers, count = np.full(truth.labels.shape, NOBODY), 0
    foreground = truth.foreground
    for value in np.unique(truth.raw[foreground]):
        parts, found = ndimage.label(foreground & (truth.raw == value), EIGHT_NEIGHBOURS)
        numbers = np.where(parts > 0, parts - 1 + count, numbers)
        count += found
    return numbers


def _to_others(numbers: Numbers, own: Numbers) -> Distances:
    """From each pixel to the nearest one whose number is there and not ``own``; infinite where there is none.

    Two numbers differ in at least one bit. So the nearest other is the nearest, over all bits, of those that have the
    opposite bit, and two transforms for each bit do instead of one for each number.
    """
    nearest = np.full(own.shape, np.inf)
    for bit in range(int(numbers.max()).bit_length()):
        bits, own_bits = numbers >> bit & 1, own >> bit & 1
        for value in (0, 1):
            opposite = _to((bits != value) & (numbers != NOBODY))
            np.minimum(nearest, opposite, out=nearest, where=own_bits == value)
    return nearest


def _to(marked: NDArray[np.bool_]) -> Distances:
    """From each pixel's centre to that of the nearest marked one; infinite where none is."""
    if not marked.any():
        return np.full(marked.shape, np.inf)
    distances: Distances = ndimage.distance_transform_edt(~marked)
    return distances
