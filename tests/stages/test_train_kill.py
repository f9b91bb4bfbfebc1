"""`segline train`, killed with SIGKILL twenty times, ends with the bits of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import mlflow
import numpy as np
import pytest
from shard_files import write_split

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass

PARAMS = {
    "name": "tiny",
    "train": {
        "models": [{"unet": {"width": 4, "depth": 2}}],
        "losses": ["dice", "cross_entropy", "focal"],
        "epochs": 400,
        "ema_decay": 0.9,
        "batch_size": 2,
        "checkpoint_minutes": 1e-6,
        "search": {"scheduler": "halving", "grace_period": 150, "reduction_factor": 2},
    },
}
KILLS = 20


def project(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_split(folder / "data/label" / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_dataset_info(
        folder / "data/label",
        DatasetInfo(
            classes=classes,
            background=0,
            crop_size=(32, 32),
            content_hash="c",
            source="h",
            source_hash="s",
            source_revision="",
            pixels={},
            test_is_val=False,
        ),
    )
    return folder


def start(folder):
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DVC_"))}
    segline = "import sys; from segline.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", segline, "train", "--params", json.dumps(PARAMS)]
    return subprocess.Popen(
        words,
        cwd=folder,
        env=keep,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def family(process):
    """The processes that a process started, directly or not, with their command lines."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    rows = [line.split(maxsplit=2) for line in listed]
    own = {process.pid}
    for _ in range(5):
        own |= {int(pid) for pid, parent, _ in rows if int(parent) in own}
    return [(int(pid), args) for pid, _, args in rows if int(pid) in own]


def trains(process):
    return [pid for pid, args in family(process) if args.startswith("ray::ResourceTrainable")]


def wait_for(folder, process, what, seconds):
    """Until the driver is gone, the seconds are over, or files like ``what`` are there."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not (what and list(folder.rglob(what))):
        time.sleep(0.001 if what else 0.05)


def kill(folder, process, how, moments):
    """A worker alone, which the driver survives, and then the driver; the driver; all at once; all amid a write."""
    partial = folder / "data/train.partial"
    wait_for(partial, process, "last.pt", 60)
    wait_for(partial, process, ".last.pt.*.tmp" if how == "write" else None, moments.uniform(0.0, 4.0))
    if how == "worker":
        for pid in trains(process)[:1]:
            os.kill(pid, signal.SIGKILL)
        wait_for(partial, process, None, moments.uniform(0.0, 3.0))
    victims = [pid for pid, _ in family(process)] if how in ("all", "write") else [process.pid]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.stdout.close()
    process.wait()


def outcome(folder):
    out = folder / "data/train"
    weights = {path.parent.name: path.read_bytes() for path in out.rglob("weights.safetensors")}
    histories = {path.parent.name: path.read_text() for path in out.rglob("history.csv")}
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    epochs = {
        run.info.run_name: sorted(m.step for m in client.get_metric_history(run.info.run_id, "val_miou"))
        for run in runs
    }
    return weights, histories, (out / "trials.csv").read_text(), epochs, {run.info.status for run in runs}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_twenty_times_it_ends_the_same_and_no_finished_trial_runs_again(tmp_path):
    whole, cut = project(tmp_path / "whole"), project(tmp_path / "cut")
    shown, _ = (process := start(whole)).communicate()
    assert process.returncode == 0, shown
    moments, finished = random.Random(7), {}
    for number in range(KILLS):
        process = start(cut)
        kill(cut, process, ("worker", "driver", "all", "write")[number % 4], moments)
        for path in (cut / "data/train.partial").glob("*/model.json"):
            stamp = path.stat().st_mtime_ns
            assert finished.setdefault(path.parent.name, stamp) == stamp
        assert not (cut / "data/train").exists(), f"it ended before kill {number + 1}: give it more epochs"
    shown, _ = (process := start(cut)).communicate()
    assert process.returncode == 0, shown
    assert outcome(cut) == outcome(whole)
    for name, stamp in finished.items():
        assert (cut / "data/train" / name / "model.json").stat().st_mtime_ns == stamp
