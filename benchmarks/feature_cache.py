"""Fifty heads on the kept features of one frozen encoder: the time of the search, and mIoU on whole frames of CamVid.

    python benchmarks/feature_cache.py --source ../camvid [--folder FOLDER] [--samples 10] [--epochs 4] [--seed 7]

The stages ingest, validate, label and train of the line, on CamVid at 360 x 480 in the layout of SegNet's release. The
search has 5 losses with `--samples` draws each of learning rate, layers and hidden channels of `pixel_mlp`, all trained
to the end; its time has the features in it. The choice that is fixed beforehand, FIXED, is trained by itself, and again
without the drive 0001TP, on which it is then scored. Every mIoU is over whole frames. Two cores without GPU: goal, the
search in 10 minutes and 0.66 of the fixed choice; about 20 minutes in all. FOLDER keeps the crops.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from machine import stamp
from rich.console import Console
from rich.table import Table
from street_shards import make_dataset

from segline.artifacts.bundle import read_bundle
from segline.cli import main as segline
from segline.data.augment import normalize, to_unit
from segline.data.reading import open_split
from segline.inference.bundle import load_models
from segline.metrics.confusion import confusion_matrix, mean_iou

DRIVE = "0001TP"
MODEL = {"pretrained": "shipped"}
FIXED: dict[str, Any] = {
    "models": [{"pixel_mlp": {**MODEL, "layers": 2, "hidden": 128}}],
    "losses": [{"cross_entropy": {}, "lovasz_softmax": {}}],
    "learning_rate": 3e-3,
    "epochs": 6,
}
LOSSES = [
    "cross_entropy",
    {"cross_entropy": {"balance": "root_inverse"}},
    {"cross_entropy": {}, "dice": {}},
    {"cross_entropy": {}, "lovasz_softmax": {}},
    "focal",
]
SPACES = {
    "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    "pixel_mlp.layers": [1, 2, 3],
    "pixel_mlp.hidden": [64, 128, 256],
}
GOAL_MINUTES, GOAL_MIOU = 10, 0.66


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="CamVid as SegNet released it")
    parser.add_argument("--folder", type=Path, help="keeps the crops (default: a new temporary one)")
    parser.add_argument("--samples", type=int, default=10, help="draws for each of the 5 losses (default: 10)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="segline-features-"))).resolve()
    whole = make_crops(arguments, folder / "whole", {})
    without = make_crops(arguments, folder / "without", {"test_groups": [DRIVE]})
    fixed, _ = train(whole, FIXED, arguments)
    other, _ = train(without, FIXED, arguments)
    search = {"spaces": SPACES, "num_samples": arguments.samples, "scheduler": "none"}
    grid = {"models": [{"pixel_mlp": MODEL}], "losses": LOSSES, "search": search}
    found, seconds = train(whole, grid, arguments)
    show(arguments, seconds, whole, without, fixed=fixed, other=other, found=found)
    print(stamp())


def make_crops(arguments: argparse.Namespace, folder: Path, split: dict[str, Any]) -> Path:
    """Read CamVid and cut it into its whole frames, unless that is done; returns the folder of the data set."""
    params = {
        "seed": arguments.seed,
        "ingest": {"source": str(arguments.source.resolve()), "layout": "camvid"},
        "label": {"crop": [360, 480], "sampling": "tiles", "split": split},
    }
    return make_dataset(folder, params)


def train(dataset_dir: Path, settings: dict[str, Any], arguments: argparse.Namespace) -> tuple[Path, float]:
    """The folder of the candidates of a search, and the seconds that it took."""
    shared = {"epochs": arguments.epochs, "batch_size": 8}
    params = json.dumps({"name": "features", "seed": arguments.seed, "train": shared | settings})
    out = Path(tempfile.mkdtemp(prefix="train-", dir=dataset_dir.parent)) / "train"
    began = time.monotonic()
    words = ["--dataset", str(dataset_dir), "--out", str(out), "--tracking-uri", f"sqlite:///{out.parent}/mlflow.db"]
    if segline(["train", "--params", params, *words]):
        raise SystemExit("segline train failed")
    return out, time.monotonic() - began


def judge(candidates: Path, dataset_dir: Path, split: str) -> tuple[str, float, float]:
    """The best candidate by its history, its mIoU there and on the whole images of a split."""
    best = pd.read_csv(candidates / "trials.csv").iloc[0]
    folder = candidates / str(best["trial"])
    (model,) = load_models(folder, read_bundle(folder))
    classes = len(read_bundle(folder).classes)
    counts = np.zeros((classes, classes), np.int64)
    for images, labels in open_split(dataset_dir, split).batches(1):
        with torch.inference_mode():
            logits = model(normalize(to_unit(images, torch.device("cpu"))))
        counts += confusion_matrix(labels, logits.argmax(1).numpy(), classes).sum(0)
    return str(best["trial"]), float(best["val_miou"]), float(mean_iou(counts))


def show(
    arguments: argparse.Namespace, seconds: float, whole: Path, without: Path, *, fixed: Path, other: Path, found: Path
) -> None:
    trials = 5 * arguments.samples
    table = Table(title=f"{trials} trials in {seconds / 60:.1f} minutes (goal: {GOAL_MINUTES} for 50)")
    for heading in ("choice", "trial", "mIoU of kept pixels", "of whole frames", "goal"):
        table.add_column(heading, justify="left" if heading in ("choice", "trial") else "right")
    rows = [
        ("fixed beforehand", fixed, whole, "val", f"{GOAL_MIOU}"),
        (f"best of {trials}", found, whole, "val", ""),
        (f"fixed, without {DRIVE}", other, without, "val", ""),
        (f"fixed, without {DRIVE}, on it", other, without, "test", ""),
    ]
    for name, candidates, dataset_dir, split, goal in rows:
        trial, kept, frames = judge(candidates, dataset_dir, split)
        table.add_row(name, trial, f"{kept:.3f}" if split == "val" else "", f"{frames:.3f}", goal)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
