"""Whether one model is better than another on the same test images, beyond the chance in the choice of these images.

The evidence is counted in independent units (:mod:`segline.metrics.units`), and the interval is Student's for the
jackknife's deviations (:mod:`segline.metrics.jackknife`). docs/promotion.md has the false promotions and the power.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segline.metrics.confusion import Counts
from segline.metrics.jackknife import ClassSums, Floats, adjacent_correlation, deviations, influences, margin
from segline.metrics.units import FEWEST, block_ids, block_length, effective_frames, frame_order, ids_in_order

Labels = Sequence[object] | NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models' mIoU on the same test images, and the interval of their difference.

    Attributes:
        challenger: The challenger's mIoU over the classes in the truth.
        champion: The champion's mIoU over the same classes.
        gain: Their difference.
        lower: The bound that the difference exceeds with the chosen confidence; NaN where there is no interval.
        upper: The bound that it does not reach with the same confidence; NaN where there is no interval.
        units: The number of independent units.
        kind: Their kind: "images", "groups" or "blocks of 14 frames".
        reason: Why there is no interval; empty where there is one.
    """

    challenger: float
    champion: float
    gain: float
    lower: float = math.nan
    upper: float = math.nan
    units: int
    kind: str
    reason: str = ""

    @property
    def better(self) -> bool:
        """Whether the challenger is better; False where there is no interval."""
        return self.lower > 0


@dataclass(frozen=True)
class SampleSize:
    """How much a test set says: its images with a labelled pixel, their groups, and as many independent images."""

    frames: int
    groups: int
    effective: float


def sample_size(counts: Counts, *, keys: Labels, groups: Labels) -> SampleSize:
    """Return how much a test set says about a model's mIoU (:func:`segline.metrics.units.effective_frames`).

    Args:
        counts: The model's confusion matrices of the crops (n, k, k).
        keys: The key of each crop's image (n,).
        groups: The group of each crop's image (n,), of which the first crop counts.
    """
    labelled = np.flatnonzero(counts.any((-2, -1)))
    if not len(labelled):
        return SampleSize(0, 0, 0.0)
    keys, groups = np.asarray(keys)[labelled], np.asarray(groups)[labelled]
    frame_ids, first = ids_in_order(keys)
    group_ids, _ = ids_in_order(groups[first])
    order = frame_order(group_ids, keys[first].astype(str).tolist())
    values = influences(ClassSums.of(counts[labelled]).by(frame_ids).take(order))
    return SampleSize(len(first), int(group_ids.max()) + 1, effective_frames(values, group_ids[order]))


def compare(
    challenger: Counts, champion: Counts, *, keys: Labels, groups: Labels, error: float, block_frames: int = 0
) -> Comparison:
    """Compare two models by the counts (n, k, k) of the same n crops, without those that have no labelled pixel.

    The crops of an image are summed, and the images of a group where there are at least five groups. Where there are
    fewer, the units are blocks of consecutive frames of a group. Both models are averaged over the same classes,
    those in the truth.

    Args:
        challenger: The confusion matrices of the challenger.
        champion: The confusion matrices of the champion.
        keys: The key of each crop's image (n,).
        groups: The group of each crop's image (n,), of which the first crop counts.
        error: The chance to call a model better that is as good as the other.
        block_frames: The frames of a block; 0 takes three times the correlation length of the frames.
    """
    labelled = np.flatnonzero(challenger.any((-2, -1)))
    if not len(labelled):
        return _without_labels()
    challenger, champion = challenger[labelled], champion[labelled]
    keys, groups = np.asarray(keys)[labelled], np.asarray(groups)[labelled]
    frame_ids, first = ids_in_order(keys)
    models = [ClassSums.of(counts).by(frame_ids) for counts in (challenger, champion)]
    group_ids, _ = ids_in_order(groups[first])
    count = int(group_ids.max()) + 1
    if count >= FEWEST:
        by_group = [model.by(group_ids) for model in models]
        kind = "images" if count == len(first) else "groups"
        return _result(by_group, _margin(by_group, error), count, kind)
    order = frame_order(group_ids, keys[first].astype(str).tolist())
    return _compare_blocks([model.take(order) for model in models], group_ids[order], error, block_frames)


def _compare_blocks(models: list[ClassSums], groups: NDArray[np.intp], error: float, block_frames: int) -> Comparison:
    """Compare by blocks of the frames, which are in order.

    Two to four groups must agree as well: of the interval by blocks and the one by groups, each end is that of the one
    that goes further, as frames of a group may have something in common that blocks within it do not show.
    """
    length = block_frames or block_length(deviations(*models), groups)
    ids = block_ids(groups, length)
    count = int(ids.max()) + 1
    kind = "images" if length == 1 else f"blocks of {length} frames"
    blocks = [model.by(ids) for model in models]
    if count < FEWEST:
        reason = f"{count} {kind} are too few for an interval, at least {FEWEST} independent units are needed"
        return _result(blocks, math.nan, count, kind, reason)
    owners = groups[np.flatnonzero(np.diff(ids, prepend=-1))]
    half_width = _margin(blocks, error, owners)
    if owners[-1] > 0:
        half_width = max(half_width, _margin([model.by(groups) for model in models], error))
    return _result(blocks, half_width, count, kind)


def _margin(models: list[ClassSums], error: float, owners: NDArray[np.intp] | None = None) -> float:
    values: Floats = deviations(*models)
    adjacent = 0.0 if owners is None else adjacent_correlation(values, owners)
    return margin(values, models[0].truth.sum(1), error, adjacent=adjacent)


def _result(models: list[ClassSums], half_width: float, units: int, kind: str, reason: str = "") -> Comparison:
    classes = models[0].classes
    challenger, champion = (model.miou(classes) for model in models)
    gain = challenger - champion
    return Comparison(
        challenger=challenger,
        champion=champion,
        gain=gain,
        lower=gain - half_width,
        upper=gain + half_width,
        units=units,
        kind=kind,
        reason=reason,
    )


def _without_labels() -> Comparison:
    nan = math.nan
    reason = "no test image has a labelled pixel"
    return Comparison(challenger=nan, champion=nan, gain=nan, units=0, kind="images", reason=reason)


def most_frequent(counts: Counts, class_id: int) -> Counts:
    """Return the counts (n, k, k) on the same crops of a model that predicts one class everywhere."""
    constant = np.zeros_like(counts)
    constant[..., class_id] = counts.sum(-1)
    return constant
