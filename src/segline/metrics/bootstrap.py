"""Is one model better than another on the same images? The paired bootstrap (Efron and Tibshirani 1993, ch. 16)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segline.metrics.confusion import Counts, mean_iou


@dataclass(frozen=True)
class Comparison:
    """The difference of two models' mIoU, and the bound that it exceeds with the wanted confidence."""

    challenger: float
    champion: float
    gain: float
    lower_bound: float

    @property
    def better(self) -> bool:
        """Whether the challenger is better beyond the chance of which images were tested on."""
        return self.lower_bound > 0


def compare(challenger: Counts, champion: Counts, *, resamples: int, confidence: float, seed: int) -> Comparison:
    """Compare two models by the counts (n, k, k) of the same n images.

    The images are drawn with replacement, the same ones for both models; mIoU is computed from the summed
    counts of each draw. The lower bound is the (1 - confidence) quantile of the gain.
    """
    images = len(challenger)
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    gains = _miou(drawn, challenger) - _miou(drawn, champion)
    mine, theirs = (float(mean_iou(counts.sum(0))) for counts in (challenger, champion))
    scored = gains[~np.isnan(gains)]
    bound = float(np.quantile(scored, 1 - confidence)) if len(scored) else math.nan
    return Comparison(mine, theirs, mine - theirs, bound)


def _miou(drawn: Counts, counts: Counts) -> NDArray[np.float64]:
    return mean_iou(np.tensordot(drawn, counts, axes=1))
