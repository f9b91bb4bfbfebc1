"""Evaluate: every candidate on the validation split: metrics, counts per image, pictures, curves, leaderboard."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.data.shards import Description, Split, open_split, read_description
from segline.errors import StageError
from segline.inference.bundle import HISTORY, load_models, read_bundle
from segline.inference.predict import count_split, probabilities
from segline.metrics.confusion import Counts, scores
from segline.outputs import write_file, write_json, writing
from segline.params import Params
from segline.pictures import draw_comparison, draw_curves
from segline.progress import bar, say


@dataclass(frozen=True)
class Seen:
    """What a candidate made of the split: its counts (n, k, k), and label maps of the pictured crops."""

    counts: Counts
    maps: list[NDArray[np.integer]]


def run(params: Params, *, labelled: Path, trained: Path, out: Path) -> None:
    """Write ``metrics.json``, ``leaderboard.csv``, ``counts/``, ``curves/``, ``curves.png`` and ``pictures/``.

    Raises:
        StageError: there are no candidates.
    """
    description = read_description(labelled)
    split = open_split(labelled, "val")
    pictured = np.unique(np.linspace(0, len(split) - 1, params.evaluate.pictures).round().astype(int))
    folders = candidate_folders(trained)
    with writing(out) as work:
        with bar("evaluating", len(folders) * len(split)) as advance:
            seen = {
                folder.name: _look(folder, split, description, pictured, params.evaluate.batch_size, advance)
                for folder in folders
            }
        for name, entry in seen.items():
            write_counts(work / "counts" / f"{name}.npz", entry.counts, split)
        metrics = {name: scores(entry.counts.sum(0), description.names) for name, entry in seen.items()}
        write_json(work / "metrics.json", metrics)
        board = leaderboard(metrics)
        board.to_csv(work / "leaderboard.csv", index=False, float_format="%.6f")
        _write_curves(folders, work)
        _write_pictures(seen, split, pictured, description, work / "pictures")
    best = board.iloc[0]
    say(f"evaluate: best on validation is {best['candidate']}, mIoU {best['miou']:.3f}; pictures in {out}/pictures")


def candidate_folders(trained: Path) -> list[Path]:
    """The folders of all candidates that train wrote, sorted by name.

    Raises:
        StageError: there is none.
    """
    folders = sorted(path for path in trained.iterdir() if path.is_dir())
    if not folders:
        raise StageError(f"{trained} holds no candidates; run `segline train` again")
    return folders


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

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(
                stream, counts=counts, key=index["key"].to_numpy(str), group=index["group"].to_numpy(str)
            )

    write_file(path, save)


def _look(
    folder: Path,
    split: Split,
    description: Description,
    pictured: NDArray[np.integer],
    batch_size: int,
    advance: Callable[[int], None],
) -> Seen:
    """Load one candidate, and let it go again when it has predicted the split."""
    bundle = read_bundle(folder)
    if [entry.name for entry in bundle.classes] != description.names:
        raise StageError(f"{folder} was trained on other classes than the data have; run `segline train` again")
    models = load_models(folder, bundle)
    counts = count_split(models, split, classes=len(bundle.classes), batch_size=batch_size, progress=advance)
    images = (split.take([position])[0] for position in pictured)
    return Seen(counts, [probabilities(models, image).argmax(1)[0].cpu().numpy() for image in images])


def _write_curves(folders: list[Path], work: Path) -> None:
    (work / "curves").mkdir()
    for folder in folders:
        shutil.copyfile(folder / HISTORY, work / "curves" / f"{folder.name}.csv")
    draw_curves({folder.name: pd.read_csv(folder / HISTORY) for folder in folders}, work / "curves.png")


def _write_pictures(
    seen: dict[str, Seen], split: Split, pictured: NDArray[np.integer], description: Description, folder: Path
) -> None:
    """Image, label and every candidate side by side, for crops spread evenly over the split."""
    folder.mkdir()
    for number, position in enumerate(pictured):
        images, labels = split.take([position])
        maps = {"label": labels[0]} | {name: entry.maps[number] for name, entry in seen.items()}
        draw_comparison(images[0], maps, description.classes, folder / f"{split.index['key'].iloc[position]}.png")
