"""Evaluate: every candidate on the validation split: metrics, counts per image, pictures, curves, leaderboard.

The best candidate is then used to look in all splits for missing labels: objects that probably lack a label. A person
looks at each, and gives label the rows that are right as exclusions.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from segline.artifacts.artifact import Record
from segline.artifacts.bundle import read_bundle
from segline.artifacts.candidates import CANDIDATES, HISTORY, candidate_folders
from segline.artifacts.dataset import DATASET, DatasetInfo, read_dataset_info, split_folder
from segline.artifacts.evaluation import (
    CURVES,
    CURVES_PLOT,
    EVALUATION,
    MISSING_LABELS,
    MISSING_LABELS_PICTURES,
    PICTURES,
    counts_file,
    curve_file,
    write_counts,
    write_leaderboard,
    write_metrics,
    write_missing_labels,
)
from segline.config.params import Params
from segline.config.sections import Evaluate
from segline.data.boxes import Box
from segline.data.reading import open_split
from segline.data.split import Split
from segline.errors import StageError
from segline.files.names import bounded
from segline.inference.audit import Suspect, find_missing_labels
from segline.inference.bundle import load_models
from segline.inference.predict import TRAIN_AGAIN, count_split, naming_model, predict_labels
from segline.metrics.confusion import Counts, scores
from segline.progress import log, progress_bar
from segline.reporting.figures import draw_comparison, draw_curves, draw_suspect

# The first five are the columns of exclusions, so that rows can be copied there.
COLUMNS = ("key", *Box._fields, "class", "pixels", "confidence", "split")


@dataclass(frozen=True)
class CandidateResult:
    """The result of a candidate on a split.

    Attributes:
        counts: The confusion matrix of every image (n, k, k).
        maps: The predicted label maps of the pictured images.
    """

    counts: Counts
    maps: list[NDArray[np.integer]]


@dataclass(frozen=True)
class Finding:
    """An object that probably lacks a label, with the split and the position of its item there."""

    suspect: Suspect
    split: Split
    position: int

    @property
    def row(self) -> Record:
        """The row of the list without the class's name; the box is in px of the source image, rounded outwards."""
        item, box = self.split.index.iloc[self.position], self.suspect.box
        top, left = (math.floor(start * item["scale"]) for start in (box.top, box.left))
        below, right = (math.ceil(end * item["scale"]) for end in (box.top + box.height, box.left + box.width))
        source_box = Box(item["top"] + top, item["left"] + left, below - top, right - left)
        return {
            "key": item["key"],
            **source_box._asdict(),
            "pixels": self.suspect.pixels,
            "confidence": self.suspect.confidence,
            "split": self.split.name,
        }


def run(params: Params, *, dataset_dir: Path, candidates_dir: Path, out: Path) -> None:
    """Write ``metrics.json``, ``leaderboard.csv``, ``counts/``, ``curves/``, ``curves.png`` and ``pictures/``.

    Also write ``missing_labels.csv`` and ``missing_labels/``, the objects that probably lack a label, most confident
    first.

    Raises:
        StageError: There are no candidates, one was trained on other classes or gives predictions that are not finite,
            or a file is missing or damaged.
    """
    DATASET.check(dataset_dir)
    CANDIDATES.check(candidates_dir)
    info, settings = read_dataset_info(dataset_dir), params.evaluate
    split = open_split(dataset_dir, split_folder("val", settings.on))
    pictured = np.unique(np.linspace(0, len(split) - 1, settings.pictures).round().astype(int))
    folders = candidate_folders(candidates_dir)
    with EVALUATION.writing(out) as work:
        with progress_bar("evaluating", len(folders) * len(split)) as advance:
            results = {folder.name: _evaluate(folder, split, info, pictured, settings, advance) for folder in folders}
        board = _write_scores(results, split, info, work)
        _write_curves(folders, work)
        _write_pictures(results, split, pictured, info, work / PICTURES)
        best = board.iloc[0]
        folder = candidates_dir / best["candidate"]
        with naming_model(str(folder), TRAIN_AGAIN):
            findings = _audit(folder, dataset_dir, info, settings, work)
    log(f"evaluate: best on validation is {best['candidate']}, mIoU {best['miou']:.3f}; pictures in {out}/{PICTURES}")
    if findings:
        listed = f"{out}/{MISSING_LABELS} and {out}/{MISSING_LABELS_PICTURES}"
        log(f"evaluate: {findings} objects may lack a label, see {listed}")


def leaderboard(metrics: Mapping[str, Record]) -> pd.DataFrame:
    """Return a row per candidate, the best mIoU first."""
    rows = [
        {"candidate": name, **{key: values[key] for key in ("miou", "mean_dice", "pixel_accuracy")}}
        for name, values in metrics.items()
    ]
    return pd.DataFrame(rows).sort_values(["miou", "candidate"], ascending=[False, True], ignore_index=True)


def _evaluate(
    folder: Path,
    split: Split,
    info: DatasetInfo,
    pictured: NDArray[np.integer],
    settings: Evaluate,
    advance: Callable[[int], None],
) -> CandidateResult:
    """Return the result of one candidate; its models are in memory only for this time."""
    bundle = read_bundle(folder)
    if [entry.name for entry in bundle.classes] != info.names:
        raise StageError(f"{folder} was trained on other classes than the data have; run `segline train` again")
    models = load_models(folder, bundle)
    with naming_model(str(folder), TRAIN_AGAIN):
        counts = count_split(
            models,
            split,
            classes=len(bundle.classes),
            batch_size=settings.batch_size,
            max_pixels=settings.max_pixels,
            progress=advance,
        )
    images = (split.take([position])[0] for position in pictured)
    maps = [predict_labels(models, image, max_pixels=settings.max_pixels)[0][0] for image in images]
    return CandidateResult(counts, maps)


def _write_scores(results: Mapping[str, CandidateResult], split: Split, info: DatasetInfo, work: Path) -> pd.DataFrame:
    """Write the counts and the metrics of every candidate; return the leaderboard, which is written as well."""
    for name, result in results.items():
        write_counts(counts_file(work, name), result.counts, split.index)
    metrics = {name: scores(result.counts.sum(0), info.names) for name, result in results.items()}
    write_metrics(work, metrics)
    board = leaderboard(metrics)
    write_leaderboard(work, board)
    return board


def _write_curves(folders: list[Path], work: Path) -> None:
    (work / CURVES).mkdir()
    for folder in folders:
        shutil.copyfile(folder / HISTORY, curve_file(work, folder.name))
    draw_curves({folder.name: pd.read_csv(folder / HISTORY) for folder in folders}, work / CURVES_PLOT)


def _write_pictures(
    results: Mapping[str, CandidateResult],
    split: Split,
    pictured: NDArray[np.integer],
    info: DatasetInfo,
    folder: Path,
) -> None:
    """Write image, label and every prediction side by side, for images spread evenly over the split."""
    folder.mkdir()
    for number, position in enumerate(pictured):
        images, labels = split.take([position])
        maps = {"label": labels[0]} | {name: result.maps[number] for name, result in results.items()}
        name = bounded(split.index["key"].iloc[position])
        draw_comparison(images[0], maps, info.classes, folder / f"{name}.png")


def _audit(folder: Path, dataset_dir: Path, info: DatasetInfo, settings: Evaluate, work: Path) -> int:
    """Write the list of missing labels and pictures of the most confident ones; return the length of the list."""
    models = load_models(folder, read_bundle(folder))
    names = [name for name in info.pixels if not (name == "test" and info.test_is_val)]
    splits = [open_split(dataset_dir, name if name == "train" else split_folder(name, settings.on)) for name in names]
    with progress_bar("looking for missing labels", sum(map(len, splits))) as advance:
        findings = [
            Finding(suspect, split, position)
            for split in splits
            for position, suspects in enumerate(_suspects(models, split, info, settings, advance))
            for suspect in suspects
        ]
    rows = [finding.row | {"class": info.names[finding.suspect.class_id]} for finding in findings]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.sort_values(["confidence", *COLUMNS[:5]], ascending=[False, *[True] * 5], kind="stable")
    write_missing_labels(work, table)
    (work / MISSING_LABELS_PICTURES).mkdir()
    for rank, number in enumerate(table.index[: settings.audit.pictures], start=1):
        path = work / MISSING_LABELS_PICTURES / f"{rank:03d}-{bounded(rows[number]['key'])}.png"
        _draw_finding(findings[number], models, info, settings.max_pixels, path)
    return len(table)


def _suspects(
    models: list[nn.Module], split: Split, info: DatasetInfo, settings: Evaluate, advance: Callable[[int], None]
) -> Iterator[list[Suspect]]:
    """Yield the objects that probably lack a label in every item of a split, in order."""
    limits = settings.audit
    for positions in split.ranges(settings.batch_size, settings.max_pixels):
        images, labels = split.take(positions)
        maps = predict_labels(models, images, split.keys(positions), max_pixels=settings.max_pixels)
        for predicted, confidence, label in zip(*maps, labels, strict=True):
            yield find_missing_labels(
                predicted,
                confidence,
                label,
                info.background,
                min_confidence=limits.min_confidence,
                min_pixels=limits.min_pixels,
                border=limits.border,
                max_labelled_share=limits.max_labelled_share,
            )
        advance(len(labels))


def _draw_finding(finding: Finding, models: list[nn.Module], info: DatasetInfo, max_pixels: int, path: Path) -> None:
    images, labels = finding.split.take([finding.position])
    predicted = predict_labels(models, images, max_pixels=max_pixels)[0][0]
    row, suspect = finding.row, finding.suspect
    title = f"{info.names[suspect.class_id]}, {suspect.confidence:.3f}: {row['key']} ({row['split']})"
    maps = {"label": labels[0], "prediction": predicted}
    draw_suspect(images[0], maps, info.classes, box=suspect.box, title=title, path=path)
