"""The ensemble, which ensemble leaves: the bundle of the chosen candidates and its metrics on the test split."""

from pathlib import Path

from segline.artifacts.artifact import Artifact, Facts
from segline.errors import StageError

MODEL = "model"
"""The folder of the bundle."""
METRICS = "metrics.json"
TEST_COUNTS = "test_counts.npz"
KEYS = ("members", "test", "dataset", "test_is_val", "test_images")


def read_metrics(folder: Path) -> Facts:
    """Read the members and their test metrics.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    ENSEMBLE.check_format(folder)
    metrics = ENSEMBLE.read_json(folder / METRICS)
    if not set(KEYS) <= metrics.keys():
        raise StageError(f"{folder / METRICS} is missing or broken; run `segline ensemble` again")
    return metrics


def _facts(folder: Path) -> Facts:
    """Return the members and the hash of the data set."""
    metrics = read_metrics(folder)
    return {"members": ", ".join(metrics["members"]), "dataset": metrics["dataset"]}


def _scores(folder: Path) -> Facts:
    """Return the test metrics."""
    return {f"test_{name}": value for name, value in read_metrics(folder)["test"].items()}


ENSEMBLE = Artifact(
    name="ensemble",
    stage="ensemble",
    format=2,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.dataset",
        "segline.artifacts.ensemble",
        "segline.artifacts.evaluation",
        "segline.classes",
        "segline.data.augment",
        "segline.data.shards",
        "segline.inference.bundle",
        "segline.inference.predict",
        "segline.metrics.confusion",
        "segline.models",
        "segline.stages.ensemble",
    ),
    facts=_facts,
    scores=_scores,
)
