"""Distance maps of label maps, which are computed once for the losses that need them.

Distances are Euclidean, in px, from the center of a pixel to a contour. Contours run between pixels, so that one is
half a px nearer than the center of the first pixel beyond it, and no distance is below 0.5. Ignored pixels are unknown:
they form no contour and belong to no class and no instance. The values of maps at ignored pixels have no meaning.

float16 keeps a distance to within 0.05 %: 0.06 px at 200 px; multiples of 0.5 up to 1024 px are exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segline.classes import IGNORED

FAR = 1000.0
"""The distance where there is no contour; ``border`` and ``touching`` hold no larger value."""

Maps = NDArray[np.float16]
Distances = NDArray[np.float64]
Numbers = NDArray[np.integer]

NOBODY = -1
EIGHT_NEIGHBOURS = np.ones((3, 3))


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth of a crop.

    Attributes:
        labels: The class ids (h, w), 255 = ignored.
        raw: The values of the label file (h, w), which may distinguish instances.
        classes: The number of classes.
        background: The id of the class that is not foreground, or None.
    """

    labels: NDArray[np.uint8]
    raw: NDArray[np.integer]
    classes: int
    background: int | None

    @property
    def known(self) -> NDArray[np.bool_]:
        """The mask of the pixels that are not ignored."""
        known: NDArray[np.bool_] = self.labels != IGNORED
        return known

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """The mask of the known pixels that are not background."""
        return self.known if self.background is None else self.known & (self.labels != self.background)


def border(truth: Truth) -> Maps:
    """Return the distance to the nearest contour between two classes, (1, h, w); ``FAR`` where there is none.

    It is the distance to the nearest pixel of another class, less 0.5.
    """
    return np.minimum(_to_contour(truth), FAR).astype(np.float16)[None]


def signed(truth: Truth) -> Maps:
    """Return the signed distance to the contour of each class, (classes, h, w) (Kervadec et al. 2019, section 2).

    It is negative inside the class, from -0.5 at its rim, and positive outside, from +0.5 next to it; the paper's code
    has 0 and 1 there. A class without a contour, because no known pixel or every known pixel belongs to it, has 0
    everywhere.
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
    """Return the sum of the distances to the nearest two instances, (1, h, w) (Ronneberger et al. 2015, equation 2).

    The distance from a pixel inside an instance to this instance is 0, so there the sum is the distance to the next
    one. It is ``FAR`` everywhere when there are fewer than two instances. The paper does not say whether its distances
    are to pixels or to contours; here they are to contours, as in all maps.
    """
    instances = _instances(truth)
    if instances.max() < 1:
        return np.full((1, *instances.shape), FAR, np.float16)
    outside = instances == NOBODY
    to_nearest, indices = ndimage.distance_transform_edt(outside, return_indices=True)
    to_second = _to_others(instances, instances[tuple(indices)])
    sums = np.where(outside, to_nearest - 0.5, 0) + (to_second - 0.5)
    return np.minimum(sums, FAR).astype(np.float16)[None]


DISTANCES: dict[str, Callable[[Truth], Maps]] = {"border": border, "signed": signed, "touching": touching}


def channels(name: str, classes: int) -> int:
    """Return the number of maps that a kind has for a crop."""
    return classes if name == "signed" else 1


def _to_contour(truth: Truth) -> Distances:
    """Return the distance from known pixels to the nearest contour; infinite without one, 0 at ignored pixels."""
    classes = np.full(truth.labels.shape, NOBODY)
    _, classes[truth.known] = np.unique(truth.labels[truth.known], return_inverse=True)
    return np.where(truth.known, _to_others(classes, classes) - 0.5, 0)


def _instances(truth: Truth) -> Numbers:
    """Return each foreground pixel's instance, counted from 0: the 8-connected pixels of one raw value."""
    numbers, count = np.full(truth.labels.shape, NOBODY), 0
    foreground = truth.foreground
    for value in np.unique(truth.raw[foreground]):
        parts, added = ndimage.label(foreground & (truth.raw == value), EIGHT_NEIGHBOURS)
        numbers = np.where(parts > 0, parts - 1 + count, numbers)
        count += added
    return numbers


def _to_others(numbers: Numbers, own: Numbers) -> Distances:
    """Return the distance from each pixel to the nearest one with a number other than ``own``; infinite without one.

    Two numbers differ in at least one bit. So the nearest other pixel is the nearest, over all bits, of the pixels with
    the opposite bit, and two transforms per bit replace one per number. ``NOBODY`` is no number.
    """
    nearest = np.full(own.shape, np.inf)
    for bit in range(int(numbers.max()).bit_length()):
        bits, own_bits = numbers >> bit & 1, own >> bit & 1
        for value in (0, 1):
            opposite = _to((bits != value) & (numbers != NOBODY))
            np.minimum(nearest, opposite, out=nearest, where=own_bits == value)
    return nearest


def _to(marked: NDArray[np.bool_]) -> Distances:
    """Return the distance from each pixel's center to that of the nearest marked one; infinite when none is marked."""
    if not marked.any():
        return np.full(marked.shape, np.inf)
    distances: Distances = ndimage.distance_transform_edt(~marked)
    return distances
