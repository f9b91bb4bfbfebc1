"""What goes wrong in a grid: a trial that fails, a process that is killed, a damaged shard, a full disk, no memory."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from grids import TINY, board, runs, train

from segline.config.loader import load
from segline.config.sections import Train
from segline.errors import StageError, TrainingError
from segline.files.atomic import write_text
from segline.stages.train import run
from segline.training import run_trial as trials
from segline.training.run_trial import explaining_memory

BROKEN = {"losses": ["dice", {"cross_entropy": {"weight": 1e39}}], "search": {"scheduler": "none"}}


@pytest.mark.usefixtures("trained_here")
def test_a_trial_whose_loss_is_no_number_is_told_and_marked_and_the_others_are_trained(dataset_dir, tracking_uri):
    expected = r"^1 of 2 trials failed: unet-cross_entropy: the loss became inf at step 0, see (.*); lower train\."
    with pytest.raises(TrainingError, match=expected) as caught:
        train(dataset_dir, tracking_uri, **BROKEN)
    with np.load(str(caught.value).partition("see ")[2].partition(";")[0]) as kept:
        assert kept["images"].shape == (8, 32, 32, 3)
    found = runs(tracking_uri)
    assert found["unet-dice"].info.status == "FINISHED"
    assert found["unet-cross_entropy"].info.status == "FAILED"
    assert found["unet-cross_entropy"].data.tags["segline.error"].startswith("the loss became inf at step 0")
    assert [run.info.status for name, run in found.items() if name.startswith("grid-")] == ["FAILED"]
    out = train(dataset_dir, tracking_uri, **BROKEN | {"search": {"scheduler": "none", "max_failed": 1}})
    assert {name: row["status"] for name, row in board(out).items()} == {
        "unet-dice": "finished",
        "unet-cross_entropy": "failed",
    }
    assert "RUNNING" not in {run.info.status for run in runs(tracking_uri).values()}


def raising(name, error):
    """Stands for a fault of a library, or of our own, amid the training of one trial."""
    real = trials.train_trial

    def train_trial(trial):
        for record in real(trial):
            yield record
            if trial.name == name and record["epoch"] == 2:
                raise error

    return train_trial


@pytest.mark.usefixtures("trained_here")
def test_an_unknown_error_is_the_failure_of_its_trial_and_leaves_a_traceback(
    dataset_dir, tracking_uri, monkeypatch, capsys
):
    error = ZeroDivisionError("division by\nzero, by a library")
    settings = {"search": {"scheduler": "none"}}
    with monkeypatch.context() as changed:
        changed.setattr("segline.training.search.run._train_trial", raising("unet-dice", error))
        with pytest.raises(
            TrainingError, match=r"^1 of 1 trials failed: unet-dice: ZeroDivisionError: division by zero, by"
        ):
            train(dataset_dir, tracking_uri, **settings)
    path = dataset_dir.parent / "out.partial" / "unet-dice" / "traceback.txt"
    assert "in train_trial" in path.read_text(encoding="utf-8")
    told = [line for line in capsys.readouterr().out.splitlines() if "unet-dice failed" in line]
    assert len(told) == 1
    assert told[0].endswith(f"ZeroDivisionError: division by zero, by a library; its traceback is in {path}")
    out = train(dataset_dir, tracking_uri, **settings)
    assert {row["status"] for row in board(out).values()} == {"finished"}
    assert not (out / "unet-dice" / "traceback.txt").exists()


@pytest.mark.usefixtures("trained_here")
def test_a_grid_in_which_every_trial_fails_is_no_success(dataset_dir, tracking_uri, capsys):
    """The unfinished run of another version that lies there is started anew, with a line."""
    unfinished = dataset_dir.parent / "out.partial"
    write_text(unfinished / ".segline", "fingerprint of version 0.1")
    write_text(unfinished / "unet-cross_entropy/history.csv", "epoch,val_miou\n1,0.5\n")
    with pytest.raises(TrainingError, match=r"^1 of 1 trials failed"):
        train(dataset_dir, tracking_uri, losses=BROKEN["losses"][1:], search={"scheduler": "none", "max_failed": 5})
    assert f"{dataset_dir.parent}/out has an unfinished run of other parameters" in capsys.readouterr().out
    assert not (unfinished / "unet-cross_entropy/history.csv").exists()


def die_once(folder):
    """Stands for a trial's process that the kernel kills for want of memory, the first time amid the training."""
    real = trials.train_trial

    def train_trial(trial):
        for record in real(trial):
            yield record
            if record["epoch"] == 2 and not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    return train_trial


@pytest.mark.usefixtures("joined_ray")
def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(dataset_dir, tracking_uri, monkeypatch):
    monkeypatch.setattr("segline.training.search.run._train_trial", die_once(dataset_dir.parent))
    out = train(dataset_dir, tracking_uri, epochs=4, search={"scheduler": "none"})
    assert (dataset_dir.parent / "died").exists()
    assert board(out)["unet-dice"]["epochs"] == "4"
    [trial] = [run for name, run in runs(tracking_uri).items() if name == "unet-dice"]
    client = mlflow.MlflowClient(tracking_uri)
    steps = [metric.step for metric in client.get_metric_history(trial.info.run_id, "val_miou")]
    assert sorted(steps) == list(range(1, 5))


def test_a_flipped_byte_names_the_shard_before_anything_runs(dataset_dir, tracking_uri):
    path = dataset_dir / "train" / "images-00001.npy"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"train/images-00001\.npy is damaged \(CRC \w{8}, expected \w{8}\); run `seg"):
        train(dataset_dir, tracking_uri)
    path.unlink()
    with pytest.raises(StageError, match=r"images-00001\.npy is missing; run `segline label` again"):
        train(dataset_dir, tracking_uri)


def test_memory_that_does_not_suffice_is_told_with_what_to_try():
    """A real allocation that no machine has room for."""
    with (
        pytest.raises(
            TrainingError, match=r"^out of memory at train.batch_size 8; try train.batch_size: 4 with train.gr"
        ),
        explaining_memory(Train(batch_size=8)),
    ):
        torch.empty(2**50)
    with (
        pytest.raises(TrainingError, match=r"try a smaller label.crop or model"),
        explaining_memory(Train(batch_size=1)),
    ):
        raise MemoryError
    with pytest.raises(RuntimeError, match="size mismatch"), explaining_memory(Train()):
        raise RuntimeError("size mismatch")


FULL = """
import resource, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from segline.data.reading import open_split
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.config.params import Train
from segline.training.engine import fit
from segline.training.run import Run
dataset_dir = Path({dataset_dir!r})
run = Run(
    model=MODELS["unet"](2, width=4, depth=2),
    loss=WeightedSum([(1.0, LOSSES["dice"](Task(names=("dark", "light"), background=0)))]),
    train=open_split(dataset_dir, "train"), val=open_split(dataset_dir, "val"), classes=2,
    settings=Train(epochs=3), seed=1, device=torch.device("cpu"),
)
epochs = fit(run, Path({folder!r}))
next(epochs)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    next(epochs)
except OSError as error:
    print(error.filename, error.strerror)
"""


def test_a_full_disk_names_the_file_and_leaves_the_last_checkpoint(dataset_dir, tmp_path):
    """A limit on the size of files is the full disk that needs no root."""
    folder = tmp_path / "trial"
    code = FULL.format(tests=str(Path(__file__).parents[1]), dataset_dir=str(dataset_dir), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout
    assert "cannot be written (File too large); fix that and run the same command again" in done.stdout
    assert not list(folder.glob(".*.tmp"))
    assert len(torch.load(folder / "last.pt", weights_only=True)["history"]) == 1


SEARCH = {"spaces": {"learning_rate": [1e-3, 1e-2]}, "num_samples": 2, "scheduler": "none"}
"""Two trials of a kind, which is measured once."""


@pytest.mark.usefixtures("trained_here")
def test_a_plan_says_what_a_grid_would_take_and_leaves_nothing(dataset_dir, capsys):
    params = load(json.dumps({"name": "tiny", "train": TINY | {"search": SEARCH, "epochs": 5}}))
    folders = {"dataset_dir": dataset_dir, "out": dataset_dir.parent / "out"}
    before = sorted(dataset_dir.parent.rglob("*"))
    run(params, **folders, tracking_uri="sqlite:///none.db", plan_only=True)
    told = capsys.readouterr().out
    assert "2 trials of up to 5 epochs" in told
    assert re.search(r"2 .* unet\(width=2, depth=1\).* dice .* 8 .*0\.0 M.* \d+\.\d s .* \d+\.\d GB", told)
    assert re.search(r"about \d.* for 10 epochs, measured one trial at a time", told)
    assert sorted(dataset_dir.parent.rglob("*")) == before


@pytest.mark.usefixtures("trained_here")
def test_a_grid_with_an_encoder_of_one_size_ends_before_its_first_trial(dataset_dir, tracking_uri):
    swin = {"smp/upernet": {"encoder": "tu-swin_tiny_patch4_window7_224"}}
    with pytest.raises(TrainingError, match=r"^smp_upernet-dice: .*224") as caught:
        train(dataset_dir, tracking_uri, models=[*TINY["models"], swin], search={"max_failed": 1})
    assert len(str(caught.value).splitlines()) == 1
    assert not (dataset_dir.parent / "out.partial/unet-dice").exists()
