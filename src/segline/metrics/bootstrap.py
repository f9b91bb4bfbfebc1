"""The paired bootstrap, which tests whether one model is better than another (Efron and Tibshirani 1993, ch. 16)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segline.metrics.confusion import Counts, mean_iou


@dataclass(frozen=True)
class Comparison:
    """Two models' mIoU, their difference, and the bound that the difference exceeds with the chosen confidence."""

    challenger: float
    champion: float
    gain: float
    lower_bound: float

    @property
    def better(self) -> bool:
        """Whether the challenger is better beyond the chance in the choice of the test images."""
        return self.lower_bound > 0


def compare(challenger: Counts, champion: Counts, *, resamples: int, confidence: float, seed: int) -> Comparison:
    """Compare two models by the counts (n, k, k) of the same n images.

    The images are drawn with replacement, the same ones for both models; mIoU is computed from the summed counts of
    each draw. The lower bound is the (1 - confidence) quantile of the gain over all draws that have an mIoU.
    """
    images = len(challenger)
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    gains = _resampled_miou(draws, challenger) - _resampled_miou(draws, champion)
    gains = gains[~np.isnan(gains)]
    challenger_miou, champion_miou = (float(mean_iou(counts.sum(0))) for counts in (challenger, champion))
    bound = float(np.quantile(gains, 1 - confidence)) if len(gains) else math.nan
    return Comparison(challenger_miou, champion_miou, challenger_miou - champion_miou, bound)


def _resampled_miou(draws: Counts, counts: Counts) -> NDArray[np.float64]:
    """Return the mIoU of each draw; draws (resamples, n) say how often it holds each image."""
    return mean_iou(np.tensordot(draws, counts, axes=1))
