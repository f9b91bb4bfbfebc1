"""The ensemble on the test split beside two guesses that look at no shape.

    python benchmarks/baselines.py [--dataset data/label] [--ensemble data/ensemble]

All three are scored on the same crops in one run, in seconds. "All background" predicts the most frequent class of
the training split everywhere. "Colour lookup" predicts for every pixel the most probable class of its colour,
counted on the training split in 16 x 16 x 16 bins: no threshold on colour can do better. Expect the ensemble well
above both.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import stamp
from rich.console import Console
from rich.table import Table

from segline.artifacts.bundle import read_bundle
from segline.artifacts.dataset import read_dataset_info
from segline.classes import IGNORED
from segline.data.reading import open_split
from segline.data.split import Split
from segline.inference.bundle import load_models
from segline.inference.predict import count_split
from segline.metrics.confusion import Counts, confusion_matrix, scores

BINS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("data/label"))
    parser.add_argument("--ensemble", type=Path, default=Path("data/ensemble"))
    arguments = parser.parse_args()
    description = read_dataset_info(arguments.dataset)
    train, test = (open_split(arguments.dataset, name) for name in ("train", "test"))
    colors = class_of_colour(train, len(description.classes))
    frequent = int(np.argmax(description.pixels["train"]))
    folder = arguments.ensemble / "model"
    models = load_models(folder, read_bundle(folder))
    counts = {
        f"all {description.names[frequent]}": count(test, np.full_like(colors, frequent), len(description.classes)),
        "colour lookup": count(test, colors, len(description.classes)),
        "ensemble": count_split(models, test, classes=len(description.classes), batch_size=16).sum(0),
    }
    show(counts, description.names, len(test))


def bins(images: np.ndarray) -> np.ndarray:
    """The colour bin of every pixel: (n, h, w, 3) to (n, h, w)."""
    red, green, blue = np.moveaxis(images // (256 // BINS), -1, 0).astype(np.int64)
    return (red * BINS + green) * BINS + blue


def class_of_colour(split: Split, classes: int) -> np.ndarray:
    """The most frequent class of each colour bin; the most frequent of all where a bin is empty."""
    seen = np.zeros((BINS**3, classes), np.int64)
    for images, labels in split.batches(64):
        valid = labels != IGNORED
        np.add.at(seen, (bins(images)[valid], labels[valid]), 1)
    return np.where(seen.any(1), seen.argmax(1), seen.sum(0).argmax())


def count(split: Split, table: np.ndarray, classes: int) -> Counts:
    return sum(confusion_matrix(labels, table[bins(images)], classes).sum(0) for images, labels in split.batches(64))


def show(counts: dict[str, Counts], names: list[str], images: int) -> None:
    found = {guess: scores(matrix, names) for guess, matrix in counts.items()}
    table = Table(title=f"test split, {images} images: IoU")
    table.add_column("")
    for guess in found:
        table.add_column(guess, justify="right")
    table.add_row("mean (mIoU)", *(f"{values['miou']:.3f}" for values in found.values()), end_section=True)
    for name in names:
        table.add_row(name, *(f"{values['iou'][name]:.3f}" for values in found.values()))
    Console().print(table)
    print(f"{stamp()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
