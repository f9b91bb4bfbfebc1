"""The candidates' probabilities in a bounded space: the same bits as from the models themselves, in every pass."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shard_files import write_split

from segline.artifacts.bundle import FILE, Bundle, Member
from segline.classes import LabelClass
from segline.config.sections import Ensemble
from segline.data.shards import Crops
from segline.errors import StageError
from segline.files.atomic import write_json
from segline.inference.predict import predict_split
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
        name: torch.cat([planes for _, planes in predict_split([model], split, BATCH)]).numpy().astype(np.float16)
        for name, model in models.items()
    }


def choose(candidates, split, scratch, crops, **settings):
    """Predictions with space for so many crops."""
    scratch.mkdir(exist_ok=True)
    size = int(crops * CROP_BYTES * len(candidates))
    predictions = Predictions(candidates, split, batch_size=BATCH, scratch=scratch, max_bytes=size)
    return predictions, select(predictions, Ensemble(max_members=3, min_gain=0.0, **settings))


@pytest.mark.parametrize(
    ("space", "kept", "windows"), [(99, 11, 1), (11, 11, 1), (10.9, 8, 3), (5, 2, 6), (2, 0, 6), (0.1, 0, 6)]
)
def test_each_pass_has_all_crops_in_order_with_the_same_bits(
    candidates, split, expected, tmp_path, space, kept, windows
):
    size = int(space * CROP_BYTES * len(candidates))
    predictions = Predictions(candidates, split, batch_size=BATCH, scratch=tmp_path, max_bytes=size)
    assert predictions.kept == kept
    for _ in range(3):
        seen = []
        for positions, planes in predictions.windows():
            seen.append(positions)
            for name, values in expected.items():
                np.testing.assert_array_equal(planes[name], values[positions.start : positions.stop])
        assert [position for window in seen for position in window] == list(range(CROPS))
        assert len(seen) == windows
    used = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert used <= max(size, BATCH * CROP_BYTES * len(candidates))


def greedy(expected, split, min_gain):
    """Greedy selection from its definition, on all probabilities at once."""
    _, labels = split.take(range(CROPS))
    members, reached = [], []
    while len(members) < 3:
        scores = {}
        for name in [name for name in expected if name not in members]:
            mean = sum(expected[member].astype(np.float32) for member in [*members, name])
            scores[name] = float(mean_iou(confusion_matrix(labels, mean.argmax(1), CLASSES).sum(0)))
        best = max(scores, key=scores.get)
        if reached and scores[best] < reached[-1] + min_gain:
            break
        members.append(best)
        reached.append(scores[best])
    return members, reached


@pytest.mark.parametrize("space", [99, 7, 1])
def test_the_choice_is_the_same_in_any_space(candidates, split, expected, tmp_path, space):
    _, chosen = choose(candidates, split, tmp_path / "scratch", space)
    assert chosen == greedy(expected, split, 0.0)


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
        [*candidates[:2], broken], split, batch_size=BATCH, scratch=scratch, max_bytes=100 * CROP_BYTES
    )
    with pytest.raises(
        StageError, match=r"broken: the predictions for the image crop0 are not finite; run `segline tr"
    ):
        list(predictions.windows())
