"""The ensemble, which ensemble writes: the bundle of the chosen candidates and its metrics on the test split."""

from pathlib import Path

from segline.artifacts.artifact import Artifact, Record
from segline.errors import StageError
from segline.files.atomic import write_json

MODEL = "model"
"""The folder of the bundle."""
METRICS = "metrics.json"
TEST_COUNTS = "test_counts.npz"
REQUIRED = ("members", "test", "dataset", "test_is_val", "test_images")


def write_metrics(folder: Path, metrics: Record) -> None:
    """Write the members and their test metrics."""
    write_json(folder / METRICS, metrics)


def read_metrics(folder: Path) -> Record:
    """Read the members and their test metrics.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    ENSEMBLE.check_format(folder)
    metrics = ENSEMBLE.read_json(folder / METRICS)
    if not set(REQUIRED) <= metrics.keys():
        raise StageError(f"{folder / METRICS} is missing or broken; run `segline ensemble` again")
    return metrics


def _metadata(folder: Path) -> Record:
    """Return the members and the hash of the data set."""
    metrics = read_metrics(folder)
    return {"members": ", ".join(metrics["members"]), "dataset": metrics["dataset"]}


def _metrics(folder: Path) -> Record:
    """Return the test metrics."""
    return {f"test_{name}": value for name, value in read_metrics(folder)["test"].items()}


ENSEMBLE = Artifact(
    name="ensemble",
    stage="ensemble",
    format=3,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.bundle_of_0_1",
        "segline.artifacts.candidates",
        "segline.artifacts.dataset",
        "segline.artifacts.ensemble",
        "segline.artifacts.evaluation",
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
        "segline.inference.scratch",
        "segline.metrics.confusion",
        "segline.metrics.finite",
        "segline.models",
        "segline.stages.ensemble",
    ),
    metadata=_metadata,
    metrics=_metrics,
)
