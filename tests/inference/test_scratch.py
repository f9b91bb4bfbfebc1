"""The candidates' probabilities in a bounded space: the same bits as from the models themselves, in every pass."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from mixed_split import random_split
from safetensors.torch import load_file, save_file
from shard_files import write_split

from segline.artifacts.bundle import FILE, Bundle, Member
from segline.classes import LabelClass
from segline.config.sections import Ensemble, Evaluate
from segline.data.shards import Crops
from segline.errors import StageError
from segline.files.atomic import write_json
from segline.inference import scratch as scratch_module
from segline.inference.bundle import load_models
from segline.inference.predict import predict_tiles, probabilities
from segline.inference.scratch import Predictions
from segline.metrics.confusion import confusion_matrix, mean_iou
from segline.models.unet import UNet
from segline.stages.ensemble import select

CLASSES, CROPS, SIDE, BATCH = 3, 11, 16, 2
CROP_BYTES = CLASSES * SIDE * SIDE * 2
"""Of one candidate's probabilities."""


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (CROPS, SIDE, SIDE, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, (CROPS, SIDE, SIDE), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("val")
    write_split(folder, images, labels, size=4)
    return Crops(folder)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {f"unet.{number}": UNet(CLASSES, width=1 + number % 2, depth=1).eval() for number in range(4)}


@pytest.fixture(scope="module")
def candidates(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    classes = tuple(LabelClass(name, (number, 0, 0)) for number, name in enumerate("abc"))
    for number, (name, model) in enumerate(models.items()):
        (folder / name).mkdir()
        save_file(model.state_dict(), folder / name / "weights.safetensors")
        member = Member(name, "unet", {"width": 1 + number % 2, "depth": 1}, "weights.safetensors")
        write_json(folder / name / FILE, asdict(Bundle(classes, 0, (member,))))
    return [folder / name for name in models]


@pytest.fixture(scope="module")
def expected(models, split):
    """All probabilities of every candidate, in the numbers that the scratch has."""
    return {
        name: np.concatenate([probabilities([model], images) for images, _ in split.batches(BATCH)]).astype(np.float16)
        for name, model in models.items()
    }


def choose(candidates, split, scratch, crops, **settings):
    """Predictions with space for so many crops."""
    scratch.mkdir(exist_ok=True)
    size = int(crops * CROP_BYTES * len(candidates))
    predictions = Predictions(candidates, split, Evaluate(batch_size=BATCH), scratch=scratch, max_bytes=size)
    return predictions, select(predictions, Ensemble(max_members=3, min_gain=0.0, **settings))


@pytest.mark.parametrize(
    ("space", "kept", "windows"), [(99, 11, 0), (11, 11, 0), (10.9, 8, 2), (5, 2, 5), (2, 0, 6), (0.1, 0, 6)]
)
def test_each_pass_has_all_crops_in_order_with_the_same_bits(
    candidates, split, expected, tmp_path, monkeypatch, space, kept, windows
):
    size = int(space * CROP_BYTES * len(candidates))
    predictions = Predictions(candidates, split, Evaluate(batch_size=BATCH), scratch=tmp_path, max_bytes=size)
    loaded = count_loads(monkeypatch)
    for number in range(3):
        seen = []
        for positions, planes in predictions.batches():
            seen.append(positions)
            for name, values in expected.items():
                np.testing.assert_array_equal(planes[name], values[positions.start : positions.stop])
        assert seen == list(split.ranges(BATCH))
        assert len(loaded) == len(candidates) * ((kept > 0) + (number + 1) * windows)
    assert sum(map(len, seen[: predictions.kept])) == kept
    used = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert used <= max(size, BATCH * CROP_BYTES * len(candidates))


def count_loads(monkeypatch):
    """A list that grows whenever a candidate's models are loaded."""
    loaded = []
    monkeypatch.setattr(scratch_module, "load_models", lambda *given: loaded.append(given) or load_models(*given))
    return loaded


SHAPES = [(16, 16)] * 3 + [(16, 24)] * 2 + [(40, 10), (300, 150), (16, 24), (16, 16)]
"""The large one is predicted by tiles."""
LIMITS = Evaluate(batch_size=2, max_pixels=2**14)


@pytest.mark.parametrize("space", [9, 0.7, 0.2, 0.001])
def test_frames_of_several_shapes_have_the_same_bits_in_any_space(candidates, models, tmp_path, space):
    mixed = random_split(tmp_path, SHAPES, CLASSES)
    size = int(space * CLASSES * 2 * mixed.pixels(range(len(mixed))) * len(candidates))
    place = tmp_path / "scratch"
    place.mkdir()
    predictions = Predictions(candidates, mixed, LIMITS, scratch=place, max_bytes=size)
    for _ in range(2):
        seen = []
        for positions, planes in predictions.batches():
            seen += positions
            images, _ = mixed.take(positions)
            for name, model in models.items():
                parts = predict_tiles([model], images, max_pixels=LIMITS.max_pixels)
                for region, values in parts:
                    np.testing.assert_array_equal(planes[name][..., *region], values.numpy().astype(np.float16))
        assert seen == list(range(len(SHAPES)))
    used = sum(path.stat().st_size for path in place.iterdir())
    assert used <= max(size, CLASSES * 2 * 300 * 150 * len(candidates))


def test_the_choice_among_frames_of_several_shapes_is_that_of_whole_arrays(candidates, models, tmp_path):
    mixed = random_split(tmp_path, SHAPES, CLASSES)
    chosen = []
    for space in (10**9, 1):
        place = tmp_path / f"scratch{space}"
        place.mkdir()
        predictions = Predictions(candidates, mixed, LIMITS, scratch=place, max_bytes=space)
        chosen.append(select(predictions, Ensemble(max_members=3, min_gain=0.0)))
    maps = {
        name: [predict_planes(model, mixed, number) for number in range(len(SHAPES))] for name, model in models.items()
    }
    flat = {name: np.concatenate([plane.reshape(CLASSES, -1) for plane in planes], 1) for name, planes in maps.items()}
    labels = np.concatenate([labels.ravel() for labels in mixed.labels])
    members, reached = greedy(flat, labels, 0.0)
    assert chosen[0] == chosen[1]
    assert chosen[0][0] == members
    assert chosen[0][1] == pytest.approx(reached, abs=1e-3)


def predict_planes(model, mixed, number):
    """The probabilities (k, h, w) of one item, in the numbers that the scratch has."""
    planes = np.empty((CLASSES, *SHAPES[number]), np.float16)
    for region, values in predict_tiles([model], mixed.take([number])[0], max_pixels=LIMITS.max_pixels):
        planes[:, *region] = values[0]
    return planes


def greedy(expected, labels, min_gain):
    """Greedy selection from its definition, on all probabilities (..., k, pixels) and labels at once."""
    members, reached = [], []
    while len(members) < 3:
        scores = {}
        for name in [name for name in expected if name not in members]:
            mean = sum(expected[member].astype(np.float32) for member in [*members, name])
            ids = mean.argmax(-2).ravel()
            scores[name] = float(
                mean_iou(confusion_matrix(labels.reshape(1, 1, -1), ids.reshape(1, 1, -1), CLASSES)[0])
            )
        best = max(scores, key=scores.get)
        if reached and scores[best] < reached[-1] + min_gain:
            break
        members.append(best)
        reached.append(scores[best])
    return members, reached


@pytest.mark.parametrize("space", [99, 7, 1])
def test_the_choice_is_the_same_in_any_space(candidates, split, expected, tmp_path, space):
    _, chosen = choose(candidates, split, tmp_path / "scratch", space)
    _, labels = split.take(range(CROPS))
    flat = {name: values.reshape(CROPS, CLASSES, -1) for name, values in expected.items()}
    assert chosen == greedy(flat, labels, 0.0)


def test_a_disk_without_space_is_told_before_anything_is_predicted(candidates, split, tmp_path, monkeypatch):
    def full(stream, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        choose(candidates, split, tmp_path / "scratch", 99)
    assert caught.value.filename == str(tmp_path / "scratch" / "unet.0.kept")


def test_a_candidate_whose_logits_are_not_finite_is_named(split, candidates, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(candidates[0], broken)
    state = load_file(broken / "weights.safetensors")
    state["head.bias"][1] = -torch.inf
    save_file(state, broken / "weights.safetensors")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    predictions = Predictions(
        [*candidates[:2], broken], split, Evaluate(batch_size=BATCH), scratch=scratch, max_bytes=100 * CROP_BYTES
    )
    with pytest.raises(
        StageError, match=r"broken: the predictions for the image crop0 are not finite; run `segline tr"
    ):
        list(predictions.batches())
