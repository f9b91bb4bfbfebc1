"""A copy of what trials save in a bucket of a real S3 server: a machine that has lost its disk continues from there."""

import json
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from shard_files import write_split

from segline.artifacts.bundle import FILE
from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.components import ComponentSpec
from segline.config.loader import load
from segline.errors import SourceError, StoppedError
from segline.files.atomic import MARK, write_text
from segline.files.s3 import Bucket
from segline.files.transfer import download, upload
from segline.training import checkpoints
from segline.training import run_trial as trials
from segline.training.checkpoints import STOP, CheckpointStore, Origins
from segline.training.trial import Trial, TrialConfig, TrialInputs


@pytest.fixture
def dataset_dir(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        write_split(tmp_path / "label" / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_dataset_info(
        tmp_path / "label",
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
    return tmp_path / "label"


def trial(dataset_dir, work, url):
    settings = load(json.dumps({"train": {"epochs": 4, "batch_size": 2}})).train
    model, loss = ComponentSpec(name="unet", options={"width": 2, "depth": 1}), (ComponentSpec(name="dice"),)
    config = TrialConfig(name="unet-dice", model=model, loss=loss, settings=settings, seed=7)
    inputs, folder = (
        TrialInputs(dataset_dir=dataset_dir, prepared_dir=dataset_dir.parent / "prepared"),
        work / "unet-dice",
    )
    return Trial(config=config, inputs=inputs, folder=folder, until=4, store=CheckpointStore(url))


def train(made, until=99):
    """The epochs of a trial, told to stop after one of them."""
    epochs = []
    for record in trials.train_trial(made):
        epochs.append(record["epoch"])
        if record["epoch"] == until:
            (made.folder.parent / STOP).touch()
    return epochs


def test_a_machine_without_the_files_continues_from_the_bucket(dataset_dir, tmp_path, bucket, s3_client, monkeypatch):
    monkeypatch.setattr(trials, "STOP_POLL_S", 0.0)
    name = bucket({})
    url = f"s3://{name}/runs/one"
    train(trial(dataset_dir, tmp_path / "whole", ""))
    first = trial(dataset_dir, tmp_path / "first", url)
    with pytest.raises(StoppedError):
        train(first, until=2)
    keys = {entry["Key"] for entry in s3_client.list_objects_v2(Bucket=name)["Contents"]}
    assert {Path(key).name for key in keys} == {"trial.json", "weights.safetensors", "last.pt", "history.csv"}
    shutil.rmtree(tmp_path / "first")
    second = trial(dataset_dir, tmp_path / "second", url)
    second.store.fetch(tmp_path / "second")
    assert train(second) == [1, 2, 3, 4]
    for file in ("weights.safetensors", "history.csv"):
        assert (second.folder / file).read_bytes() == (tmp_path / "whole/unet-dice" / file).read_bytes()
    third = trial(dataset_dir, tmp_path / "third", url)
    third.store.fetch(tmp_path / "third")
    assert third.is_finished
    assert (third.folder / FILE).read_bytes() == (second.folder / FILE).read_bytes()
    assert (third.folder / "weights.safetensors").read_bytes() == (second.folder / "weights.safetensors").read_bytes()


def test_what_is_there_is_not_fetched_again_and_without_a_url_nothing_happens(tmp_path, bucket, s3):
    name = bucket({"run/a/one.txt": b"1", "run/a/two.txt": b"2"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.txt").write_text("here")
    CheckpointStore(f"s3://{name}/run").fetch(tmp_path)
    assert (tmp_path / "a/one.txt").read_text() == "here"
    assert (tmp_path / "a/two.txt").read_text() == "2"
    s3.asked = []
    CheckpointStore("").fetch(tmp_path)
    CheckpointStore("").upload(tmp_path / "a", ["one.txt"])
    assert s3.asked == []


def test_a_bucket_that_is_not_there_is_told_by_name(tmp_path, bucket):
    bucket({})
    (tmp_path / "one.txt").write_text("1")
    with pytest.raises(SourceError, match="there is no bucket 'no-such-bucket-anywhere'; check its name"):
        CheckpointStore("s3://no-such-bucket-anywhere/run").upload(tmp_path, ["one.txt"])


# Nodes that share no disk


def leave(folder, epochs, **files):
    """What a trial has after some epochs, each file told by them."""
    rows = "".join(f"{epoch},0.5\n" for epoch in range(1, 1 + epochs))
    write_text(folder / "history.csv", f"epoch,val_miou\n{rows}")
    for name in ("trial.json", "weights.safetensors", "last.pt"):
        write_text(folder / name, f"{epochs}")
    for name, text in files.items():
        write_text(folder / name.replace("_", "."), text)


def has(folder):
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}


@pytest.fixture
def copied(bucket, tmp_path):
    """A mirror in which a trial has done five epochs; a function leaves another state there."""
    made = CheckpointStore(f"s3://{bucket({})}/runs/0123")

    def leave_copy(epochs, **files):
        leave(tmp_path / "origin" / "a", epochs, **files)
        made.upload(tmp_path / "origin" / "a", sorted(path.name for path in (tmp_path / "origin" / "a").iterdir()))

    leave_copy(5)
    return made, leave_copy


@pytest.mark.parametrize("here", [None, 0, 3])
def test_a_trial_gets_what_its_node_lacks_or_has_older(copied, tmp_path, here):
    if here is not None:
        leave(tmp_path / "work/a", here)
    copied[0].fetch(tmp_path / "work", "a")
    assert has(tmp_path / "work/a") == has(tmp_path / "origin/a")


@pytest.mark.parametrize("here", [5, 6])
def test_what_a_node_has_of_as_many_epochs_or_more_stays(copied, tmp_path, here):
    leave(tmp_path / "work/a", here, last_pt="amid the next one")
    before = has(tmp_path / "work/a")
    copied[0].fetch(tmp_path / "work", "a")
    assert has(tmp_path / "work/a") == before
    copied[0].fetch(tmp_path / "work", "a", exactly=True)
    assert has(tmp_path / "work/a") == has(tmp_path / "origin/a"), "several nodes begin alike"


def test_the_driver_gets_what_it_decides_by_and_no_old_checkpoint_stays(copied, tmp_path):
    leave(tmp_path / "work/a", 3)
    copied[0].fetch(tmp_path / "work", whole=False)
    found = has(tmp_path / "work/a")
    assert set(found) == {"history.csv", "trial.json"}
    assert found["trial.json"] == "5"
    copied[0].fetch(tmp_path / "work", "a")
    assert has(tmp_path / "work/a") == has(tmp_path / "origin/a"), "a trial that then begins there goes on"


@pytest.mark.parametrize("whole", [True, False])
def test_of_a_finished_trial_comes_its_candidate_alone(copied, tmp_path, whole):
    copied[1](6, model_json="{}")
    leave(tmp_path / "work/a", 6)
    copied[0].fetch(tmp_path / "work", whole=whole)
    assert set(has(tmp_path / "work/a")) == {"history.csv", "model.json", "trial.json", "weights.safetensors"}


@pytest.fixture
def driver(tmp_path):
    (tmp_path / "driver").mkdir()
    return tmp_path / "driver"


def signs(store):
    return [name for name in Bucket(store.url).files if name.startswith(STOP)]


def test_a_sign_to_stop_is_heard_on_other_nodes_and_gone_when_the_driver_ends(copied, driver, monkeypatch):
    monkeypatch.setattr(checkpoints, "POLL_S", 0.05)
    there = pickle.loads(pickle.dumps(copied[0]))
    with there.watch_stop() as hears, copied[0].stop_on_sigterm(driver):
        time.sleep(0.3)
        assert not hears()
        signal.raise_signal(signal.SIGTERM)
        assert (driver / STOP).exists()
        wait_for(hears)
    assert signs(copied[0]) == []
    copied[0].open(driver)
    assert not (driver / STOP).exists()


def test_an_equal_run_neither_hears_the_sign_nor_removes_it(copied, driver, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "POLL_S", 0.05)
    first, second = copied[0], CheckpointStore(copied[0].url)
    with first.watch_stop() as first_hears, second.watch_stop() as second_hears:
        first.request_stop(driver)
        wait_for(first_hears)
        with second.stop_on_sigterm(tmp_path / "work"):
            second.open(tmp_path / "work")
        assert len(signs(first)) == 1
        time.sleep(0.3)
        assert not second_hears()


def test_no_sign_is_copied(copied, driver, tmp_path):
    """Also not one that an older version left, which had no id."""
    (tmp_path / STOP).touch()
    for stop_key in (STOP, copied[0].stop_key):
        Bucket(copied[0].url).write(stop_key, tmp_path / STOP)
    copied[0].open(driver)
    assert [path.name for path in driver.iterdir()] == ["a"]


def wait_for(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_another_run_left_on_a_node_is_not_continued(copied, tmp_path):
    leave(tmp_path / "work/a", 9)
    write_text(tmp_path / "work" / MARK, "89ab")
    copied[0].sync_on_start(tmp_path / "work/a", rank=0, barrier=None)
    assert has(tmp_path / "work/a") == has(tmp_path / "origin/a")
    write_text(tmp_path / "work/a/own", "of this run")
    copied[0].sync_on_start(tmp_path / "work/a", rank=0, barrier=None)
    assert (tmp_path / "work/a/own").exists()


@pytest.mark.parametrize("first_has", [0, 5, 7])
def test_workers_on_several_nodes_begin_with_what_the_first_has(copied, tmp_path, first_has):
    """Its checkpoint may be of amid an epoch, which the bucket did not get."""
    first, second = tmp_path / "first/a", tmp_path / "second/a"
    leave(first, first_has, last_pt=f"amid {first_has + 1}")
    leave(second, 3)

    def meanwhile():
        if not meanwhile.called:
            meanwhile.called = True
            copied[0].sync_on_start(second, rank=1, barrier=meanwhile)

    meanwhile.called = False
    copied[0].sync_on_start(first, rank=0, barrier=meanwhile)
    assert has(first) == has(second)
    assert has(first)["last.pt"] == (f"amid {first_has + 1}" if first_has >= 5 else "5")


def test_a_node_gets_what_a_trial_reads_from_where_the_driver_got_it(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    name = bucket({"weights/net.pth": b"w"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/one").write_text("1")
    upload(tmp_path / "data", f"s3://{name}/label")
    dataset_dir, place = download(f"s3://{name}/label"), f"s3://{name}/weights/net.pth"
    weights = checkpoints.local_file(place, tmp_path / "encoders")
    found = Origins.of((dataset_dir, tmp_path / "data"), {place: weights, "here.pth": tmp_path / "here.pth"})
    assert found == Origins({dataset_dir: f"s3://{name}/label"}, {weights: place})
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "encoders")
    found.fetch()
    assert (dataset_dir / "one").read_text() == "1"
    assert weights.read_bytes() == b"w"
    weights.unlink()
    bucket({"weights/net.pth": b"another"}, name)
    with pytest.raises(SourceError, match="was changed since this run began"):
        found.fetch()
