"""Region metrics from the confusion matrix (Seed S1, section 7.1; Seed S0, section 5).

Rows are the truth, columns the prediction. A class that is not in the truth has no score, however many pixels of it are
predicted: its score is NaN and left out of the means, so that all models are averaged over the same classes. A wrong
prediction of it counts against the class that is there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED

Counts = NDArray[np.int64]


def confusion_matrix(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Return the confusion matrix of each image, (n, classes, classes), from two arrays of class ids (n, h, w)."""
    images = np.arange(len(truth)).reshape(-1, 1, 1)
    cells = (images * classes + truth) * classes + predicted
    counts = np.bincount(cells[truth != IGNORED], minlength=len(truth) * classes * classes)
    return counts.reshape(len(truth), classes, classes)


def iou(counts: Counts) -> NDArray[np.float64]:
    """Return the intersection over union of each class in the truth, (..., k) from counts (..., k, k)."""
    correct, truth, predicted = _class_sums(counts)
    return _ratio(correct, np.where(truth > 0, truth + predicted - correct, 0))


def dice(counts: Counts) -> NDArray[np.float64]:
    """Return the Dice coefficient (F1 of the pixels) of each class in the truth, (..., k) from counts (..., k, k)."""
    correct, truth, predicted = _class_sums(counts)
    return _ratio(2 * correct, np.where(truth > 0, truth + predicted, 0))


def mean_iou(counts: Counts) -> NDArray[np.float64]:
    """Return the mean IoU over the classes in the truth, (...) from counts (..., k, k)."""
    return _mean(iou(counts))


def pixel_accuracy(counts: Counts) -> NDArray[np.float64]:
    """Return the share of labelled pixels with the right class, (...) from counts (..., k, k)."""
    return _ratio(_class_sums(counts)[0].sum(-1), counts.sum((-2, -1)))


def scores(counts: Counts, names: Sequence[str]) -> dict[str, Any]:
    """Return every region metric of one (k, k) matrix by name, and those of a class by its name."""
    by_class = {"iou": iou(counts), "dice": dice(counts)}
    return {
        "pixel_accuracy": float(pixel_accuracy(counts)),
        "miou": float(mean_iou(counts)),
        "mean_dice": float(_mean(by_class["dice"])),
        **{kind: dict(zip(names, map(float, values), strict=True)) for kind, values in by_class.items()},
    }


def _class_sums(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Return the pixels that are right, true and predicted, per class."""
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def _ratio(part: NDArray[Any] | np.number[Any], whole: NDArray[Any] | np.number[Any]) -> NDArray[np.float64]:
    """Divide, with NaN where the divisor is zero."""
    ratio = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=ratio, where=np.asarray(whole) > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis without NaN; NaN where there is nothing else."""
    valid = ~np.isnan(values)
    return _ratio(np.where(valid, values, 0).sum(-1), valid.sum(-1))
