"""The preparation of losses: it runs once, with the same bits also after a kill, and reaches the trials."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from grids import runs, train, write_noise
from mixed_split import random_split
from shard_files import write_split

from segline.config.components import ComponentSpec
from segline.files.s3 import Bucket
from segline.training import prepare
from segline.training.checkpoints import CheckpointStore
from segline.training.components import preparation_name
from segline.training.prepare import prepare_losses
from segline.training.trial import TrialInputs

EDGES = {"edge_steps": 20, "edge_batch_size": 4}
SEMEDA = ComponentSpec(name="semeda", options=EDGES)


@pytest.fixture
def inputs(tmp_path):
    return TrialInputs(dataset_dir=write_noise(tmp_path), prepared_dir=tmp_path / "work/prepared")


def run(inputs, *terms, url="", seed=3):
    return prepare_losses(terms or [SEMEDA], inputs, CheckpointStore(url), seed=seed, threads=1)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_loss_without_a_step_needs_no_preparation(inputs):
    assert run(inputs, ComponentSpec(name="dice")) == {}
    assert not inputs.prepared_dir.exists()


def test_equal_options_share_a_preparation_also_when_they_are_defaults(inputs):
    terms = [SEMEDA, ComponentSpec(name="semeda", options={**EDGES, "lambda_1": 0.5, "edge_learning_rate": 0.01})]
    other = ComponentSpec(name="semeda", options={**EDGES, "edge_steps": 10})
    scores = run(inputs, *terms, other)
    assert set(scores) == {preparation_name(SEMEDA), preparation_name(other)}
    assert sorted(path.name for path in inputs.prepared_dir.iterdir()) == sorted(scores)
    assert scores[preparation_name(other)]["steps"] == 10


def test_it_is_not_repeated_and_the_same_seed_gives_the_same_bits(inputs, monkeypatch, capsys):
    scores = run(inputs)
    first = content(inputs.prepared_dir / preparation_name(SEMEDA))
    with monkeypatch.context() as changed:
        changed.setattr(prepare, "_run_step", None)
        assert run(inputs) == scores
    assert capsys.readouterr().out.count(f"train: {preparation_name(SEMEDA)}: the edge network has an accuracy of") == 2
    shutil.rmtree(inputs.prepared_dir)
    run(inputs)
    assert content(inputs.prepared_dir / preparation_name(SEMEDA)) == first
    shutil.rmtree(inputs.prepared_dir)
    run(inputs, seed=4)
    assert content(inputs.prepared_dir / preparation_name(SEMEDA)) != first


def test_a_step_that_was_killed_is_repeated_and_leaves_nothing_half(inputs, monkeypatch):
    run(inputs)
    first = content(inputs.prepared_dir / preparation_name(SEMEDA))
    shutil.rmtree(inputs.prepared_dir)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(prepare, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run(inputs)
    assert not (inputs.prepared_dir / preparation_name(SEMEDA)).exists()
    # What reached the bucket before a kill, and came back after the loss of the disk.
    (inputs.prepared_dir / preparation_name(SEMEDA)).mkdir()
    [name] = first.keys() - {"preparation.json"}
    (inputs.prepared_dir / preparation_name(SEMEDA) / name).write_bytes(b"half")
    run(inputs)
    assert content(inputs.prepared_dir / preparation_name(SEMEDA)) == first
    assert [path.name for path in inputs.prepared_dir.iterdir()] == [preparation_name(SEMEDA)]


def test_the_batches_are_those_of_the_seed_and_on_the_gpu_where_there_is_one(inputs, monkeypatch):
    batches = prepare._label_batches(inputs, 5, "preparing")
    given = [batch.numpy() for batch in batches.train(3, 4)]
    labels = np.concatenate([np.load(path) for path in sorted((inputs.dataset_dir / "train").glob("labels-*.npy"))])
    generator = np.random.default_rng(5)
    for batch in given:
        assert np.array_equal(batch, labels[generator.choice(8, 3, replace=False)])
    assert [len(batch) for batch in batches.val(3)] == [3, 3, 2]
    assert len(next(batches.train(100, 1))) == 8
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare._label_batches(inputs, 5, "preparing").device == torch.device("cuda")


def test_it_validates_on_what_the_trials_validate_on(inputs):
    images = np.zeros((5, 32, 32, 3), np.uint8)
    write_split(inputs.dataset_dir / "val_crops", images, images[..., 0])
    batches = prepare._label_batches(replace(inputs, validation="val_crops"), 5, "preparing")
    assert [len(batch) for batch in batches.val(3)] == [3, 2]


def test_another_node_finds_it_in_the_bucket(inputs, tmp_path, bucket):
    url = f"s3://{bucket({})}/run/0123"
    run(inputs, url=url)
    name = preparation_name(SEMEDA)
    assert sorted(Bucket(url).files) == [
        f"prepared/{name}/{file}" for file in sorted(content(inputs.prepared_dir / name))
    ]
    for whole in (True, False):
        CheckpointStore(url).fetch(tmp_path / f"node{whole}", f"prepared/{name}")
        CheckpointStore(url).fetch(tmp_path / f"driver{whole}", whole=whole)
        for node in (f"node{whole}", f"driver{whole}"):
            assert content(tmp_path / node / "prepared" / name) == content(inputs.prepared_dir / name)


@pytest.mark.slow
def test_a_grid_prepares_it_and_logs_its_scores_with_the_run_of_the_grid(tmp_path, tracking_uri, capsys):
    dataset_dir = write_noise(tmp_path)
    out = train(dataset_dir, tracking_uri, losses=["dice", {"semeda": {**EDGES, "weight": 0.5}, "cross_entropy": {}}])
    name = preparation_name(SEMEDA)
    prepared = json.loads((out / "prepared" / name / "preparation.json").read_text())
    [grid] = [run for run_name, run in runs(tracking_uri).items() if run_name.startswith("grid-")]
    for score in ("accuracy", "base_accuracy", "precision", "recall", "f1", "steps"):
        assert grid.data.metrics[f"{name}/{score}"] == pytest.approx(prepared["scores"][score])
    assert (
        f"accuracy of {prepared['scores']['accuracy']:.4f} on the validation split after 20 steps"
        in capsys.readouterr().out
    )
    trial = json.loads((out / "unet-semeda+cross_entropy/trial.json").read_text())
    assert trial["loss.semeda.edge_steps"] == 20


def test_label_maps_of_large_frames_come_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_PIXELS", 2**14)
    split = random_split(tmp_path, [(20, 30), (20, 30), (300, 200)], 4)
    parts = list(prepare._all_batches(split, torch.device("cpu"), 8))
    assert max(part.numel() for part in parts) <= 2**14
    values = torch.cat([part.ravel() for part in parts]).numpy()
    expected = np.concatenate([labels.ravel() for labels in split.labels])
    np.testing.assert_array_equal(np.bincount(values, minlength=256), np.bincount(expected, minlength=256))
