"""Which pixels are drawn for the kept features: their frequencies against the probabilities by definition."""

import numpy as np
import pytest
import torch

from segline.models.feature_cache import sample_pixels


def draw(labels, count, weights, seed=0):
    table = torch.ones(256, dtype=torch.float64)
    for label, weight in weights.items():
        table[label] = weight
    return sample_pixels(torch.tensor(labels, dtype=torch.uint8), count, table, torch.Generator().manual_seed(seed))


def test_each_pixel_is_taken_once_and_all_are_as_likely():
    taken = np.bincount(torch.cat([draw([0] * 20, 5, {}, seed) for seed in range(2000)]).numpy(), minlength=20)
    assert all(len(set(draw([0] * 20, 5, {}, seed).tolist())) == 5 for seed in range(50))
    assert np.abs(taken - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_the_first_pixel_is_drawn_in_proportion_to_its_weight():
    labels = [0] * 8 + [1] * 2
    rare = np.mean([labels[int(draw(labels, 1, {1: 6.0}, seed)[0])] for seed in range(3000)])
    assert rare == pytest.approx(12 / 20, abs=5 * np.sqrt(0.24 / 3000))


def test_ignored_pixels_come_last_and_few_pixels_are_repeated():
    labels = [255, 3, 255, 3, 255, 3]
    assert set(draw(labels, 3, {255: 1e-12}).tolist()) == {1, 3, 5}
    assert sorted(draw(labels, 12, {255: 1e-12}).tolist()) == sorted(2 * list(range(6)))
