"""Metrics near contours: trimaps (Seed S4, section 4.3) and the boundary F1 (Csurka, Larlus and Perronnin 2013).

Both return counts per image, which are summed over a split. Ignored pixels are unknown: they form no contour and are
not counted; nor does the border of an image form a contour, as what lies beyond it is not known either.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segline.classes import IGNORED
from segline.metrics.confusion import Counts, confusion_matrix

Ids = NDArray[np.integer]

TOLERANCE = 0.0075
"""The share of the image's diagonal within which contours match, from the paper."""

NEIGHBOR_PAIRS = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
"""The slices of all pixels that have a neighbour to the right, and below, with those of the neighbours."""


def trimap_counts(truth: Ids, predicted: Ids, classes: int, widths: Sequence[int]) -> Counts:
    """Return confusion matrices of the pixels within each width of a true contour, (n, widths, classes, classes).

    The centre of a pixel lies within ``width`` px of a contour if another class's nearest pixel is at most
    ``width`` + 0.5 px away, as contours run between pixels. A band therefore reaches ``width`` px to either side, and
    one of width 1 has the pixels with another class among their 8 neighbours: the paper's semantic edges. The paper
    does not say how it measures its widths.

    The counts away from contours are those of :func:`segline.metrics.confusion.confusion_matrix` less these.

    Args:
        truth: The true class ids (n, h, w); 255 is ignored.
        predicted: The predicted class ids (n, h, w).
        classes: The number of classes.
        widths: The widths of the bands, in px.
    """
    distances = np.stack([_distance_to_contour(image) for image in truth])
    bands = [confusion_matrix(np.where(distances <= width, truth, IGNORED), predicted, classes) for width in widths]
    return np.stack(bands, axis=1)


def boundary_counts(truth: Ids, predicted: Ids, classes: int, tolerance: float = TOLERANCE) -> Counts:
    """Return the numbers of pixels on each class's contours and of those that match, (n, classes, 4).

    A pixel is on a contour of its class if one of its 4 neighbours is of another class. It matches if its distance to
    the nearest pixel on the other map's contour of that class is less than the tolerance, as in the paper. The four
    numbers are: predicted pixels that match, predicted pixels, true pixels that match, true pixels.

    Args:
        truth: The true class ids (n, h, w); 255 is ignored.
        predicted: The predicted class ids (n, h, w).
        classes: The number of classes.
        tolerance: The tolerance as a share of the diagonal; below about one px only identical pixels match.
    """
    radius = tolerance * float(np.hypot(*truth.shape[1:]))
    counts = np.zeros((len(truth), classes, 4), np.int64)
    for image, (true_ids, predicted_ids) in enumerate(zip(truth, predicted, strict=True)):
        contours = _contour_ids(np.where(true_ids == IGNORED, IGNORED, predicted_ids)), _contour_ids(true_ids)
        for class_id in np.setdiff1d(contours, IGNORED):
            ours, theirs = (contour == class_id for contour in contours)
            counts[image, class_id] = *_count_matches(ours, theirs, radius), *_count_matches(theirs, ours, radius)
    return counts


def boundary_f1(counts: Counts) -> NDArray[np.float64]:
    """Return the boundary F1 of each class (..., classes) from counts (..., classes, 4), summed over images or not.

    Precision is the share of the predicted contour that matches, recall the share of the true contour. A class without
    either contour has no score (NaN); a class with only one of them, or without a match, has 0. The paper takes the
    mean of scores per image; here counts are summed, as for every metric, and one image's counts give the paper's
    score.
    """
    matched_predicted, predicted, matched_truth, truth = np.moveaxis(counts, -1, 0)
    precision, recall = matched_predicted / np.maximum(predicted, 1), matched_truth / np.maximum(truth, 1)
    both = precision + recall
    score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return np.where(predicted + truth > 0, score, np.nan)


def _distance_to_contour(labels: Ids) -> NDArray[np.float64]:
    """Return each pixel's distance to the nearest contour; infinite where ignored or without a contour."""
    known = labels != IGNORED
    distances = np.full(labels.shape, np.inf)
    for class_id in np.unique(labels[known]):
        own, others = labels == class_id, known & (labels != class_id)
        if others.any():
            distances[own] = ndimage.distance_transform_edt(~others)[own] - 0.5
    return distances


def _contour_ids(labels: Ids) -> Ids:
    """Return the class ids of the pixels on contours, and ``IGNORED`` elsewhere."""
    on_contour, known = np.zeros(labels.shape, np.bool_), labels != IGNORED
    for here, there in NEIGHBOR_PAIRS:
        differ = (labels[here] != labels[there]) & known[here] & known[there]
        on_contour[here] |= differ
        on_contour[there] |= differ
    return np.where(on_contour, labels, IGNORED)


def _count_matches(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], radius: float) -> tuple[int, int]:
    """Return how many of our pixels are nearer than ``radius`` to one of theirs, and the number of our pixels."""
    total = int(ours.sum())
    if not total or not theirs.any():
        return 0, total
    distances = ndimage.distance_transform_edt(~theirs)[ours]
    return int((distances < radius).sum()), total
