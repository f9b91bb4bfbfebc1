"""Averaged probabilities, and the counts of a split, against the single models and a plain loop."""

import numpy as np
import pytest
import torch
from mixed_split import random_split
from shard_files import write_split
from torch import nn

from segline.classes import IGNORED
from segline.data.augment import MEAN, STD
from segline.data.shards import Crops
from segline.inference.predict import count_split, predict_labels, probabilities
from segline.metrics.confusion import confusion_matrix
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


def test_the_label_maps_have_the_most_probable_class_and_its_probability(models, split):
    images, _ = split.take(range(7))
    expected = sum(one_by_one(model, images) for model in models) / 3
    labels, confidence = predict_labels(models, images)
    assert np.array_equal(labels, expected.argmax(1))
    np.testing.assert_allclose(confidence, expected.max(1), rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_counts_of_items_of_several_shapes_are_those_of_each_alone(models, tmp_path, batch_size):
    mixed = random_split(tmp_path, [(10, 12), (10, 12), (12, 10), (7, 30), (10, 12), (33, 18), (33, 18)], CLASSES)
    expected = []
    for image, labels in zip(mixed.images, mixed.labels, strict=True):
        chosen = sum(one_by_one(model, image[None]) for model in models).argmax(1)[0]
        valid = labels != IGNORED
        cells = np.bincount(labels[valid] * CLASSES + chosen[valid].astype(int), minlength=CLASSES**2)
        expected.append(cells.reshape(CLASSES, CLASSES))
    steps = []
    counts = count_split(models, mixed, classes=CLASSES, batch_size=batch_size, progress=steps.append)
    assert np.array_equal(counts, expected)
    assert sum(steps) == 7


LIMIT = 128 * 128
"""Tiles of 128 px, 64 of which two neighbours share."""


@pytest.mark.parametrize("shape", [(300, 250), (129, 128), (40, 900), (321, 64)])
def test_tiles_give_what_the_whole_image_gives_to_a_network_that_looks_no_further(tmp_path, shape):
    """Its pixels depend on others up to 30 px away: 2 + 4 + 8 + 16, in steps of 8 px."""
    torch.manual_seed(0)
    model = UNet(CLASSES, width=2, depth=3).eval()
    split = random_split(tmp_path, [shape], CLASSES)
    images, truth = split.take([0])
    whole = probabilities([model], images)
    labels, confidence = predict_labels([model], images, max_pixels=LIMIT)
    np.testing.assert_allclose(confidence, whole.max(1).values, rtol=1e-4)
    assert np.mean(labels != whole.argmax(1).numpy()) < 1e-3
    counts = count_split([model], split, classes=CLASSES, batch_size=1, max_pixels=LIMIT)
    assert np.array_equal(counts, confusion_matrix(truth, labels, CLASSES))


def test_no_forward_pass_has_more_pixels_than_allowed(tmp_path):
    class Watching(nn.Conv2d):
        def forward(self, images):
            seen.append(images.shape[0] * images.shape[2] * images.shape[3])
            return super().forward(images)

    seen = []
    split = random_split(tmp_path, [(64, 64)] * 9 + [(500, 700), (2000, 9)], CLASSES)
    count_split([Watching(3, CLASSES, 1)], split, classes=CLASSES, batch_size=16, max_pixels=LIMIT)
    assert max(seen) == LIMIT
    assert seen[:3] == [4 * 64 * 64, 4 * 64 * 64, 64 * 64]


def test_many_images_at_once_are_predicted_within_the_limit(models, split):
    images, sizes = split.take(range(4))[0], []
    for model in models:
        model.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0] * inputs[0][0, 0].numel()))
    pixels = images.shape[1] * images.shape[2]
    labels, confidence = predict_labels(models, images, max_pixels=3 * pixels)
    assert sorted(set(sizes)) == [pixels, 3 * pixels]
    for number in range(4):
        alone = predict_labels(models, images[number : number + 1])
        np.testing.assert_array_equal(labels[number], alone[0][0])
        np.testing.assert_allclose(confidence[number], alone[1][0], rtol=1e-5)
