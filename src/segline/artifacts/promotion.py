"""The promotion, which promote leaves: the decision and the report."""

from dataclasses import dataclass
from pathlib import Path

from segline.artifacts.artifact import Artifact, Facts

DECISION = "decision.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about a version, and why.

    Attributes:
        promoted: Whether the version became champion.
        reason: The reason, as a part of a sentence.
        version: The version's number.
        against: The champion that it was compared with, or None.
        test_miou: The version's mIoU on the test split.
        champion_test_miou: The champion's mIoU on the same images.
        lower_bound: The lower end of the one-sided interval of the gain in mIoU.
        dataset: The content hash of the data set.
        settings: The hash of the parameters and the code that the decision depends on.
        seen_by_champion: The test images that the champion was trained on, which happens when the split is made anew;
            it has an advantage then.
    """

    promoted: bool
    reason: str
    version: int
    against: int | None = None
    test_miou: float
    champion_test_miou: float | None = None
    lower_bound: float | None = None
    dataset: str
    settings: str
    seen_by_champion: int = 0


def read_decision(folder: Path) -> Facts:
    """Read the decision.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    PROMOTION.check_format(folder)
    return PROMOTION.read_json(folder / DECISION)


def _facts(folder: Path) -> Facts:
    """Return all that was decided."""
    return {name: value for name, value in read_decision(folder).items() if value is not None}


def _scores(folder: Path) -> Facts:
    """Return the numbers of the decision."""
    return read_decision(folder)


PROMOTION = Artifact(
    name="promotion",
    stage="promote",
    format=2,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.dataset",
        "segline.artifacts.ensemble",
        "segline.artifacts.evaluation",
        "segline.artifacts.promotion",
        "segline.artifacts.validation",
        "segline.classes",
        "segline.data.augment",
        "segline.data.shards",
        "segline.inference.bundle",
        "segline.inference.predict",
        "segline.metrics.bootstrap",
        "segline.metrics.confusion",
        "segline.models",
        "segline.reporting.report",
        "segline.stages.promote",
    ),
    facts=_facts,
    scores=_scores,
    page=REPORT,
)
