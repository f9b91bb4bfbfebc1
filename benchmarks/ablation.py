"""What the seeds' losses change, on street scenes: several seeds, and intervals.

    python benchmarks/ablation.py [--folder FOLDER] [--epochs 10] [--seeds 1 2 3] [--dataset DIR] [--model NAME]

A U-Net (16 channels at first) from random weights with each loss, same data, same steps, fp32: cross-entropy, + class
weights and + bounding box (Seed S0, 4.2), Dice, Lovasz-softmax, Sobel and SEMEDA (Seed S4, 4.2). Scored on the test
split by mIoU, by the boundary F1 at 0.75 % of the diagonal (1 px), and by the mIoU of the pixels within 1 and 3 px of a
contour (Seed S4, 4.3). The table has the mean over the seeds with its 95 % interval by Student's t, and the mean
difference from cross-entropy of the same seed with the interval of that difference. About 30 minutes on 2 cores without
GPU; each finished training is kept in FOLDER, so the same command continues.

--dataset takes shards that `segline label` wrote instead of drawing scenes. Whether an interval of a difference holds
zero is the question; with three seeds it is a wide one.
"""

import argparse
import json
import math
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from machine import stamp
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from street_shards import make_shards

from segline.artifacts.candidates import WEIGHTS
from segline.artifacts.dataset import read_dataset_info
from segline.config.components import ComponentSpec
from segline.config.sections import Train
from segline.data.reading import open_split
from segline.files.atomic import write_json
from segline.inference.predict import predict_labels
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.metrics.boundary import boundary_counts, boundary_f1, trimap_counts
from segline.metrics.confusion import confusion_matrix, mean_iou
from segline.models import MODELS
from segline.progress import log
from segline.training.checkpoints import CheckpointStore
from segline.training.components import preparation_name
from segline.training.determinism import set_deterministic
from segline.training.engine import fit
from segline.training.prepare import prepare_losses
from segline.training.run import Run
from segline.training.trial import TrialInputs

LOSS_OF = {
    "cross-entropy": ("cross_entropy", {}),
    "+ class weights": ("class_weight_schedule", {}),
    "+ bounding box": ("bounding_box", {"class_weights": True}),
    "Dice": ("dice", {}),
    "Lovasz-softmax": ("lovasz_softmax", {}),
    "Sobel": ("sobel", {}),
    "SEMEDA": ("semeda", {}),
}
BASE = "cross-entropy"
SEMEDA = ComponentSpec(name="semeda")
OPTIONS = {"unet": {"width": 16}}
SCORES = ("mIoU", "boundary F1", "mIoU within 1 px", "mIoU within 3 px")
BANDS = (1, 3)
SCENES = {
    "drives": 140,
    "frames": 3,
    "height": 240,
    "width": 300,
    "crop": 96,
    "seed": 11,
    "split": {"train": 0.6, "val": 0.1, "test": 0.3},
}


@dataclass(frozen=True)
class Cell:
    """One training."""

    what: str
    seed: int
    model: str
    epochs: int
    batch: int
    dataset_dir: Path
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"{self.model}-{self.what.replace(' ', '_')}-{self.epochs}-{self.batch}-{self.seed}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps scenes and scores (default: a new temporary one)")
    parser.add_argument("--dataset", type=Path, help="shards to use (default: scenes are drawn)")
    parser.add_argument("--model", default="unet", choices=list(MODELS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2, help="trainings at once (default: 2)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-ablation-"))
    dataset_dir = arguments.dataset or make_shards(folder, **SCENES)
    inputs = TrialInputs(dataset_dir=dataset_dir, prepared_dir=folder)
    prepare_losses([SEMEDA], inputs, CheckpointStore(""), seed=7, threads=1)
    cells = [
        Cell(what, seed, arguments.model, arguments.epochs, arguments.batch, dataset_dir, folder)
        for seed, what in product(arguments.seeds, LOSS_OF)
    ]
    missing = [cell for cell in cells if not cell.file.is_file()]
    # A forked process cannot use the GPU.
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        for cell in pool.map(train, missing):
            scores = json.loads(cell.file.read_text(encoding="utf-8"))
            log(f"ablation: {cell.what}, seed {cell.seed}: {scores['mIoU']:.3f}")
    show(cells, dataset_dir)
    print(f"{stamp()}, torch {torch.__version__}")


def train(cell: Cell) -> Cell:
    """Train one cell and write its scores on the test split, by the weights that were best on validation."""
    torch.set_num_threads(1)
    set_deterministic(cell.seed)
    description = read_dataset_info(cell.dataset_dir)
    task = Task(
        names=tuple(description.names),
        background=description.background,
        prepared=cell.folder / preparation_name(SEMEDA),
    )
    name, options = LOSS_OF[cell.what]
    run = Run(
        model=MODELS[cell.model](len(task.names), **OPTIONS.get(cell.model, {})),
        loss=WeightedSum([(1.0, LOSSES[name](task, **options))]),
        train=open_split(cell.dataset_dir, "train"),
        val=open_split(cell.dataset_dir, "val_crops"),
        classes=len(task.names),
        settings=Train(epochs=cell.epochs, batch_size=cell.batch, precision="fp32"),
        seed=cell.seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    with tempfile.TemporaryDirectory() as work:
        for _ in fit(run, Path(work)):
            pass
        run.model.load_state_dict(load(Path(work) / WEIGHTS))
    write_json(cell.file, score(run, cell.dataset_dir))
    return cell


def load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def score(run: Run, dataset_dir: Path) -> dict[str, float]:
    regions, contours, bands = [], [], []
    run.model.eval()
    for images, labels in open_split(dataset_dir, "test_crops").batches(16):
        predicted, _ = predict_labels([run.model], images)
        regions.append(confusion_matrix(labels, predicted, run.classes).sum(0))
        contours.append(boundary_counts(labels, predicted, run.classes).sum(0))
        bands.append(trimap_counts(labels, predicted, run.classes, BANDS).sum(0))
    within = [float(mean_iou(counts)) for counts in np.sum(bands, axis=0)]
    f1 = float(np.nanmean(boundary_f1(np.sum(contours, axis=0))))
    return dict(zip(SCORES, [float(mean_iou(np.sum(regions, axis=0))), f1, *within], strict=True))


def show(cells: list[Cell], dataset_dir: Path) -> None:
    found = {(cell.what, cell.seed): json.loads(cell.file.read_text(encoding="utf-8")) for cell in cells}
    seeds = sorted({cell.seed for cell in cells})
    sizes = {name: len(open_split(dataset_dir, name)) for name in ("train", "val_crops", "test_crops")}
    first = cells[0]
    table = Table(title=f"{first.model}, {first.epochs} epochs, {len(seeds)} seeds, crops {sizes}")
    for heading in ("", *SCORES):
        table.add_column(heading, justify="left" if not heading else "right")
    for what in LOSS_OF:
        table.add_row(what, *(interval([found[what, seed][name] for seed in seeds]) for name in SCORES))
        if what != BASE:
            gains = ([found[what, seed][name] - found[BASE, seed][name] for seed in seeds] for name in SCORES)
            table.add_row("  difference", *(interval(values, signed=True) for values in gains), style="dim")
    Console(width=150).print(table)


def interval(values: list[float], *, signed: bool = False) -> str:
    """The mean and half of its 95 % interval."""
    half = math.nan
    if len(values) > 1:
        half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):{'+' if signed else ''}.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
