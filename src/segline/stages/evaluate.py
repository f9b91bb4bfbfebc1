"""Evaluate: every candidate on the validation split: metrics, counts per image, pictures, curves, leaderboard.

The best candidate then looks at all splits for objects that have no label. What it lists is a suspicion: a person
looks at it, and gives label the rows that are right as exclusions.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from segline.artifacts.bundle import read_bundle
from segline.artifacts.candidates import candidate_folders
from segline.artifacts.dataset import DatasetInfo, read_dataset_info
from segline.artifacts.evaluation import (
    CURVES,
    CURVES_PLOT,
    EVALUATION,
    LEADERBOARD,
    METRICS,
    MISSING_LABELS,
    MISSING_LABELS_PICTURES,
    PICTURES,
    counts_file,
    write_counts,
)
from segline.artifacts.history import HISTORY
from segline.config.params import Params
from segline.config.sections import Evaluate
from segline.data.boxes import Box
from segline.data.shards import Split, open_split
from segline.errors import StageError
from segline.files.atomic import write_json
from segline.inference.audit import Suspect, find_missing_labels
from segline.inference.bundle import load_models
from segline.inference.predict import count_split, predict_split, probabilities
from segline.metrics.confusion import Counts, scores
from segline.progress import log, progress_bar
from segline.reporting.figures import draw_comparison, draw_curves, draw_suspect

# The first five are those of the exclusions, so that rows can be pasted there.
COLUMNS = ("key", *Box._fields, "class", "pixels", "confidence", "split")


@dataclass(frozen=True)
class CandidateResult:
    """What a candidate made of the split: its counts (n, k, k), and label maps of the pictured crops."""

    counts: Counts
    maps: list[NDArray[np.integer]]


@dataclass(frozen=True)
class Finding:
    """A suspect, and the split and the position of its crop."""

    suspect: Suspect
    split: Split
    position: int

    @property
    def row(self) -> dict[str, Any]:
        """The row of the list but for the class's name; the box is in px of the source image, rounded outwards."""
        crop, box = self.split.index.iloc[self.position], self.suspect.box
        top, left = (math.floor(start * crop["scale"]) for start in (box.top, box.left))
        below, right = (math.ceil(end * crop["scale"]) for end in (box.top + box.height, box.left + box.width))
        place = Box(crop["top"] + top, crop["left"] + left, below - top, right - left)
        about = {"pixels": self.suspect.pixels, "confidence": self.suspect.confidence, "split": self.split.folder.name}
        return {"key": crop["key"], **place._asdict(), **about}


def run(params: Params, *, dataset_dir: Path, candidates_dir: Path, out: Path) -> None:
    """Write ``metrics.json``, ``leaderboard.csv``, ``counts/``, ``curves/``, ``curves.png`` and ``pictures/``.

    Also ``missing_labels.csv`` and ``missing_labels/``: the objects that probably have no label, the surest first.

    Raises:
        StageError: there are no candidates.
    """
    description = read_dataset_info(dataset_dir)
    split = open_split(dataset_dir, "val")
    pictured = np.unique(np.linspace(0, len(split) - 1, params.evaluate.pictures).round().astype(int))
    folders = candidate_folders(candidates_dir)
    with EVALUATION.writing(out) as work:
        with progress_bar("evaluating", len(folders) * len(split)) as advance:
            seen = {
                folder.name: _look(folder, split, description, pictured, params.evaluate.batch_size, advance)
                for folder in folders
            }
        for name, entry in seen.items():
            write_counts(counts_file(work, name), entry.counts, split.index)
        metrics = {name: scores(entry.counts.sum(0), description.names) for name, entry in seen.items()}
        write_json(work / METRICS, metrics)
        board = leaderboard(metrics)
        board.to_csv(work / LEADERBOARD, index=False, float_format="%.6f")
        _write_curves(folders, work)
        _write_pictures(seen, split, pictured, description, work / PICTURES)
        best = board.iloc[0]
        suspects = _audit(candidates_dir / best["candidate"], dataset_dir, description, params.evaluate, work)
    log(f"evaluate: best on validation is {best['candidate']}, mIoU {best['miou']:.3f}; pictures in {out}/{PICTURES}")
    if suspects:
        where = f"{out}/{MISSING_LABELS} and {out}/{MISSING_LABELS_PICTURES}"
        log(f"evaluate: {suspects} objects may lack a label, see {where}")


def leaderboard(metrics: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per candidate, the best mIoU first."""
    rows = [
        {"candidate": name, **{key: values[key] for key in ("miou", "mean_dice", "pixel_accuracy")}}
        for name, values in metrics.items()
    ]
    return pd.DataFrame(rows).sort_values(["miou", "candidate"], ascending=[False, True], ignore_index=True)


def _look(
    folder: Path,
    split: Split,
    description: DatasetInfo,
    pictured: NDArray[np.integer],
    batch_size: int,
    advance: Callable[[int], None],
) -> CandidateResult:
    """Load one candidate, and let it go again when it has predicted the split."""
    bundle = read_bundle(folder)
    if [entry.name for entry in bundle.classes] != description.names:
        raise StageError(f"{folder} was trained on other classes than the data have; run `segline train` again")
    models = load_models(folder, bundle)
    counts = count_split(models, split, classes=len(bundle.classes), batch_size=batch_size, progress=advance)
    images = (split.take([position])[0] for position in pictured)
    return CandidateResult(counts, [probabilities(models, image).argmax(1)[0].cpu().numpy() for image in images])


def _write_curves(folders: list[Path], work: Path) -> None:
    (work / CURVES).mkdir()
    for folder in folders:
        shutil.copyfile(folder / HISTORY, work / CURVES / f"{folder.name}.csv")
    draw_curves({folder.name: pd.read_csv(folder / HISTORY) for folder in folders}, work / CURVES_PLOT)


def _audit(folder: Path, dataset_dir: Path, description: DatasetInfo, settings: Evaluate, work: Path) -> int:
    """Write the list of what is probably unlabelled, and pictures of the surest; returns how many are listed."""
    models = load_models(folder, read_bundle(folder))
    names = [name for name in description.pixels if not (name == "test" and description.test_is_val)]
    splits = [open_split(dataset_dir, name) for name in names]
    with progress_bar("looking for what is unlabelled", sum(map(len, splits))) as advance:
        found = [
            Finding(suspect, split, position)
            for split in splits
            for position, suspects in enumerate(_suspects(models, split, description, settings, advance))
            for suspect in suspects
        ]
    rows = [entry.row | {"class": description.names[entry.suspect.class_id]} for entry in found]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.sort_values(["confidence", *COLUMNS[:5]], ascending=[False, *[True] * 5], kind="stable")
    table.to_csv(work / MISSING_LABELS, index=False, float_format="%.4f")
    (work / MISSING_LABELS_PICTURES).mkdir()
    for rank, number in enumerate(table.index[: settings.audit.pictures], start=1):
        path = work / MISSING_LABELS_PICTURES / f"{rank:03d}-{rows[number]['key']}.png"
        _draw_suspect(found[number], models, description, path)
    return len(table)


def _suspects(
    models: list[nn.Module], split: Split, description: DatasetInfo, settings: Evaluate, advance: Callable[[int], None]
) -> Iterator[list[Suspect]]:
    """The suspects of every crop of a split, in order."""
    limits = settings.audit
    for labels, predicted in predict_split(models, split, settings.batch_size):
        for crop, label in zip(predicted.cpu().numpy(), labels, strict=True):
            yield find_missing_labels(
                crop,
                label,
                description.background,
                min_confidence=limits.min_confidence,
                min_pixels=limits.min_pixels,
                border=limits.border,
                max_labelled_share=limits.max_labelled_share,
            )
        advance(len(labels))


def _draw_suspect(found: Finding, models: list[nn.Module], description: DatasetInfo, path: Path) -> None:
    images, labels = found.split.take([found.position])
    predicted = probabilities(models, images).argmax(1)[0].cpu().numpy()
    row, suspect = found.row, found.suspect
    title = f"{description.names[suspect.class_id]}, {suspect.confidence:.3f}: {row['key']} ({row['split']})"
    maps = {"label": labels[0], "prediction": predicted}
    draw_suspect(images[0], maps, description.classes, box=suspect.box, title=title, path=path)


def _write_pictures(
    seen: dict[str, CandidateResult],
    split: Split,
    pictured: NDArray[np.integer],
    description: DatasetInfo,
    folder: Path,
) -> None:
    """Image, label and every candidate side by side, for crops spread evenly over the split."""
    folder.mkdir()
    for number, position in enumerate(pictured):
        images, labels = split.take([position])
        maps = {"label": labels[0]} | {name: entry.maps[number] for name, entry in seen.items()}
        draw_comparison(images[0], maps, description.classes, folder / f"{split.index['key'].iloc[position]}.png")
