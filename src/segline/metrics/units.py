"""The independent units of a test set: groups, or blocks of consecutive frames where there are few groups.

Crops of one image and frames of one drive resemble each other, so that neither is independent evidence. Groups are:
no group is divided between the splits, and a group is a drive, a city or a patient (docs/promotion.md).
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 5
"""The smallest number of units from which a variance is estimated."""
CORRELATED = 0.2
"""The autocorrelation below which frames count as apart."""
SAFETY = 3
"""The length of a block in correlation lengths: neighbouring blocks of one length still share a good part."""
Ids = NDArray[np.intp]


def ids_in_order(labels: Sequence[object] | NDArray[np.generic]) -> tuple[Ids, Ids]:
    """Return the number of each row's label (n,), counted in the order of appearance, and each label's first row."""
    _, first, inverse = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse], first[order]


def frame_order(groups: Ids, keys: Iterable[str]) -> Ids:
    """Return the rows group by group, and the frames of a group in the natural order of their keys: 2 before 10."""
    natural = [[int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", key)] for key in keys]
    return np.array(sorted(range(len(groups)), key=lambda row: (groups[row], natural[row])), np.intp)


def correlation_length(differences: NDArray[np.float64], groups: Ids) -> int:
    """Return the smallest lag, in frames, at which the autocorrelation of the differences falls below 0.2.

    The autocorrelation is that about the mean of all frames and not of each group, so that what a whole group has in
    common counts as correlation. If it does not fall, the length is that of the longest group.

    Args:
        differences: What each frame adds to the difference between two models (n,), without its mean.
        groups: The group of each frame (n,); the frames of a group are neighbours and in order.
    """
    longest = int(np.bincount(groups).max())
    variance = float(np.mean(differences**2))
    if variance == 0:
        return 1
    for lag in range(1, longest):
        same = groups[lag:] == groups[:-lag]
        covariance = float(np.mean((differences[lag:] * differences[:-lag])[same]))
        if covariance < CORRELATED * variance:
            return lag
    return longest


def effective_frames(values: NDArray[np.float64], groups: Ids) -> float:
    """Return how many independent frames would say as much about a mean as these do: n over the design effect.

    The design effect (Kish 1965, 8.2) is the variance of the sum with what the frames of a group have in common, over
    the variance without it. Where there are at least five groups, all pairs of frames of a group count. With fewer, a
    group's own mean cannot be told from chance, so pairs count up to the lag at which frames no longer resemble each
    other; what such a group has in common with no other stays unseen.

    Args:
        values: What each frame adds to the figure beyond the mean frame (n,); their sum is 0.
        groups: The group of each frame (n,); the frames of a group are neighbours and in order.
    """
    count = len(values)
    alone = float((values**2).sum())
    if alone == 0:
        return float(count)
    if int(groups.max()) + 1 >= FEWEST:
        together = float((np.bincount(groups, values) ** 2).sum())
    else:
        together = alone + 2 * _shared(values, groups)
    return max(count * alone / max(together, alone), 1.0)


def _shared(values: NDArray[np.float64], groups: Ids) -> float:
    """Return the sum of the products of two frames of a group, up to the first lag at which it is not positive."""
    total = 0.0
    for lag in range(1, int(np.bincount(groups).max())):
        products = float((values[lag:] * values[:-lag])[groups[lag:] == groups[:-lag]].sum())
        if products <= 0:
            break
        total += products
    return total


def block_length(differences: NDArray[np.float64], groups: Ids) -> int:
    """Return the frames of a block: one where frames are not correlated, else three times the correlation length."""
    length = correlation_length(differences, groups)
    return min(length if length == 1 else SAFETY * length, int(np.bincount(groups).max()))


def block_ids(groups: Ids, length: int) -> Ids:
    """Return the block of each frame (n,): consecutive frames of a group, at least ``length`` of them.

    Frames that are left over at the end of a group join its last block; a shorter group is one block.
    """
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    number = np.arange(len(groups)) - starts[groups]
    blocks = np.maximum(sizes // length, 1)
    within = np.minimum(number // length, blocks[groups] - 1)
    ids: Ids = (np.cumsum(blocks) - blocks)[groups] + within
    return ids
