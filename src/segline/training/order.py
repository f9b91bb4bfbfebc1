"""The order of the training crops in an epoch, in which crops of rare classes may be repeated."""

import numpy as np
from numpy.typing import NDArray

from segline.data.split import Split

BITS = 20
"""Repeat factors are rounded to whole numbers of 2 ** -BITS, so that sums of them have no rounding error."""


class EpochOrder:
    """The order of the crops in each epoch, from the seed and the epoch's number alone.

    Repeat-factor sampling of Gupta et al. 2019 (LVIS, appendix B.2): a class c that a share f(c) of the crops holds has
    the factor max(1, sqrt(threshold / f(c))), and a crop has the largest factor of its classes. A factor of 1.3 repeats
    a crop in 30 % of the epochs. The number of crops in an epoch is always the sum of the factors, rounded down: all
    epochs have equally many steps.

    Args:
        split: The training split.
        threshold: The share of the crops below which the crops of a class are repeated; 0 repeats none.
        seed: The seed of the training.
    """

    def __init__(self, split: Split, threshold: float, seed: int) -> None:
        self._count, self._seed = len(split), seed
        factors = repeat_factors(split.class_presence(), threshold) if threshold else None
        self._units = None if factors is None else np.round(factors * 2**BITS).astype(np.int64)

    def __len__(self) -> int:
        """Return the number of crops in an epoch."""
        return self._count if self._units is None else int(self._units.sum() >> BITS)

    def epoch(self, number: int) -> NDArray[np.integer]:
        """Return the positions of the crops of an epoch, in their order."""
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(self._count)
        if self._units is None:
            return order
        # Systematic sampling: of the marks at u, 1 + u, 2 + u and so on, each crop gets those within its stretch.
        ends = self._units[order].cumsum() + rng.integers(2**BITS)
        repeats = np.diff(ends >> BITS, prepend=0)
        return rng.permutation(np.repeat(order, repeats))[: len(self)]


def repeat_factors(presence: NDArray[np.bool_], threshold: float) -> NDArray[np.float64]:
    """Return the repeat factor of each crop.

    Args:
        presence: Whether each crop holds each class, (n, classes).
        threshold: The share of the crops below which the crops of a class are repeated.
    """
    share = presence.mean(0)
    by_class = np.sqrt(threshold / np.where(share > 0, share, 1.0))
    factors: NDArray[np.float64] = np.where(presence, by_class, 1.0).max(1, initial=1.0)
    return factors
