"""The promotion, which promote writes: the decision and the report."""

from dataclasses import dataclass
from pathlib import Path

from segline.artifacts.artifact import Artifact, Record
from segline.files.atomic import write_json
from segline.redaction import redact

DECISION = "decision.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision about a version, with its reason.

    Attributes:
        promoted: Whether the version became champion.
        reason: The reason, as a part of a sentence.
        version: The version's number.
        against: The champion that it was compared with, or None.
        test_miou: The version's mIoU on the test split.
        champion_test_miou: The champion's mIoU on the same images.
        baseline_test_miou: The mIoU of the most frequent class on the same images, which a first champion exceeds.
        gain: The difference of the two models' mIoU.
        lower_bound: The lower end of the one-sided interval of the gain in mIoU; None where there is no interval.
        upper_bound: The upper end of the one-sided interval to the other side; None where there is no interval.
        units: The number of independent units.
        kind: The kind of these units, such as "groups".
        frames: The number of test images with a labelled pixel.
        groups: The number of groups of these images.
        effective_frames: The number of independent images that would say as much about the version's mIoU.
        test_set: The hash of the keys, groups and labelled pixels of the test images.
        judged: The number of decisions by this test set, with this one.
        dataset: The content hash of the data set.
        settings: The hash of the parameters and the code that the decision depends on.
        seen_by_champion: The number of test images that the champion was trained on, which gives it an advantage. It
            is not 0 when the split has changed since.
    """

    promoted: bool
    reason: str
    version: int
    against: int | None = None
    test_miou: float
    champion_test_miou: float | None = None
    baseline_test_miou: float | None = None
    gain: float | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None
    units: int | None = None
    kind: str | None = None
    frames: int | None = None
    groups: int | None = None
    effective_frames: float | None = None
    test_set: str | None = None
    judged: int | None = None
    dataset: str
    settings: str
    seen_by_champion: int = 0


def write_decision(folder: Path, decision: Record) -> None:
    """Write the decision with the name of the model and the address of MLflow, without the secrets in its texts."""
    write_json(folder / DECISION, _redacted(decision))


def read_decision(folder: Path) -> Record:
    """Read the decision, without a login that an earlier version wrote.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    PROMOTION.check_format(folder)
    return _redacted(PROMOTION.read_json(folder / DECISION))


def _redacted(decision: Record) -> Record:
    return {name: redact(value) if isinstance(value, str) else value for name, value in decision.items()}


def _metadata(folder: Path) -> Record:
    """Return the decision without missing values."""
    return {name: value for name, value in read_decision(folder).items() if value is not None}


def _metrics(folder: Path) -> Record:
    """Return the decision, whose numbers are metrics."""
    return read_decision(folder)


PROMOTION = Artifact(
    name="promotion",
    stage="promote",
    format=3,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.bundle_of_0_1",
        "segline.artifacts.dataset",
        "segline.artifacts.ensemble",
        "segline.artifacts.evaluation",
        "segline.artifacts.promotion",
        "segline.artifacts.validation",
        "segline.classes",
        "segline.data.augment",
        "segline.data.boxes",
        "segline.data.decoding",
        "segline.data.encoding",
        "segline.data.frames",
        "segline.data.parts",
        "segline.data.reading",
        "segline.data.shards",
        "segline.data.split",
        "segline.data.tiles",
        "segline.inference.bundle",
        "segline.inference.predict",
        "segline.metrics.comparison",
        "segline.metrics.confusion",
        "segline.metrics.finite",
        "segline.metrics.jackknife",
        "segline.metrics.units",
        "segline.models",
        "segline.reporting.report",
        "segline.stages.judgement",
        "segline.stages.promote",
        "segline.stages.settlement",
    ),
    metadata=_metadata,
    metrics=_metrics,
    page=REPORT,
)
