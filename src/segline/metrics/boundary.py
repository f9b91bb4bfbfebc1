"""Metrics near contours: trimaps (Seed S4, section 4.3) and the boundary F1 (Csurka, Larlus and Perronnin 2013).

Both count per image what adds up over a split. Ignored pixels are unknown: they make no contour and count nowhere, and
neither does the frame of an image, as what lies beyond it is not known either.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segline.classes import IGNORED
from segline.metrics.confusion import Counts, confusion

Ids = NDArray[np.integer]

TOLERANCE = 0.0075
"""Of the image's diagonal, within which contours match; from the paper."""

# Pixels and their neighbours to the right and below.
NEIGHBOURS = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))


def trimap_counts(truth: Ids, predicted: Ids, classes: int, widths: Sequence[int]) -> Counts:
    """Confusion matrices of the pixels within each width of a contour of the truth, (n, widths, classes, classes).

    The centre of a pixel lies within ``width`` px of a contour when another class's nearest pixel is at most
    ``width`` + 0.5 px away, as contours run between pixels. So a band reaches ``width`` px to either side, and one of
    width 1 holds the pixels that have one of another class among their 8 neighbours: the paper's semantic edges. The
    paper does not say how it measures its widths.

    What is not near a contour has the counts of :func:`segline.metrics.confusion.confusion` less these.

    Args:
        truth: class ids (n, h, w), 255 = ignored.
        predicted: class ids (n, h, w).
        classes: how many there are.
        widths: in px.
    """
    distances = np.stack([_to_contour(image) for image in truth])
    bands = [confusion(np.where(distances <= width, truth, IGNORED), predicted, classes) for width in widths]
    return np.stack(bands, axis=1)


def boundary_counts(truth: Ids, predicted: Ids, classes: int, tolerance: float = TOLERANCE) -> Counts:
    """The pixels on contours of each class and how many match, (n, classes, 4).

    A pixel is on a contour of its class when one of its 4 neighbours is of another. It matches when its distance to the
    nearest pixel on the other's contour of that class is less than the tolerance, as the paper has it. The four are:
    predicted pixels that match, predicted pixels, pixels of the truth that match, pixels of the truth.

    Args:
        truth: class ids (n, h, w), 255 = ignored.
        predicted: class ids (n, h, w).
        classes: how many there are.
        tolerance: as a share of the diagonal; at least a px or so, or only what is the same matches.
    """
    radius = tolerance * float(np.hypot(*truth.shape[1:]))
    counts = np.zeros((len(truth), classes, 4), np.int64)
    for image, (true, guessed) in enumerate(zip(truth, predicted, strict=True)):
        rims = _rims(np.where(true == IGNORED, IGNORED, guessed)), _rims(true)
        for class_id in np.setdiff1d(rims, IGNORED):
            mine, theirs = (rim == class_id for rim in rims)
            counts[image, class_id] = *_matched(mine, theirs, radius), *_matched(theirs, mine, radius)
    return counts


def boundary_f1(counts: Counts) -> NDArray[np.float64]:
    """The boundary F1 of each class; counts (..., classes, 4), added up over images as wanted, to (..., classes).

    Precision is the share of the predicted contour that matches, recall that of the truth's. A class that has neither
    contour has no score (NaN); one that has only one of them, or no match, has 0. The paper has a score per image and
    takes means of them; here counts are added up, as for every metric, and its score is that of one image's counts.
    """
    matched_predicted, predicted, matched_truth, truth = np.moveaxis(counts, -1, 0)
    precision, recall = matched_predicted / np.maximum(predicted, 1), matched_truth / np.maximum(truth, 1)
    both = precision + recall
    score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return np.where(predicted + truth > 0, score, np.nan)


def _to_contour(labels: Ids) -> NDArray[np.float64]:
    """From each pixel to the nearest contour between two classes; infinite where it is ignored or there is none."""
    known = labels != IGNORED
    distances = np.full(labels.shape, np.inf)
    for class_id in np.unique(labels[known]):
        own, others = labels == class_id, known & (labels != class_id)
        if others.any():
            distances[own] = ndimage.distance_transform_edt(~others)[own] - 0.5
    return distances


def _rims(labels: Ids) -> Ids:
    """The class ids of the pixels on contours, ``IGNORED`` elsewhere."""
    on_rim, known = np.zeros(labels.shape, np.bool_), labels != IGNORED
    for here, there in NEIGHBOURS:
        differ = (labels[here] != labels[there]) & known[here] & known[there]
        on_rim[here] |= differ
        on_rim[there] |= differ
    return np.where(on_rim, labels, IGNORED)


def _matched(mine: NDArray[np.bool_], theirs: NDArray[np.bool_], radius: float) -> tuple[int, int]:
    """How many pixels of mine are nearer than ``radius`` to one of theirs, and how many there are."""
    total = int(mine.sum())
    if not total or not theirs.any():
        return 0, total
    distances = ndimage.distance_transform_edt(~theirs)[mine]
    return int((distances < radius).sum()), total
