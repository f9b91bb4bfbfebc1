"""Ensemble: candidates whose averaged probabilities are best on validation, and their test metrics.

Members are added one by one, each time the one that helps most (Caruana et al. 2004, greedy forward selection), as long
as the validation mIoU gains.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import join_bundles, read_bundle
from segline.artifacts.candidates import CANDIDATES
from segline.artifacts.dataset import DATASET, read_dataset_info
from segline.artifacts.ensemble import ENSEMBLE, MODEL, TEST_COUNTS, write_metrics
from segline.artifacts.evaluation import EVALUATION, read_leaderboard, write_counts
from segline.config.params import Params
from segline.config.sections import Ensemble
from segline.data.shards import Split, open_split
from segline.inference.bundle import load_models
from segline.inference.predict import count_split, predict_split
from segline.metrics.confusion import Counts, confusion_matrix, mean_iou, scores
from segline.progress import log, progress_bar

SCRATCH = "probabilities"
"""The folder for the candidates' probabilities, which is deleted after the selection."""
Probabilities = NDArray[np.float16]


def run(params: Params, *, dataset_dir: Path, candidates_dir: Path, evaluation_dir: Path, out: Path) -> None:
    """Write the bundle ``out/model``, ``metrics.json`` and the counts of every test crop.

    Raises:
        StageError: A file of an input is missing or damaged.
    """
    DATASET.check(dataset_dir, folders=("val", "test"))
    CANDIDATES.check(candidates_dir)
    EVALUATION.check(evaluation_dir)
    info, batch_size = read_dataset_info(dataset_dir), params.evaluate.batch_size
    pool = [candidates_dir / name for name in read_leaderboard(evaluation_dir)["candidate"].head(params.ensemble.pool)]
    with ENSEMBLE.writing(out) as work:
        val = open_split(dataset_dir, "val")
        planes = _predict_all(pool, val, batch_size, work / SCRATCH)
        members, gains = select(planes, val, params.ensemble, batch_size)
        shutil.rmtree(work / SCRATCH)
        bundle = join_bundles(
            work / MODEL, [(folder, read_bundle(folder)) for folder in map(candidates_dir.joinpath, members)]
        )
        test = open_split(dataset_dir, "test")
        counts = count_split(load_models(work / MODEL, bundle), test, classes=len(info.classes), batch_size=batch_size)
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


def select(
    planes: Mapping[str, Probabilities], split: Split, settings: Ensemble, batch_size: int
) -> tuple[list[str], list[float]]:
    """Return the members in the order in which they were added, and the validation mIoU with each."""
    members: list[str] = []
    reached: list[float] = []
    while len(members) < min(settings.max_members, len(planes)):
        with_each = {
            name: float(mean_iou(_count_mean([planes[member] for member in [*members, name]], split, batch_size)))
            for name in planes
            if name not in members
        }
        best = max(with_each, key=lambda name: with_each[name])
        if reached and with_each[best] < reached[-1] + settings.min_gain:
            break
        members.append(best)
        reached.append(with_each[best])
    return members, reached


def _count_mean(planes: list[Probabilities], split: Split, batch_size: int) -> Counts:
    """Return the confusion matrix of the mean of several candidates' probabilities over a split."""
    classes, start = planes[0].shape[1], 0
    total = np.zeros((classes, classes), np.int64)
    for _, labels in split.batches(batch_size):
        rows = slice(start, start + len(labels))
        mean = np.add.reduce([plane[rows].astype(np.float32) for plane in planes])
        total += confusion_matrix(labels, mean.argmax(1), classes).sum(0)
        start += len(labels)
    return total


def _predict_all(folders: list[Path], split: Split, batch_size: int, scratch: Path) -> dict[str, Probabilities]:
    """Return each candidate's probabilities on a split, memory-mapped so that any number of candidates fits."""
    scratch.mkdir()
    with progress_bar("predicting", len(folders) * len(split)) as advance:
        return {folder.name: _predict(folder, split, batch_size, scratch, advance) for folder in folders}


def _predict(
    folder: Path, split: Split, batch_size: int, scratch: Path, advance: Callable[[int], None]
) -> Probabilities:
    bundle = read_bundle(folder)
    models = load_models(folder, bundle)
    height, width = split.take([0])[1].shape[1:]
    shape = (len(split), len(bundle.classes), height, width)
    planes = np.lib.format.open_memmap(scratch / f"{folder.name}.npy", "w+", np.float16, shape)
    start = 0
    for labels, predicted in predict_split(models, split, batch_size):
        planes[start : start + len(labels)] = predicted.cpu().numpy()
        start += len(labels)
        advance(len(labels))
    return planes
