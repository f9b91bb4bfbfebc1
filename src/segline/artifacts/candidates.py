"""The candidates, which train leaves: a folder for each trial with its bundle and history, and a table of trials."""

from pathlib import Path

from segline.artifacts import bundle
from segline.artifacts.artifact import Artifact, Facts
from segline.errors import StageError

TRIALS = "trials.csv"
"""The table of all trials, the best validation mIoU first."""
TRIALS_PLOT = "trials.png"
CURVES_PLOT = "curves.png"
WEIGHTS = "weights.safetensors"
"""The file of a trial with the weights of its best epoch."""
CHECKPOINT = "last.pt"
"""The file of a trial with all that is needed to continue; it is removed when the candidate is whole."""
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


def _facts(folder: Path) -> Facts:
    """Return the names of the candidates."""
    return {"candidates": ", ".join(path.name for path in candidate_folders(folder))}


CANDIDATES = Artifact(
    name="candidates",
    stage="train",
    format=2,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.candidates",
        "segline.artifacts.dataset",
        "segline.artifacts.history",
        "segline.classes",
        "segline.data.augment",
        "segline.data.shards",
        "segline.losses",
        "segline.metrics.confusion",
        "segline.models",
        "segline.stages.train",
        "segline.training.components",
        "segline.training.ddp",
        "segline.training.determinism",
        "segline.training.engine",
        "segline.training.prepare",
        "segline.training.ray_train",
        "segline.training.ray_tune",
        "segline.training.run_trial",
        "segline.training.schedules",
        "segline.training.search.decisions",
        "segline.training.search.grid",
        "segline.training.search.optuna",
        "segline.training.search.run",
        "segline.training.search.schedulers",
        "segline.training.search.spaces",
        "segline.training.search.state",
        "segline.training.trial",
    ),
    facts=_facts,
)
