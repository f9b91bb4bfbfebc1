"""The section ``ensemble``: how many candidates are averaged."""

from dataclasses import dataclass
from typing import Annotated

from segline.config.fields import Fraction, Range


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The choice of the members, by their validation mIoU."""

    pool: Annotated[int, Range(1, 1024), "the number of candidates to choose from, the best on validation"] = 8
    max_members: Annotated[int, Range(1, 64), "the largest number of members"] = 3
    min_gain: Annotated[float, Fraction, "the validation mIoU that a further member must add"] = 0.002
    scratch_gb: Annotated[
        float,
        Range(0.1, 100_000),
        "the space in GB for the candidates' probabilities; what does not fit is predicted again for each member",
    ] = 20.0
