"""The missing-label audit: it lists objects that a confident model sees and the label lacks (Seed S0, section 5.7).

An object is a connected region (8 neighbours) of pixels which have the same most probable class and which the label
calls background. Pixels near a label of that class are left out, as no border of a label is exact: an unlabelled car in
front of a labelled one is listed by itself, and the seam around a labelled car is not. Ignored pixels and those near
them are no evidence that a label is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from segline.classes import IGNORED
from segline.data.boxes import Box

EIGHT_NEIGHBORS = np.ones((3, 3), np.int8)


@dataclass(frozen=True)
class Suspect:
    """An object that probably lacks a label: its class, box in the image, area in px and mean probability."""

    class_id: int
    box: Box
    pixels: int
    confidence: float


def find_missing_labels(
    predicted: UInt8[np.ndarray, "h w"],
    confidence: Float[np.ndarray, "h w"],
    labels: UInt8[np.ndarray, "h w"],
    background: int | None,
    *,
    min_confidence: float,
    min_pixels: int,
    border: int,
    max_labelled_share: float,
) -> list[Suspect]:
    """Return the objects in an image that probably lack a label, by class and then in reading order.

    Args:
        predicted: The most probable class of every pixel.
        confidence: The probability of that class.
        labels: The class ids of the label.
        background: The id of unlabelled objects. With None every class is an object, and a region is suspected of a
            wrong label if the label gives it any other class.
        min_confidence: The smallest mean probability of the object's class.
        min_pixels: The smallest area.
        border: The distance in px within which a pixel is near; a diagonal step counts as one.
        max_labelled_share: The largest labelled share of the whole region that the model sees as one object. The rest
            of a large labelled object is a prediction beyond its border rather than a missing label.
    """
    suspects: list[Suspect] = []
    for class_id in np.unique(predicted).tolist():
        if class_id == background:
            continue
        settled = (labels == class_id) | (labels == IGNORED)
        unlabelled = ~settled if background is None else labels == background
        objects, count = ndimage.label(predicted == class_id, EIGHT_NEIGHBORS)
        labelled_share = _sums(objects, ~unlabelled, count) / _sums(objects, objects > 0, count)
        eligible = np.append(False, labelled_share <= max_labelled_share)[objects]
        regions = eligible & unlabelled & ~_dilate(settled, border)
        suspects += _find_suspects(class_id, regions, confidence, min_pixels, min_confidence)
    return suspects


def _find_suspects(
    class_id: int,
    mask: NDArray[np.bool_],
    confidence: Float[np.ndarray, "h w"],
    min_pixels: int,
    min_confidence: float,
) -> Iterator[Suspect]:
    """Yield the connected regions of a mask (h, w) that are large and confident enough, in reading order."""
    regions, count = ndimage.label(mask, EIGHT_NEIGHBORS)
    areas, masses = _sums(regions, mask, count), _sums(regions, confidence, count)
    boxes = ndimage.find_objects(regions)
    for index in np.flatnonzero((areas >= min_pixels) & (masses >= min_confidence * areas)):
        rows, columns = boxes[index]
        box = Box(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        yield Suspect(class_id, box, int(areas[index]), float(masses[index] / areas[index]))


def _sums(regions: NDArray[np.integer], values: NDArray[np.generic], count: int) -> NDArray[np.float64]:
    """Return the sum of the values in each of the regions 1 to ``count``."""
    return np.bincount(regions.ravel(), values.ravel(), count + 1)[1:].astype(np.float64)


def _dilate(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Return a mask (h, w) of all pixels within a distance of the pixels of another mask."""
    return np.asarray(ndimage.maximum_filter(mask, 2 * distance + 1, mode="constant"))
