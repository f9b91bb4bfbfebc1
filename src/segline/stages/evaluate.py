"""Evaluate: every candidate on the validation split: metrics, counts per image, pictures, curves, leaderboard."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from segline.data.shards import Description, Split, open_split
from segline.errors import StageError
from segline.inference.bundle import load_models, read_bundle
from segline.inference.predict import count_split, probabilities
from segline.metrics.confusion import Counts, scores
from segline.outputs import write_file, write_json, writing
from segline.params import Evaluate, Params
from segline.pictures import draw_comparison, draw_curves
from segline.progress import bar, say
from segline.stages.train import HISTORY, read_description


@dataclass(frozen=True)
class Candidate:
    """A trained candidate, loaded."""

    name: str
    folder: Path
    models: list[nn.Module]


def run(params: Params, *, labelled: Path, trained: Path, out: Path) -> None:
    """Write ``metrics.json``, ``leaderboard.csv``, ``counts/``, ``curves/``, ``curves.png`` and ``pictures/``."""
    description = read_description(labelled)
    split = open_split(labelled, "val")
    candidates = load_candidates(trained)
    with writing(out) as work:
        counts = _count(candidates, split, len(description.classes), params.evaluate)
        for name, matrix in counts.items():
            write_counts(work / "counts" / f"{name}.npz", matrix, split)
        metrics = {name: scores(matrix.sum(0), description.names) for name, matrix in counts.items()}
        write_json(work / "metrics.json", metrics)
        board = leaderboard(metrics)
        board.to_csv(work / "leaderboard.csv", index=False, float_format="%.6f")
        _write_curves(candidates, work)
        _write_pictures(candidates, split, description, params.evaluate.pictures, work / "pictures")
    best = board.iloc[0]
    say(f"evaluate: best on validation is {best['candidate']}, mIoU {best['miou']:.3f}; pictures in {out}/pictures")


def load_candidates(trained: Path) -> list[Candidate]:
    """All candidates that train wrote, sorted by name.

    Raises:
        StageError: there is none.
    """
    folders = sorted(path for path in trained.iterdir() if path.is_dir())
    if not folders:
        raise StageError(f"{trained} holds no candidates; run `segline train` again")
    return [load_candidate(folder) for folder in folders]


def load_candidate(folder: Path) -> Candidate:
    """A candidate from its folder."""
    return Candidate(folder.name, folder, load_models(folder, read_bundle(folder)))


def leaderboard(metrics: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per candidate, the best mIoU first."""
    rows = [
        {"candidate": name, **{key: values[key] for key in ("miou", "mean_dice", "pixel_accuracy")}}
        for name, values in metrics.items()
    ]
    return pd.DataFrame(rows).sort_values(["miou", "candidate"], ascending=[False, True], ignore_index=True)


def read_leaderboard(evaluated: Path) -> pd.DataFrame:
    """The leaderboard that evaluate wrote.

    Raises:
        StageError: it is missing.
    """
    path = evaluated / "leaderboard.csv"
    try:
        return pd.read_csv(path, dtype={"candidate": str})
    except (OSError, ValueError):
        raise StageError(f"{path} is missing or broken; run `segline evaluate` again") from None


def write_counts(path: Path, counts: Counts, split: Split) -> None:
    """The confusion matrix of every crop, with its key and group."""
    index = split.index
    content = {"counts": counts, "key": index["key"].to_numpy(str), "group": index["group"].to_numpy(str)}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **content)

    write_file(path, save)


def _count(candidates: list[Candidate], split: Split, classes: int, settings: Evaluate) -> dict[str, Counts]:
    with bar("evaluating", len(candidates) * len(split)) as advance:
        return {
            candidate.name: count_split(
                candidate.models, split, classes=classes, batch_size=settings.batch_size, progress=advance
            )
            for candidate in candidates
        }


def _write_curves(candidates: list[Candidate], work: Path) -> None:
    (work / "curves").mkdir()
    histories = {candidate.name: pd.read_csv(candidate.folder / HISTORY) for candidate in candidates}
    for candidate in candidates:
        shutil.copyfile(candidate.folder / HISTORY, work / "curves" / f"{candidate.name}.csv")
    draw_curves(histories, work / "curves.png")


def _write_pictures(
    candidates: list[Candidate], split: Split, description: Description, count: int, folder: Path
) -> None:
    """Image, truth and every candidate side by side, for crops spread evenly over the split."""
    folder.mkdir()
    for position in np.unique(np.linspace(0, len(split) - 1, count).round().astype(int)):
        images, labels = split.take([position])
        maps = {"label": labels[0]}
        for candidate in candidates:
            maps[candidate.name] = probabilities(candidate.models, images).argmax(1)[0].cpu().numpy()
        draw_comparison(images[0], maps, description.classes, folder / f"{split.index['key'].iloc[position]}.png")
