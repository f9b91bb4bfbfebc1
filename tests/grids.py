"""Small grids on coloured noise, trained for real, and what they leave."""

import csv
import json

import mlflow
import numpy as np
from shard_files import write_split

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.loader import load
from segline.stages.train import run

TINY = {"models": [{"unet": {"width": 2, "depth": 1}}], "losses": ["dice"], "epochs": 3}

ONE_AFTER_ANOTHER = {"cpus_per_worker": 2}
"""Trials that each want both cores of the tests' Ray: one process trains them all, and imports PyTorch once."""


def write_noise(folder):
    """Write shards of colored noise in two classes; return their folder."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_split(folder / "label" / split, images, (images[..., 0] > 127).astype(np.uint8), size=5)
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    described = DatasetInfo(
        classes=classes,
        background=0,
        crop_size=(32, 32),
        content_hash="c",
        source="here",
        source_hash="s",
        source_revision="",
        pixels={},
        test_is_val=False,
    )
    write_dataset_info(folder / "label", described)
    return folder / "label"


def train(dataset_dir, tracking_uri, **settings):
    params = load(json.dumps({"name": "tiny", "train": TINY | settings}))
    out = dataset_dir.parent / "out"
    run(params, dataset_dir=dataset_dir, tracking_uri=tracking_uri, out=out)
    return out


def board(out):
    with (out / "trials.csv").open() as stream:
        return {row["trial"]: row for row in csv.DictReader(stream)}


def runs(tracking_uri):
    client = mlflow.MlflowClient(tracking_uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    return {run.info.run_name: run for run in found}
