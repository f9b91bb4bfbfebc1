"""`segline train` as a RayJob's driver: it trains on while it is followed, else it saves itself and ends."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from segline.files.s3 import Bucket
from segline.training import lease
from segline.training.checkpoints import STOP
from segline.training.lease import FOLLOWED, heartbeat

EPOCHS = 2000
LEASE_S = 5
PARAMS = {
    "name": "tiny",
    "train": {"models": [{"unet": {"width": 2, "depth": 1}}], "losses": ["dice"], "epochs": EPOCHS},
}
SEGLINE = f"""
import sys
from segline.cli import main
from segline.training import lease
lease.LOOK_S, lease.MAX_UNCHANGED_LOOKS = 0.1, {10 * LEASE_S}
sys.exit(main())
"""


@pytest.fixture
def store(bucket):
    return f"s3://{bucket({})}/ray"


@pytest.fixture
def start(dataset_dir, store, tracking_uri, tmp_path):
    """A function that starts the driver; its environment has the place to look at and the bucket."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "SEGLINE_"))}
    given = {"SEGLINE_STORE": store, FOLLOWED: f"{store}/followed/one", "SEGLINE_CACHE": str(tmp_path / "cache")}
    words = ["train", "--params", json.dumps(PARAMS), "--dataset", str(dataset_dir)]
    words += ["--out", str(tmp_path / "out"), "--tracking-uri", tracking_uri]
    command, pipe = [sys.executable, "-c", SEGLINE, *words], subprocess.PIPE
    with ExitStack() as stack:

        def run():
            process = stack.enter_context(
                subprocess.Popen(command, env=keep | given, stdout=pipe, stderr=pipe, text=True)
            )
            stack.callback(process.kill)
            return process

        yield run


def saved(store):
    return {name.rpartition("/")[2]: name for name in Bucket(f"{store}/checkpoints").files}


def epochs(store):
    return len(Bucket(f"{store}/checkpoints").read(saved(store)["history.csv"]).splitlines()) - 1


@pytest.mark.slow
def test_a_training_goes_on_while_it_is_followed_and_then_saves_itself_and_ends(start, store, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.1)
    with heartbeat(f"{store}/followed/one"):
        process = start()
        while process.poll() is None and "history.csv" not in saved(store):
            time.sleep(0.1)
        time.sleep(2 * LEASE_S)
        assert process.poll() is None, process.communicate()
    before = epochs(store)
    shown, told = process.communicate(timeout=300)
    assert process.returncode == 75, told + shown
    assert told == "segline train: stopped and saved; the same command continues\n"
    assert shown.count("train: nobody has followed this") == 1
    assert {"last.pt", "history.csv", "weights.safetensors"} <= set(saved(store))
    assert not [name for name in saved(store) if name.startswith(STOP)]
    assert 1 < before <= epochs(store) < EPOCHS
