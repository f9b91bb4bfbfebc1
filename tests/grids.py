"""Small grids on coloured noise, trained for real, and what they leave."""

import csv
import json
import traceback
from contextlib import nullcontext

import mlflow
import numpy as np
from shard_files import write_split

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.loader import load
from segline.errors import TrainingError
from segline.stages.train import run
from segline.training.ray_tune import _keep_traceback

TINY = {"models": [{"unet": {"width": 2, "depth": 1}}], "losses": ["dice"], "epochs": 3}


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


class ReportedError(Exception):
    """Ray's report of an error that is not ours: its text is the traceback."""

    def __init__(self, cause):
        super().__init__("".join(traceback.format_exception(cause)))
        self.cause = cause


def run_trials_here(trials, run, *, watch, workers, asha, **resources):
    """What `ray_tune.run_trials` does with trials of one worker each, one after another in this process."""
    assert (workers, asha) == (1, None), "that needs Ray"
    failed = []
    for trial in trials:
        try:
            for record in run(trial):
                watch.on_record(record)
        except TrainingError as error:
            failed.append((trial, str(error)))
        except ArithmeticError as error:
            failed.append((trial, _keep_traceback(trial, ReportedError(error))))
        else:
            watch.on_end(trial)
    return failed


def without_ray(monkeypatch):
    """Let a grid train here what it would train in processes of Ray, each of which imports PyTorch for seconds."""
    monkeypatch.setattr("segline.stages.train.ray_session", lambda: nullcontext({"CPU": 2}))
    monkeypatch.setattr("segline.training.search.run.run_trials", run_trials_here)
    monkeypatch.setattr("segline.training.search.check.is_one_machine", lambda: True)


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
