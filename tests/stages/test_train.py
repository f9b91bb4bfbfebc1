"""Train, stopped by Ctrl-C and started again, through the command line in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from shard_files import write_split

from segline.classes import LabelClass
from segline.data.shards import Description
from segline.outputs import write_json
from segline.params import load
from segline.stages.train import cells

PARAMS = {
    "name": "tiny",
    "train": {"models": [{"unet": {"width": 2, "depth": 1}}], "losses": ["dice", "cross_entropy"], "epochs": 150},
}


@pytest.fixture
def labelled(tmp_path):
    """Shards of coloured noise in two classes."""
    folder, rng = tmp_path / "data/label", np.random.default_rng(0)
    for split in ("train", "val", "test"):
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_split(folder / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    described = Description(classes, 0, 32, "c", "here", "s", "", {}, False)
    write_json(folder / "dataset.json", described.to_dict())
    return folder


def start(folder):
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DVC_"))}
    segline = "import sys; from segline.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", segline, "train", "--params", json.dumps(PARAMS)],
        cwd=folder,
        env=keep,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_ends_in_one_line_and_the_same_command_finishes(labelled):
    data = labelled.parent
    process = start(data.parent)
    while process.poll() is None and not list(data.glob("train.partial/*/last.pt")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.strip() == "segline train: stopped; the same command continues"
    assert not (data / "train").exists()
    again = start(data.parent)
    shown, told = again.communicate(timeout=200)
    assert again.returncode == 0, told
    assert "2 candidates" in shown
    for name in ("unet-dice", "unet-cross_entropy"):
        assert len((data / "train" / name / "history.csv").read_text().splitlines()) == 151


def test_twins_of_the_grid_have_names_of_their_own():
    models = [{"unet": {"width": 1}}, {"unet": {"width": 2}}]
    settings = load(json.dumps({"train": {"models": models, "losses": ["dice", {"dice": {"squared": True}}]}})).train
    assert [name for name, _, _ in cells(settings)] == ["unet-dice", "unet-dice.2", "unet-dice.3", "unet-dice.4"]
