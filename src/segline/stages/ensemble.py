"""Ensemble: candidates whose averaged probabilities are best on validation, and their test metrics.

Members are added one by one, each time the one that helps most (Caruana et al. 2004, greedy forward selection), as long
as the validation mIoU gains.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import join_bundles, read_bundle
from segline.artifacts.candidates import CANDIDATES
from segline.artifacts.dataset import DATASET, read_dataset_info, split_folder
from segline.artifacts.ensemble import ENSEMBLE, MODEL, TEST_COUNTS, write_metrics
from segline.artifacts.evaluation import EVALUATION, read_leaderboard, write_counts
from segline.config.params import Params
from segline.config.sections import Ensemble, Evaluate
from segline.data.reading import open_split
from segline.data.split import Split
from segline.data.tiles import tiles
from segline.inference.bundle import load_models
from segline.inference.predict import TRAIN_AGAIN, count_split, naming_model
from segline.inference.scratch import Planes, Predictions
from segline.metrics.confusion import Counts, confusion_matrix, mean_iou, scores
from segline.progress import log

SCRATCH = "probabilities"
"""The folder for the candidates' probabilities, which is deleted after the selection."""


def run(params: Params, *, dataset_dir: Path, candidates_dir: Path, evaluation_dir: Path, out: Path) -> None:
    """Write the bundle ``out/model``, ``metrics.json`` and the counts of every test image.

    Raises:
        StageError: A file of an input is missing or damaged, or a candidate's predictions are not finite.
    """
    val_folder, test_folder = (split_folder(split, params.evaluate.on) for split in ("val", "test"))
    DATASET.check(dataset_dir, folders=(val_folder, test_folder))
    CANDIDATES.check(candidates_dir)
    EVALUATION.check(evaluation_dir)
    info = read_dataset_info(dataset_dir)
    pool = [candidates_dir / name for name in read_leaderboard(evaluation_dir)["candidate"].head(params.ensemble.pool)]
    with ENSEMBLE.writing(out) as work:
        val = open_split(dataset_dir, val_folder)
        members, gains = _choose(pool, val, params.ensemble, params.evaluate, work / SCRATCH)
        bundle = join_bundles(
            work / MODEL, [(folder, read_bundle(folder)) for folder in map(candidates_dir.joinpath, members)]
        )
        test = open_split(dataset_dir, test_folder)
        models = load_models(work / MODEL, bundle)
        with naming_model(" + ".join(members), TRAIN_AGAIN):
            counts = count_split(
                models,
                test,
                classes=len(info.classes),
                batch_size=params.evaluate.batch_size,
                max_pixels=params.evaluate.max_pixels,
            )
        write_counts(work / TEST_COUNTS, counts, test.index)
        test_metrics = scores(counts.sum(0), info.names)
        write_metrics(
            work,
            {
                "members": members,
                "val_miou_by_size": gains,
                "test": test_metrics,
                "dataset": info.content_hash,
                "test_is_val": info.test_is_val,
                "test_images": len(test),
            },
        )
    log(f"ensemble: {' + '.join(members)}, test mIoU {test_metrics['miou']:.3f}")


def _choose(
    pool: list[Path], split: Split, settings: Ensemble, limits: Evaluate, scratch: Path
) -> tuple[list[str], list[float]]:
    """Return what :func:`select` does, with a scratch that is gone afterwards, also when the disk was full."""
    scratch.mkdir()
    try:
        max_bytes = int(settings.scratch_gb * 1e9)
        predictions = Predictions(pool, split, limits, scratch=scratch, max_bytes=max_bytes)
        return select(predictions, settings)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def select(predictions: Predictions, settings: Ensemble) -> tuple[list[str], list[float]]:
    """Return the members in the order in which they were added, and the validation mIoU with each."""
    members: list[str] = []
    reached: list[float] = []
    while len(members) < min(settings.max_members, len(predictions.names)):
        with_each = {name: float(mean_iou(counts)) for name, counts in _count_with_each(predictions, members).items()}
        best = max(with_each, key=lambda name: with_each[name])
        if reached and with_each[best] < reached[-1] + settings.min_gain:
            break
        members.append(best)
        reached.append(with_each[best])
    return members, reached


def _count_with_each(predictions: Predictions, members: list[str]) -> dict[str, Counts]:
    """Return the confusion matrix of the mean of the members and one further candidate, for each candidate."""
    totals: dict[str, Counts] = {}
    for positions, planes in predictions.batches():
        labels = predictions.split.take_labels(positions)
        for name in [name for name in predictions.names if name not in members]:
            chosen = [planes[member] for member in [*members, name]]
            counts = _count_mean(chosen, labels, predictions.limits.max_pixels)
            totals[name] = totals[name] + counts if name in totals else counts
    return totals


def _count_mean(planes: list[Planes], labels: NDArray[np.uint8], max_pixels: int) -> Counts:
    """Return the confusion matrix of the mean of several candidates' probabilities for the labels (n, h, w)."""
    classes, (height, width) = planes[0].shape[1], labels.shape[1:]
    total = np.zeros((classes, classes), np.int64)
    for region in (tile.kept for tile in tiles((height, width), max_pixels)):
        mean = np.add.reduce([plane[..., *region].astype(np.float32) for plane in planes])
        total += confusion_matrix(labels[:, *region], mean.argmax(1), classes).sum(0)
    return total
