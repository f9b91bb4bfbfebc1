"""The evaluation, which evaluate writes: metrics and pictures of every candidate, and a list of missing labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segline.artifacts.artifact import Artifact, Record
from segline.files.atomic import write_file, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

METRICS = "metrics.json"
LEADERBOARD = "leaderboard.csv"
COUNTS = "counts"
CURVES = "curves"
CURVES_PLOT = "curves.png"
PICTURES = "pictures"
MISSING_LABELS = "missing_labels.csv"
"""The list of objects that probably lack a label, most confident first."""
MISSING_LABELS_PICTURES = "missing_labels"


@dataclass(frozen=True)
class CountedCrops:
    """The confusion matrices (n, k, k) of frames or crops, with the key and group of each (n,)."""

    counts: "NDArray[np.int64]"
    keys: "NDArray[np.str_]"
    groups: "NDArray[np.str_]"


def write_metrics(folder: Path, metrics: Mapping[str, Record]) -> None:
    """Write the metrics of every candidate on the validation split."""
    write_json(folder / METRICS, dict(metrics))


def write_leaderboard(folder: Path, board: "pd.DataFrame") -> None:
    """Write the leaderboard: one row per candidate, the best validation mIoU first."""
    board.to_csv(folder / LEADERBOARD, index=False, float_format="%.6f")


def read_leaderboard(folder: Path) -> "pd.DataFrame":
    """Read the leaderboard: one row per candidate, the best validation mIoU first.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    import pandas as pd

    EVALUATION.check_format(folder)
    with EVALUATION.reading(folder / LEADERBOARD):
        return pd.read_csv(folder / LEADERBOARD, dtype={"candidate": str})


def counts_file(folder: Path, candidate: str) -> Path:
    """Return the path of a candidate's counts."""
    return folder / COUNTS / f"{candidate}.npz"


def curve_file(folder: Path, candidate: str) -> Path:
    """Return the path of a candidate's history."""
    return folder / CURVES / f"{candidate}.csv"


def write_counts(path: Path, counts: "NDArray[np.int64]", index: "pd.DataFrame") -> None:
    """Write the confusion matrix of every frame or crop (n, k, k) with its key and group."""
    import numpy as np

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(
                stream, counts=counts, key=index["key"].to_numpy(str), group=index["group"].to_numpy(str)
            )

    write_file(path, save)


def read_counts(path: Path, artifact: Artifact) -> CountedCrops:
    """Read the confusion matrices of an artifact's frames or crops.

    Raises:
        StageError: The file is missing or broken.
    """
    import numpy as np

    with artifact.reading(path), np.load(path, allow_pickle=False) as content:
        return CountedCrops(*(np.asarray(content[name]) for name in ("counts", "key", "group")))


def write_missing_labels(folder: Path, table: "pd.DataFrame") -> None:
    """Write the list of missing labels."""
    table.to_csv(folder / MISSING_LABELS, index=False, float_format="%.4f")


def count_missing_labels(folder: Path) -> int:
    """Return the number of objects in the list of missing labels.

    Raises:
        StageError: The file is missing or broken.
    """
    import pandas as pd

    with EVALUATION.reading(folder / MISSING_LABELS):
        return len(pd.read_csv(folder / MISSING_LABELS, usecols=["key"]))


def pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures that compare the candidates."""
    yield from sorted((folder / PICTURES).glob("*.png"))


def missing_label_pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures of the missing labels, most confident first."""
    yield from sorted((folder / MISSING_LABELS_PICTURES).glob("*.png"))


def _metrics(folder: Path) -> Record:
    """Return the validation mIoU of every candidate."""
    by_candidate = EVALUATION.read_json(folder / METRICS)
    return {f"{name}_val_miou": metrics["miou"] for name, metrics in by_candidate.items()}


EVALUATION = Artifact(
    name="evaluation",
    stage="evaluate",
    format=3,
    code=(
        "segline.artifacts.bundle",
        "segline.artifacts.bundle_of_0_1",
        "segline.artifacts.candidates",
        "segline.artifacts.dataset",
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
        "segline.inference.audit",
        "segline.inference.bundle",
        "segline.inference.predict",
        "segline.metrics.confusion",
        "segline.metrics.finite",
        "segline.models",
        "segline.reporting.figures",
        "segline.stages.evaluate",
    ),
    metrics=_metrics,
)
