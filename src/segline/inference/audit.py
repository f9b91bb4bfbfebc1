"""The missing-label audit: objects that a confident model sees and the label lacks (Seed S0, section 5.7)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from segline.classes import IGNORED
from segline.data.boxes import Box

EIGHT_NEIGHBOURS = np.ones((3, 3), np.int8)


@dataclass(frozen=True)
class Suspect:
    """A probably unlabelled object: its class, its box in the crop, its area in px and its mean probability."""

    class_id: int
    box: Box
    pixels: int
    confidence: float


def find_unlabelled(
    probabilities: Float[np.ndarray, "k h w"],
    labels: UInt8[np.ndarray, "h w"],
    background: int | None,
    *,
    min_confidence: float,
    min_pixels: int,
    border: int,
    max_labelled_share: float,
) -> list[Suspect]:
    """The objects in a crop that are probably unlabelled, by class and then in reading order.

    An object is a connected region (8 neighbours) of pixels whose most probable class is the same, and which the
    label calls background. Pixels near a label of that class are left aside, for no border of a label is exact: so an
    unlabelled car in front of a labelled one is found by itself, and the seam around a labelled car is not. Ignored
    pixels, and those near them, are no evidence that a label is missing.

    Args:
        background: the id that unlabelled objects have. None for data in which every class is an object: there a
            region is suspected that the label gives to any other class, so it is wrongly labelled.
        min_confidence: least mean probability of the object's class.
        min_pixels: least area.
        border: how far, in px, a pixel is near; diagonals count as one.
        max_labelled_share: of the whole region that the model sees as one, the largest share that is not evidence
            of a missing label. What is left of a large labelled object is rather a prediction that spilt over.
    """
    predicted = probabilities.argmax(0)
    found = []
    for class_id in np.unique(predicted).tolist():
        if class_id == background:
            continue
        settled = (labels == class_id) | (labels == IGNORED)
        lacking = ~settled if background is None else labels == background
        seen, count = ndimage.label(predicted == class_id, EIGHT_NEIGHBOURS)
        labelled_share = _sums(seen, ~lacking, count) / _sums(seen, seen > 0, count)
        regions, count = ndimage.label((seen > 0) & lacking & ~_widened(settled, border), EIGHT_NEIGHBOURS)
        area, mass = (_sums(regions, what, count) for what in (regions > 0, probabilities[class_id]))
        places = ndimage.find_objects(regions)
        for number in np.flatnonzero((area >= min_pixels) & (mass >= min_confidence * area)):
            rows, columns = places[number]
            whole = seen[rows, columns][regions[rows, columns] == number + 1][0]
            if labelled_share[whole - 1] > max_labelled_share:
                continue
            box = Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
            found.append(Suspect(class_id, box, int(area[number]), float(mass[number] / area[number])))
    return found


def _sums(regions: NDArray[np.integer], values: NDArray[np.generic], count: int) -> NDArray[np.float64]:
    """The sum of the values in each of the regions 1 to ``count``."""
    return np.bincount(regions.ravel(), values.ravel(), count + 1)[1:].astype(np.float64)


def _widened(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """The pixels of a mask (h, w) and all within a distance of them."""
    return np.asarray(ndimage.maximum_filter(mask, 2 * distance + 1, mode="constant"))
