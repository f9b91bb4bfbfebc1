"""The jackknife of a difference in mIoU: what each unit adds to it (Efron and Tibshirani 1993, ch. 11)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from segline.metrics.confusion import Counts

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassSums:
    """The pixels of each class per unit: those that are right, true, and true or predicted, each (n, k)."""

    correct: Floats
    truth: Floats
    union: Floats

    @classmethod
    def of(cls, counts: Counts) -> "ClassSums":
        """Return the sums of confusion matrices (n, k, k)."""
        correct = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
        truth = counts.sum(-1).astype(np.float64)
        return cls(correct, truth, truth + counts.sum(-2) - correct)

    def by(self, ids: NDArray[np.intp]) -> "ClassSums":
        """Return the sums of the units with the same id."""
        order = np.argsort(ids, kind="stable")
        starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
        return ClassSums(*(np.add.reduceat(part[order], starts) for part in (self.correct, self.truth, self.union)))

    def take(self, rows: NDArray[np.intp]) -> "ClassSums":
        """Return these units."""
        return ClassSums(self.correct[rows], self.truth[rows], self.union[rows])

    @property
    def classes(self) -> NDArray[np.bool_]:
        """The classes over which the mean is taken: those in the truth of any unit."""
        present: NDArray[np.bool_] = self.truth.sum(0) > 0
        return present

    def miou(self, classes: NDArray[np.bool_]) -> float:
        """Return the mIoU over these classes of all units together; NaN without classes."""
        return float(_mean_of_ratios(self.correct.sum(0), self.union.sum(0), classes))

    def miou_without_each(self, classes: NDArray[np.bool_]) -> Floats:
        """Return the mIoU over these classes of all units but one, for each of them (n,).

        A class that only this unit has counts as 0, for either model: what the unit says of it has no second witness,
        and its difference between two models is compared with none.
        """
        return _mean_of_ratios(self.correct.sum(0) - self.correct, self.union.sum(0) - self.union, classes)


def _mean_of_ratios(correct: Floats, union: Floats, classes: NDArray[np.bool_]) -> Floats:
    if not classes.any():
        return np.full(correct.shape[:-1], math.nan)
    ratios = np.divide(correct, union, out=np.zeros_like(correct), where=union > 0)
    return np.asarray(ratios[..., classes].mean(-1))


def deviations(challenger: ClassSums, champion: ClassSums) -> Floats:
    """Return what each unit adds to the difference in mIoU beyond the mean unit (n,): centred jackknife pseudo-values.

    Their sum is 0, and their squares' sum over n (n - 1) estimates the variance of the difference.
    """
    classes = challenger.classes
    return _centred(challenger.miou_without_each(classes) - champion.miou_without_each(classes))


def influences(model: ClassSums) -> Floats:
    """Return what each unit adds to a model's mIoU beyond the mean unit (n,), as :func:`deviations` does."""
    return _centred(model.miou_without_each(model.classes))


def _centred(without: Floats) -> Floats:
    """Return the centred pseudo-values of a figure that was computed without each unit (n,)."""
    values: Floats = (len(without) - 1) * (without.mean() - without)
    return values


def adjacent_correlation(values: Floats, groups: NDArray[np.intp]) -> float:
    """Return the correlation of neighbouring units of the same group, and 0 where it is negative.

    Args:
        values: The deviations of the units (n,).
        groups: The group of each unit (n,).
    """
    squares = float((values**2).sum())
    products = float((values[1:] * values[:-1])[groups[1:] == groups[:-1]].sum())
    return max(products / squares, 0.0) if squares else 0.0


def margin(values: Floats, truth: Floats, error: float, *, adjacent: float = 0.0) -> float:
    """Return the half-width of Student's interval for a difference, of which one side is wrong with chance ``error``.

    The degrees of freedom are those of the effective number of units, which is smaller than their number where a few
    units hold most of the pixels.

    Args:
        values: The deviations of the units (n,).
        truth: The labelled pixels of each unit (n,).
        error: The chance that the difference lies beyond one end of the interval.
        adjacent: The correlation of neighbouring units, at least 0.
    """
    count = len(values)
    shares = truth**2
    effective = float(shares.sum() ** 2 / (shares**2).sum())
    deviation = math.sqrt(float((values**2).sum()) / (count * (count - 1)) * (1 + 2 * adjacent))
    return deviation * float(stdtrit(max(effective - 1, 1), 1 - error))
