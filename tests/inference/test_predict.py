"""Averaged probabilities, and the counts of a split, against the single models and a plain loop."""

import numpy as np
import pytest
import torch
from shard_files import write_split

from segline.classes import IGNORED
from segline.data.augment import MEAN, STD
from segline.data.shards import Crops
from segline.inference.predict import count_split, predict_split, probabilities
from segline.models.unet import UNet

CLASSES = 4


@pytest.fixture
def models():
    torch.manual_seed(0)
    return [UNet(CLASSES, width=width, depth=1).eval() for width in (1, 2, 3)]


@pytest.fixture
def split(tmp_path):
    """Seven crops in shards of three."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (7, 10, 12, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, (7, 10, 12), dtype=np.uint8)
    labels[generator.random(labels.shape) < 0.1] = IGNORED
    write_split(tmp_path, images, labels, size=3, keys=list("abcdefg"))
    return Crops(tmp_path)


def one_by_one(model, images):
    """Probabilities from the definition of the input and of the softmax, image by image."""
    actual = []
    for image in images:
        pixels = (image / 255 - np.array(MEAN)) / np.array(STD)
        with torch.inference_mode():
            logits = model(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32))[0].double().numpy()
        powers = np.exp(logits - logits.max(0))
        actual.append(powers / powers.sum(0))
    return np.stack(actual)


def test_probabilities_are_the_mean_of_the_single_ones(models, split):
    images, _ = split.take(range(7))
    actual = probabilities(models, images)
    assert not actual.requires_grad
    expected = sum(one_by_one(model, images) for model in models) / 3
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(actual.sum(1).numpy(), 1, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_a_split_is_predicted_in_order_whatever_the_batch(models, split, batch_size):
    images, labels = split.take(range(7))
    actual_labels, actual = zip(*predict_split(models, split, batch_size), strict=True)
    assert np.array_equal(np.concatenate(actual_labels), labels)
    expected = probabilities(models, images)
    torch.testing.assert_close(torch.cat(actual), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 16])
def test_counts_are_those_of_each_crop(models, split, batch_size):
    images, labels = split.take(range(7))
    chosen = (sum(one_by_one(model, images) for model in models)).argmax(1)
    expected = np.zeros((7, CLASSES, CLASSES), int)
    for crop, y, x in np.ndindex(*labels.shape):
        if labels[crop, y, x] != IGNORED:
            expected[crop, labels[crop, y, x], chosen[crop, y, x]] += 1
    steps = []
    counts = count_split(models, split, classes=CLASSES, batch_size=batch_size, progress=steps.append)
    assert np.array_equal(counts, expected)
    assert sum(steps) == 7
