"""The section ``promote``: when a challenger becomes champion."""

from dataclasses import dataclass
from typing import Annotated

from segline.config.fields import Range


@dataclass(frozen=True, kw_only=True)
class Promote:
    """The comparison of the challenger with the champion on the test images."""

    enabled: Annotated[bool, "whether the champion may be replaced; false: the challenger is only registered"] = True
    confidence: Annotated[
        float, Range(0.5, 0.9999), "the confidence of the one-sided paired bootstrap, from which on a gain counts"
    ] = 0.95
    resamples: Annotated[int, Range(100, 1_000_000), "the number of bootstrap samples of the test images"] = 2000
