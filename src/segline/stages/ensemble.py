"""Ensemble: candidates whose averaged probabilities are best on validation, and their test metrics.

Members are added one by one, each time the one that helps most (Caruana et al. 2004, greedy forward
selection), for as long as the validation mIoU gains.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import join_bundles, read_bundle
from segline.artifacts.dataset import read_dataset_info
from segline.artifacts.ensemble import ENSEMBLE, METRICS, MODEL, TEST_COUNTS
from segline.artifacts.evaluation import read_leaderboard, write_counts
from segline.config.params import Params
from segline.config.sections import Ensemble
from segline.data.shards import Split, open_split
from segline.files.atomic import write_json
from segline.inference.bundle import load_models
from segline.inference.predict import count_split, predict_split
from segline.metrics.confusion import Counts, confusion_matrix, mean_iou, scores
from segline.progress import log, progress_bar

SCRATCH = "probabilities"
Probabilities = NDArray[np.float16]


def run(params: Params, *, dataset_dir: Path, candidates_dir: Path, evaluation_dir: Path, out: Path) -> None:
    """Write the bundle ``out/model``, ``metrics.json`` and the counts of every test crop."""
    description = read_dataset_info(dataset_dir)
    classes, size = len(description.classes), params.evaluate.batch_size
    pool = [candidates_dir / name for name in read_leaderboard(evaluation_dir)["candidate"].head(params.ensemble.pool)]
    with ENSEMBLE.writing(out) as work:
        val = open_split(dataset_dir, "val")
        planes = _predict_all(pool, val, size, work / SCRATCH)
        chosen, gains = select(planes, val, params.ensemble, size)
        shutil.rmtree(work / SCRATCH)
        parts = [(candidates_dir / name, read_bundle(candidates_dir / name)) for name in chosen]
        bundle = join_bundles(work / MODEL, parts)
        test = open_split(dataset_dir, "test")
        counts = count_split(load_models(work / MODEL, bundle), test, classes=classes, batch_size=size)
        write_counts(work / TEST_COUNTS, counts, test.index)
        metrics: dict[str, Any] = {
            "members": chosen,
            "val_miou_by_size": gains,
            "test": scores(counts.sum(0), description.names),
            "dataset": description.content_hash,
            "test_is_val": description.test_is_val,
            "test_images": len(test),
        }
        write_json(work / METRICS, metrics)
    log(f"ensemble: {' + '.join(chosen)}, test mIoU {metrics['test']['miou']:.3f}")


def select(
    planes: Mapping[str, Probabilities], split: Split, settings: Ensemble, batch_size: int
) -> tuple[list[str], list[float]]:
    """The members in the order in which they were added, and the validation mIoU with each."""
    chosen: list[str] = []
    reached: list[float] = []
    while len(chosen) < min(settings.max_members, len(planes)):
        tried = {
            name: float(mean_iou(_count_mean([planes[member] for member in [*chosen, name]], split, batch_size)))
            for name in planes
            if name not in chosen
        }
        best = max(tried, key=lambda name: tried[name])
        if reached and tried[best] < reached[-1] + settings.min_gain:
            break
        chosen.append(best)
        reached.append(tried[best])
    return chosen, reached


def _count_mean(planes: list[Probabilities], split: Split, batch_size: int) -> Counts:
    """The confusion matrix of the mean of several candidates' probabilities over a split."""
    classes, start = planes[0].shape[1], 0
    total = np.zeros((classes, classes), np.int64)
    for _, labels in split.batches(batch_size):
        rows = slice(start, start + len(labels))
        mean = np.add.reduce([plane[rows].astype(np.float32) for plane in planes])
        total += confusion_matrix(labels, mean.argmax(1), classes).sum(0)
        start += len(labels)
    return total


def _predict_all(folders: list[Path], split: Split, batch_size: int, scratch: Path) -> dict[str, Probabilities]:
    """Each candidate's probabilities on a split, memory-mapped so that their number does not matter."""
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
