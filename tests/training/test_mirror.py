"""A copy of what trials save in a bucket of a real S3 server: a machine that has lost its disk continues from there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from shard_files import write_split

from segline.classes import LabelClass
from segline.data.shards import Description
from segline.errors import SourceError, StoppedError
from segline.inference.bundle import FILE
from segline.outputs import write_json
from segline.params import Choice, load
from segline.stages import trial as trials
from segline.stages.train import STOP, Trial
from segline.training.grid import Cell
from segline.training.mirror import Mirror


@pytest.fixture
def labelled(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        write_split(tmp_path / "label" / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_json(tmp_path / "label/dataset.json", Description(classes, 0, 32, "c", "h", "s", "", {}, False).to_dict())
    return tmp_path / "label"


def trial(labelled, work, url):
    settings = load(json.dumps({"train": {"epochs": 4, "batch_size": 2}})).train
    model, loss = Choice(name="unet", options={"width": 2, "depth": 1}), (Choice(name="dice"),)
    cell = Cell("unet-dice", model, loss, settings, 7)
    return Trial(cell, labelled, None, {}, work / "unet-dice", 4, Mirror(url))


def train(made, until=99):
    """The epochs of a trial, told to stop after one of them."""
    epochs = []
    for record in trials.train_trial(made):
        epochs.append(record["epoch"])
        if record["epoch"] == until:
            (made.folder.parent / STOP).touch()
    return epochs


def test_a_machine_without_the_files_continues_from_the_bucket(labelled, tmp_path, bucket, s3_client, monkeypatch):
    monkeypatch.setattr(trials, "SECONDS_BETWEEN_LOOKS", 0.0)
    name = bucket({})
    url = f"s3://{name}/runs/one"
    train(trial(labelled, tmp_path / "whole", ""))
    first = trial(labelled, tmp_path / "first", url)
    with pytest.raises(StoppedError):
        train(first, until=2)
    keys = {entry["Key"] for entry in s3_client.list_objects_v2(Bucket=name)["Contents"]}
    assert {Path(key).name for key in keys} == {"trial.json", "weights.safetensors", "last.pt", "history.csv"}
    shutil.rmtree(tmp_path / "first")
    second = trial(labelled, tmp_path / "second", url)
    second.mirror.fetch(tmp_path / "second")
    assert train(second) == [1, 2, 3, 4]
    for file in ("weights.safetensors", "history.csv"):
        assert (second.folder / file).read_bytes() == (tmp_path / "whole/unet-dice" / file).read_bytes()
    third = trial(labelled, tmp_path / "third", url)
    third.mirror.fetch(tmp_path / "third")
    assert third.is_finished
    assert (third.folder / FILE).read_bytes() == (second.folder / FILE).read_bytes()
    assert (third.folder / "weights.safetensors").read_bytes() == (second.folder / "weights.safetensors").read_bytes()


def test_what_is_there_is_not_fetched_again_and_without_a_url_nothing_happens(tmp_path, bucket, s3):
    name = bucket({"run/a/one.txt": b"1", "run/a/two.txt": b"2"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.txt").write_text("here")
    Mirror(f"s3://{name}/run").fetch(tmp_path)
    assert (tmp_path / "a/one.txt").read_text() == "here"
    assert (tmp_path / "a/two.txt").read_text() == "2"
    s3.asked = []
    Mirror("").fetch(tmp_path)
    Mirror("").put(tmp_path / "a", ["one.txt"])
    assert s3.asked == []


def test_a_bucket_that_is_not_there_is_told_by_name(tmp_path, bucket):
    bucket({})
    (tmp_path / "one.txt").write_text("1")
    with pytest.raises(SourceError, match="there is no bucket 'no-such-bucket-anywhere'; check its name"):
        Mirror("s3://no-such-bucket-anywhere/run").put(tmp_path, ["one.txt"])
