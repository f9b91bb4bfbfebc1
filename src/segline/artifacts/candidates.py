"""The candidates, which train writes: a folder for each trial with its bundle and history, and a table of trials."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from segline.artifacts import bundle
from segline.artifacts.artifact import Artifact, Record
from segline.errors import StageError
from segline.files.atomic import write_json, write_text

TRIALS = "trials.csv"
"""The table of all trials, the best validation mIoU first."""
TRIALS_PLOT = "trials.png"
CURVES_PLOT = "curves.png"
HISTORY = "history.csv"
"""The file of a trial with a row of metrics for each epoch."""
TRIAL = "trial.json"
"""The file of a trial with its parameters, as MLflow shows them."""
WEIGHTS = "weights.safetensors"
"""The file of a trial with the weights of its best epoch."""
CHECKPOINT = "last.pt"
"""The file of a trial with all that is needed to continue; it is deleted when the candidate is complete."""
PREVIOUS = "previous.pt"
"""The checkpoint before the last one, from which a trial goes on if the last one is damaged."""
TRACEBACK = "traceback.txt"
"""The file in the folder of a trial that failed by an error that is not known."""
ELIMINATED = "eliminated"
"""The file in the folder of a trial that the scheduler stopped."""


def candidate_folders(folder: Path) -> list[Path]:
    """Return the folders of all candidates, sorted by name.

    Raises:
        StageError: There are none, or another version of Segline wrote them.
    """
    CANDIDATES.check_format(folder)
    folders = sorted(path.parent for path in folder.glob(f"*/{bundle.FILE}"))
    if not folders:
        raise StageError(f"{folder} holds no candidates; run `segline train` again")
    return folders


def write_history(folder: Path, epochs: Sequence[dict[str, float]]) -> None:
    """Write the metrics of a trial, a row for each epoch."""
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(epochs[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(epochs)
    write_text(folder / HISTORY, text.getvalue())


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a trial for each epoch so far."""
    path = folder / HISTORY
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def count_epochs(text: str) -> int:
    """Return the number of epochs in the text of a history."""
    return max(0, len(text.splitlines()) - 1)


def write_trial_params(folder: Path, params: dict[str, Any]) -> None:
    """Write the parameters of a trial."""
    write_json(folder / TRIAL, params)


def read_trial_params(folder: Path) -> dict[str, Any]:
    """Return the parameters of a trial."""
    content: dict[str, Any] = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
    return content


def _metadata(folder: Path) -> Record:
    """Return the names of the candidates."""
    return {"candidates": ", ".join(path.name for path in candidate_folders(folder))}


CANDIDATES = Artifact(
    name="candidates",
    stage="train",
    format=3,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.bundle_of_0_1",
        "segline.artifacts.candidates",
        "segline.artifacts.dataset",
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
        "segline.losses",
        "segline.metrics.confusion",
        "segline.metrics.finite",
        "segline.models",
        "segline.stages.train",
        "segline.training.broken_batch",
        "segline.training.components",
        "segline.training.ddp",
        "segline.training.depthwise",
        "segline.training.determinism",
        "segline.training.engine",
        "segline.training.feature_views",
        "segline.training.fine_tuning",
        "segline.training.init_weights",
        "segline.training.last_checkpoint",
        "segline.training.order",
        "segline.training.prepare",
        "segline.training.ray_train",
        "segline.training.ray_tune",
        "segline.training.run",
        "segline.training.run_trial",
        "segline.training.saved_run",
        "segline.training.schedules",
        "segline.training.search.decisions",
        "segline.training.search.grid",
        "segline.training.search.optuna",
        "segline.training.search.run",
        "segline.training.search.schedulers",
        "segline.training.search.spaces",
        "segline.training.search.state",
        "segline.training.step",
        "segline.training.trial",
        "segline.training.validation",
    ),
    metadata=_metadata,
)
