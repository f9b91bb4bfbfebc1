"""The edge network learns what the loops of the definition say."""

import json

import numpy as np
import pytest
import torch
from shard_files import write_split

from segline.classes import IGNORED, LabelClass
from segline.config.params import Edges, load
from segline.data.edges import NETWORK, edge_map
from segline.data.shards import DatasetInfo, Split
from segline.errors import StageError
from segline.files.atomic import write_json
from segline.losses.edge_network import read
from segline.losses.masking import one_hot
from segline.stages import edges, train
from segline.training.edges import train_edges

CLASSES = 4
SETTINGS = Edges(steps=400, batch_size=4)


def blobs(images, seed):
    """Label maps of rectangles over one another, with a few ignored pixels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((images, 48, 48), np.uint8)
    for label in labels:
        for _ in range(8):
            top, left, height, width = rng.integers(0, 40, 2).tolist() + rng.integers(3, 25, 2).tolist()
            label[top : top + height, left : left + width] = rng.integers(0, CLASSES)
        label[rng.random(label.shape) < 0.01] = IGNORED
    return labels


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for number, (split, images) in enumerate({"train": 24, "val": 8, "test": 2}.items()):
        labels = blobs(images, number)
        write_split(folder / split, np.zeros((*labels.shape, 3), np.uint8), labels, size=5)
    classes = tuple(LabelClass(f"class{number}", (number, 0, 0)) for number in range(CLASSES))
    write_json(folder / "dataset.json", DatasetInfo(classes, 0, 48, "c", "here", "s", "", {}, False).to_dict())
    return folder


@pytest.fixture(scope="module")
def candidates_dir(dataset_dir, tmp_path_factory):
    file = tmp_path_factory.mktemp("edges") / "weights.safetensors"
    told = []
    found = train_edges(
        Split(dataset_dir / "train"),
        Split(dataset_dir / "val"),
        CLASSES,
        SETTINGS,
        seed=3,
        file=file,
        progress=told.append,
    )
    return file, found, told


def test_it_is_trained_on_the_gpu_where_there_is_one(dataset_dir, tmp_path, monkeypatch):
    """On a machine without one no more than the wish is seen."""

    def place(_, device):
        raise InterruptedError(str(device))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", place)
    splits = (Split(dataset_dir / name) for name in ("train", "val"))
    with pytest.raises(InterruptedError, match=r"^cuda$"):
        train_edges(*splits, CLASSES, SETTINGS, seed=3, file=tmp_path / "weights", progress=lambda steps: None)


def test_it_is_right_about_more_than_99_percent_as_the_paper_asks(dataset_dir, candidates_dir):
    file, found, told = candidates_dir
    labels = Split(dataset_dir / "val").take(range(8))[1]
    with torch.inference_mode():
        target = torch.from_numpy(labels)
        predicted = read(file, CLASSES)(one_hot(target, CLASSES).float()).argmax(1).numpy().astype(bool)
    truth, known = edge_map(labels), labels != IGNORED
    assert found["accuracy"] == pytest.approx((predicted == truth)[known].mean())
    assert found["base_accuracy"] == pytest.approx(1 - truth[known].mean())
    hits = (predicted & truth & known).sum()
    precision, recall = hits / (predicted & known).sum(), hits / (truth & known).sum()
    assert found["precision"] == pytest.approx(precision)
    assert found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["accuracy"] > 0.99 > found["base_accuracy"]
    assert len(told) == found["steps"] <= SETTINGS.steps


def test_the_same_seed_gives_the_same_bits(dataset_dir, candidates_dir, tmp_path):
    settings = Edges(steps=50, batch_size=4)
    for name in ("a", "b"):
        train_edges(
            Split(dataset_dir / "train"),
            Split(dataset_dir / "val"),
            CLASSES,
            settings,
            seed=3,
            file=tmp_path / name,
            progress=lambda steps: None,
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def params(*losses):
    return load(json.dumps({"train": {"losses": list(losses)}, "edges": {"steps": 50, "min_accuracy": 0.9}}))


def test_the_stage_trains_it_when_a_loss_asks_for_it(dataset_dir, tmp_path, capsys):
    edges.run(
        params("dice", {"semeda": {"weight": 0.5}, "cross_entropy": {}}), dataset_dir=dataset_dir, out=tmp_path / "out"
    )
    told = json.loads((tmp_path / "out/edges.json").read_text())
    assert told["trained"] is True
    assert told["steps"] == 50
    assert f"accuracy {told['accuracy']:.4f} on 8 held-out label maps after 50 steps" in capsys.readouterr().out
    assert read(tmp_path / "out" / NETWORK, CLASSES)


def test_the_stage_says_that_no_loss_asks_for_it(dataset_dir, tmp_path, capsys):
    edges.run(params("dice"), dataset_dir=dataset_dir, out=tmp_path / "out")
    assert json.loads((tmp_path / "out/edges.json").read_text()) == {"trained": False}
    assert json.loads((tmp_path / "out/network/network.json").read_text()) == {"trained": False}
    assert not (tmp_path / "out" / NETWORK).exists()
    assert "no loss of train.losses is semeda" in capsys.readouterr().out


def test_below_the_wanted_accuracy_it_warns(dataset_dir, tmp_path, capsys):
    wanted = json.dumps({"train": {"losses": ["semeda"]}, "edges": {"steps": 1, "min_accuracy": 1.0}})
    edges.run(load(wanted), dataset_dir=dataset_dir, out=tmp_path / "out")
    assert "warning: below edges.min_accuracy, 1; raise edges.steps" in capsys.readouterr().out


def test_train_stops_before_any_work_without_the_network(dataset_dir, tmp_path):
    with pytest.raises(StageError, match=r"weights.safetensors is not there, .* run `segline edges`"):
        train.run(
            params("semeda"), dataset_dir=dataset_dir, edged_dir=tmp_path, tracking_uri="none", out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
