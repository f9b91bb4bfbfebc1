"""The section ``promote``: when a challenger becomes champion."""

from dataclasses import dataclass, field
from typing import Annotated

from segline.config.fields import Range, Unit


@dataclass(frozen=True, kw_only=True)
class ErrorBudget:
    """The chance of any false promotion among a number of decisions, each of which gets an equal part."""

    total: Annotated[float, Range(1e-6, 0.5), "the chance of a false promotion among all decisions together"] = 0.05
    decisions: Annotated[
        int, Range(0, 100_000), "the number of decisions that one test set may make; 0: no budget, see `confidence`"
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Promote:
    """The comparison of the challenger with the champion on the test images."""

    enabled: Annotated[bool, "whether the champion may be replaced; false: the challenger is only registered"] = True
    confidence: Annotated[
        float, Range(0.5, 0.9999), "the confidence of the one-sided interval of the gain, from which on a gain counts"
    ] = 0.95
    block_frames: Annotated[
        int,
        Range(0, 1_000_000),
        Unit("frames"),
        "the length of the blocks of consecutive frames that are compared where there are fewer than 5 groups; 0: "
        "three times their correlation length",
    ] = 0
    error_budget: ErrorBudget = field(default_factory=ErrorBudget)

    @property
    def error(self) -> float:
        """The chance of a false promotion that one decision may have."""
        budget = self.error_budget
        return budget.total / budget.decisions if budget.decisions else 1 - self.confidence
