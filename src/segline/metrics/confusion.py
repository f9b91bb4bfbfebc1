"""Region metrics from the confusion matrix (Seed S1, section 7.1; Seed S0, section 5).

Rows are the truth, columns the prediction. A class that is neither in the truth nor predicted has no score:
it is NaN and left out of the means.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED

Counts = NDArray[np.int64]


def confusion(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """The confusion matrix of each image: class ids (n, h, w) twice to counts (n, classes, classes)."""
    images = np.arange(len(truth)).reshape(-1, 1, 1)
    cells = (images * classes + truth) * classes + predicted
    counts = np.bincount(cells[truth != IGNORED], minlength=len(truth) * classes * classes)
    return counts.reshape(len(truth), classes, classes)


def iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of each class; counts (..., k, k) to (..., k)."""
    hits, truth, predicted = _parts(counts)
    return _ratio(hits, truth + predicted - hits)


def dice(counts: Counts) -> NDArray[np.float64]:
    """Dice coefficient (F1 of the pixels) of each class; counts (..., k, k) to (..., k)."""
    hits, truth, predicted = _parts(counts)
    return _ratio(2 * hits, truth + predicted)


def mean_iou(counts: Counts) -> NDArray[np.float64]:
    """The mean of IoU over the classes that have one; counts (..., k, k) to (...)."""
    return _mean(iou(counts))


def pixel_accuracy(counts: Counts) -> NDArray[np.float64]:
    """The share of labelled pixels that are right; counts (..., k, k) to (...)."""
    return _ratio(_parts(counts)[0].sum(-1), counts.sum((-2, -1)))


def scores(counts: Counts, names: Sequence[str]) -> dict[str, Any]:
    """Every region metric of one (k, k) matrix, by name, per class by class name."""
    by_class = {"iou": iou(counts), "dice": dice(counts)}
    return {
        "pixel_accuracy": float(pixel_accuracy(counts)),
        "miou": float(mean_iou(counts)),
        "mean_dice": float(_mean(by_class["dice"])),
        **{kind: dict(zip(names, map(float, values), strict=True)) for kind, values in by_class.items()},
    }


def _parts(counts: Counts) -> tuple[Counts, Counts, Counts]:
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def _ratio(part: NDArray[Any] | np.number[Any], whole: NDArray[Any] | np.number[Any]) -> NDArray[np.float64]:
    ratio = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=ratio, where=np.asarray(whole) > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis without NaN; NaN where there is nothing else."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(-1), there.sum(-1))
