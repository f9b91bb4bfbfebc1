"""Precision and recall of the missing-label audit, on scenes whose missing labels are known.

    python benchmarks/audit.py [--folder FOLDER] [--seed 7]

It draws 480 street scenes of 160 px, 15 % of them with one object unlabelled on purpose, and runs the line up to
`segline evaluate`, training on the crops of 96 px with the most foreground as that of 0.1 did. Half of the scenes are
for validation and test. There the audit looks at whole frames, and for comparison at the crops that label would cut
(`evaluate.on`), both with the same model. FOLDER (a new temporary one by default) keeps everything: look at
FOLDER/data/frames/missing_labels. With a FOLDER that has a result, only the comparison is repeated; --seed must then be
the same.

The same scenes are drawn again with all labels to see which pixels were unlabelled. A row of missing_labels.csv is
right if at least half of its box lies in the box of a missing object; it has the whole object if the two boxes have
an intersection over union of at least 0.5 (an object in front may cut another one in two). "right" is the precision
and "found" the recall, of the rows and then of the images that they name; "by chance" is the recall of as many images
drawn at random.

It takes 11 minutes on one core of two and 0.2 GB of disk.

Expect frames to find little more than crops at a confidence of 0.8, with far more wrong rows: a network that has only
seen the fullest crops sees objects in bare walls and on road markings. At 0.85 and more, half of the rows are right.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from machine import stamp
from PIL import Image
from rich.console import Console
from rich.table import Table

from segline.artifacts.dataset import read_dataset_info
from segline.cli import main as segline
from segline.data.boxes import Box
from segline.files.packs import Packs
from segline.files.trees import Folder
from streets import write_streets

STREETS = {"drives": 160, "frames_per_drive": 3, "height": 160, "width": 160, "missing_label_share": 0.15}
PARAMS = {
    "name": "audit",
    "ingest": {"synthetic": STREETS},
    "label": {"sampling": "max_foreground", "crop": 96, "split": {"train": 0.5, "val": 0.25, "test": 0.25}},
    "train": {
        "models": [{"unet_resnet34": {"pretrained": False}}],
        "losses": [{"dice": {"weight": 0.5}, "cross_entropy": {"weight": 0.5}}],
        "epochs": 20,
        "cpus_per_worker": 1,
    },
    # The stage lists everything; the thresholds are applied here.
    "evaluate": {"on": "crops", "audit": {"min_confidence": 0.0}},
}
STAGES = ("ingest", "validate", "label", "train")
VIEWS = ("crops", "frames")
"""What the audit looks at in validation and test; label writes both where crops are asked for."""
CONFIDENCES = (0.0, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
HALF = 0.5
JUDGED = ("val", "test")
NO_BOX = Box(-2, -2, 1, 1)
HEADINGS = ("confidence", "rows", "right", "found", "whole", "found whole", "images", "right", "found", "by chance")


@dataclass(frozen=True)
class Missing:
    """An object without a label: its image's key and split, its visible box and pixels, and its pixels in the crop."""

    key: str
    split: str
    box: Box
    pixels: int
    in_crop: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="the folder of a new or an earlier run (default: a new temporary one)"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the scenes and of the line (default: 7)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-audit-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    started = time.monotonic()
    if not Path("data/frames/missing_labels.csv").is_file():
        run_line(arguments.seed)
    missing = find_missing(arguments.seed)
    for view in VIEWS:
        show(view, pd.read_csv(f"data/{view}/missing_labels.csv", dtype={"key": str}), missing)
    metrics = json.loads(Path("data/frames/metrics.json").read_text(encoding="utf-8"))
    minutes = (time.monotonic() - started) / 60
    best = max(entry["miou"] for entry in metrics.values())
    print(f"mIoU on validation frames {best:.3f}; {minutes:.1f} minutes; {folder}")
    print(f"{stamp()}, torch {torch.__version__}")


def run_line(seed: int) -> None:
    for stage in STAGES:
        run_stage(stage, PARAMS | {"seed": seed})
    for view in VIEWS:
        params = PARAMS | {"seed": seed, "evaluate": {**PARAMS["evaluate"], "on": view}}
        run_stage("evaluate", params, "--out", f"data/{view}")


def run_stage(stage: str, params: dict, *arguments: str) -> None:
    if code := segline([stage, "--params", json.dumps(params), *arguments]):
        raise SystemExit(code)


def find_missing(seed: int) -> list[Missing]:
    """Return the missing objects of validation and test, by comparison with the complete labels."""
    incomplete, complete = Packs(Path("data/ingest/files")), Folder(Path("whole"))
    write_streets(complete.root, **STREETS | {"missing_label_share": 0.0}, seed=seed, workers=os.cpu_count() or 1)
    height, width = read_dataset_info(Path("data/label")).crop_size
    index = {name: pd.read_csv(f"data/label/{name}_crops/index.csv", dtype={"key": str}) for name in JUDGED}
    crops = {row.key: (name, row) for name, rows in index.items() for row in rows.itertuples()}
    missing = []
    for entry in pd.read_csv(BytesIO(incomplete.read("missing_labels.csv"))).itertuples():
        key = Path(entry.image).stem
        if key not in crops:
            continue
        labels = [
            np.asarray(Image.open(BytesIO(tree.read(f"train_label/{key}_instanceIds.png"))))
            for tree in (incomplete, complete)
        ]
        mask = labels[0] != labels[1]
        assert np.count_nonzero(mask) == entry.pixels
        split, crop = crops[key]
        in_crop = np.count_nonzero(mask[crop.top : crop.top + height, crop.left : crop.left + width])
        missing.append(Missing(key, split, bounding_box(mask), entry.pixels, in_crop))
    return missing


def bounding_box(mask: np.ndarray) -> Box:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return Box(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


def share_inside(box: Box, other: Box) -> float:
    """Return the share of a box that lies in another."""
    height = min(box.top + box.height, other.top + other.height) - max(box.top, other.top)
    width = min(box.left + box.width, other.left + other.width) - max(box.left, other.left)
    return max(height, 0) * max(width, 0) / (box.height * box.width)


def judge(listed: pd.DataFrame, missing: list[Missing]) -> pd.DataFrame:
    """Add whether each row is right, and whether its box matches the missing object's (IoU at least 0.5)."""
    boxes = {entry.key: entry.box for entry in missing}
    right, whole = [], []
    for row in listed.itertuples():
        box, other = Box(row.top, row.left, row.height, row.width), boxes.get(row.key, NO_BOX)
        inside, inverse = share_inside(box, other), share_inside(other, box)
        right.append(inside >= HALF)
        whole.append(inside > 0 and 1 / (1 / inside + 1 / inverse - 1) >= HALF)
    return listed.assign(right=right, whole=whole)


def show(view: str, listed: pd.DataFrame, missing: list[Missing]) -> None:
    listed = judge(listed[listed["split"].isin(JUDGED)], missing)
    images = sum(len(pd.read_csv(f"data/label/{name}/index.csv")) for name in JUDGED)
    table = Table(title=f"on {view}: {len(missing)} objects without a label, in {images} images")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for least in CONFIDENCES:
        table.add_row(f"at least {least}", *measure(listed[listed["confidence"] >= least], missing, images))
    Console(width=120).print(table)
    inside = sum(entry.in_crop > 0 for entry in missing)
    print(f"{inside} of {len(missing)} missing objects lie in a crop, if only in part")


def measure(listed: pd.DataFrame, missing: list[Missing], images: int) -> list[str]:
    right, whole = listed[listed["right"]], listed[listed["whole"]]
    named, lacking = set(listed["key"]), {entry.key for entry in missing}
    return [
        str(len(listed)),
        ratio(len(right), len(listed)),
        ratio(right["key"].nunique(), len(missing)),
        ratio(len(whole), len(listed)),
        ratio(whole["key"].nunique(), len(missing)),
        str(len(named)),
        ratio(len(named & lacking), len(named)),
        ratio(len(named & lacking), len(lacking)),
        ratio(len(named), images),
    ]


def ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


if __name__ == "__main__":
    main()
