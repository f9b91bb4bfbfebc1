"""Train, stopped by Ctrl-C and started again, through the command line in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import mlflow
import numpy as np
import pytest
import torch
from shard_files import write_split

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.loader import load
from segline.errors import SourceError, StageError, TrainingError
from segline.stages.train import run
from segline.training import checkpoints, run_trial

PARAMS = {
    "name": "tiny",
    "train": {
        "models": [{"unet": {"width": 2, "depth": 1}}],
        "losses": ["dice", "cross_entropy"],
        "epochs": 150,
        "search": {"scheduler": "none"},
    },
}


@pytest.fixture
def dataset_dir(tmp_path):
    """Shards of colored noise in two classes."""
    folder, rng = tmp_path / "data/label", np.random.default_rng(0)
    for split in ("train", "val", "test"):
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_split(folder / split, images, (images[..., 0] > 127).astype(np.uint8))
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
    write_dataset_info(folder, described)
    return folder


def start(folder, params=PARAMS, without=("RAY_", "MLFLOW_", "DVC_")):
    keep = {key: value for key, value in os.environ.items() if not key.startswith(without)}
    segline = "import sys; from segline.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", segline, "train", "--params", json.dumps(params)],
        cwd=folder,
        env=keep,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_and_the_same_command_finishes(dataset_dir):
    data = dataset_dir.parent
    process = start(data.parent)
    while process.poll() is None and not list(data.glob("train.partial/*/last.pt")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert told.strip() == "segline train: stopped; the same command continues"
    assert not (data / "train").exists()
    again = start(data.parent)
    shown, told = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert "2 candidates" in shown
    for name in ("unet-dice", "unet-cross_entropy"):
        assert len((data / "train" / name / "history.csv").read_text().splitlines()) == 151


def test_sigterm_saves_amid_the_training_and_ends_with_a_code_of_its_own(dataset_dir, joined_ray, empty_store):
    """Each process looks for the signal's file once in its time; together these are less than ten seconds."""
    assert checkpoints.POLL_S + run_trial.STOP_POLL_S < 10
    data = dataset_dir.parent
    (data.parent / "mlruns").mkdir()
    shutil.copyfile(empty_store, data.parent / "mlruns/mlflow.db")
    process = start(
        data.parent, PARAMS | {"train": PARAMS["train"] | {"losses": ["dice"], "epochs": 1000}}, ("MLFLOW_", "DVC_")
    )
    while process.poll() is None and not list(data.glob("train.partial/*/last.pt")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 75, told
    [line] = told.strip().splitlines()
    assert line.startswith("segline train: ")
    assert line.endswith("saved; the same command continues")
    assert {run.info.status for run in runs(data)} == {"KILLED"}
    for checkpoint in data.glob("train.partial/*/last.pt"):
        assert len(torch.load(checkpoint, weights_only=True)["history"]) < 1000


def runs(data):
    client = mlflow.MlflowClient(f"sqlite:///{data.parent}/mlruns/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("tiny").experiment_id])


def test_what_cannot_be_made_is_told_before_anything_runs(dataset_dir, tmp_path):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    models = [{"smp/fpn": {"encoder": "resnt18"}}, {"drn_a_18": {"pretrained": str(tmp_path / "junk.pth")}}, "unet"]
    losses = ["dice", {"cross_entropy": {"class_weights": {"drak": 2.0}}}]
    params = load(json.dumps({"train": {"models": models, "losses": losses}}))
    with pytest.raises(TrainingError) as caught:
        run(
            params,
            dataset_dir=dataset_dir,
            tracking_uri="sqlite:///none.db",
            out=tmp_path / "out",
        )
    [line] = str(caught.value).splitlines()
    assert "smp/fpn.encoder: unknown encoder 'resnt18'; did you mean 'resnet18'?" in line
    assert "junk.pth cannot be read as weights" in line
    assert "'drak'" in line
    assert "did you mean 'dark'?" in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_map_that_label_did_not_make_is_told_before_anything_runs(dataset_dir, tmp_path):
    train = {"models": ["unet"], "losses": ["distance_map"]}
    params = load(json.dumps({"label": {"distances": ["border"]}, "train": train}))
    with pytest.raises(TrainingError, match=r"label\.distances lacks 'border'; add it and run `segline label` again"):
        run(params, dataset_dir=dataset_dir, tracking_uri="none", out=tmp_path / "out")


def test_crops_that_label_did_not_write_are_told_before_anything_runs(dataset_dir, tmp_path):
    params = load(json.dumps({"train": {"validate_on": "crops"}}))
    with pytest.raises(StageError, match=r"val_crops is missing: .* run `segline label` again"):
        run(params, dataset_dir=dataset_dir, tracking_uri="none", out=tmp_path / "out")


def test_a_weight_file_that_is_missing_is_told_first(dataset_dir, tmp_path):
    params = load(json.dumps({"train": {"models": [{"fcn8s": {"pretrained": "nowhere.pth"}}]}}))
    with pytest.raises(SourceError, match=r"'nowhere\.pth' is not a file"):
        run(params, dataset_dir=dataset_dir, tracking_uri="none", out=tmp_path / "out")
