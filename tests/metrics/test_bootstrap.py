"""The paired bootstrap against a plain loop over the same draws, and what it decides where the truth is known."""

import math
from collections import Counter

import numpy as np
import pytest

from segline.metrics.bootstrap import compare


def counts_with(accuracies, generator, classes=3, pixels=200):
    """Counts of images in which each pixel is right with the image's own probability."""
    counts = np.zeros((len(accuracies), classes, classes), np.int64)
    for image, accuracy in enumerate(accuracies):
        truth = generator.integers(0, classes, pixels)
        wrong = (truth + generator.integers(1, classes, pixels)) % classes
        predicted = np.where(generator.random(pixels) < accuracy, truth, wrong)
        np.add.at(counts[image], (truth, predicted), 1)
    return counts


def plain_miou(counts):
    values = []
    for k in range(len(counts)):
        union = counts[k, :].sum() + counts[:, k].sum() - counts[k, k]
        if union:
            values.append(counts[k, k] / union)
    return sum(values) / len(values)


def quantile(values, share):
    """Linear between the order statistics."""
    place = share * (len(values) - 1)
    low, rest = int(place), place - int(place)
    ordered = sorted(values)
    return ordered[low] + rest * (ordered[min(low + 1, len(values) - 1)] - ordered[low])


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.975])
def test_the_bound_is_that_of_a_loop_over_the_same_draws(confidence):
    generator = np.random.default_rng(1)
    challenger = counts_with([0.7, 0.8, 0.6, 0.9, 0.5], generator)
    champion = counts_with([0.6, 0.8, 0.5, 0.9, 0.6], generator)
    challenger[2, 1] = champion[2, 1] = 0
    actual = compare(challenger, champion, resamples=150, confidence=confidence, seed=11)

    draws = np.random.default_rng(11).multinomial(5, [1 / 5] * 5, size=150)
    gains = []
    for draw in draws:
        chosen = [image for image, times in enumerate(draw) for _ in range(times)]
        gains.append(plain_miou(challenger[chosen].sum(0)) - plain_miou(champion[chosen].sum(0)))
    assert actual.lower_bound == pytest.approx(quantile(gains, 1 - confidence), abs=1e-12)
    assert actual.challenger == pytest.approx(plain_miou(challenger.sum(0)))
    assert actual.champion == pytest.approx(plain_miou(champion.sum(0)))
    assert actual.gain == pytest.approx(actual.challenger - actual.champion)


def test_every_draw_with_replacement_is_as_likely_as_it_should_be():
    """With one pixel in each of two images, half the draws hold both and a quarter one of them twice."""
    challenger, champion = np.zeros((2, 2, 2, 2), np.int64)
    challenger[0, 0, 0] = challenger[1, 1, 1] = 1
    champion[0, 0, 0] = champion[1, 1, 0] = 1
    levels = {
        share: compare(challenger, champion, resamples=4000, confidence=1 - share, seed=0) for share in (0.2, 0.3)
    }
    assert levels[0.2].lower_bound == 0
    assert levels[0.3].lower_bound == pytest.approx(1 - 0.25)
    assert compare(challenger, champion, resamples=4000, confidence=0.2, seed=0).lower_bound == 1


def test_identical_models_are_not_better():
    counts = counts_with(np.full(20, 0.8), np.random.default_rng(0))
    actual = compare(counts, counts, resamples=500, confidence=0.5, seed=0)
    assert (actual.gain, actual.lower_bound, actual.better) == (0, 0, False)


def test_clearly_better_is_better_and_the_reverse_is_not():
    generator = np.random.default_rng(0)
    good, bad = (counts_with(np.full(20, accuracy), generator) for accuracy in (0.9, 0.7))
    assert compare(good, bad, resamples=500, confidence=0.99, seed=0).better
    assert not compare(bad, good, resamples=500, confidence=0.6, seed=0).better


def test_one_lucky_image_is_no_proof():
    generator = np.random.default_rng(0)
    champion = counts_with(np.full(20, 0.7), generator)
    challenger = champion.copy()
    challenger[0] = np.diag(champion[0].sum(1))
    actual = compare(challenger, champion, resamples=500, confidence=0.95, seed=0)
    assert actual.gain > 0
    assert not actual.better


def test_the_pairs_matter():
    """The same gain on every image is sure, though the images differ far more among themselves."""
    generator = np.random.default_rng(0)
    champion = counts_with(np.linspace(0.3, 0.9, 30), generator)
    challenger = champion.copy()
    for image in challenger:
        image[0, 0] += image[0, 1]
        image[0, 1] = 0
    paired, apart = (
        compare(challenger, champion[order], resamples=500, confidence=0.99, seed=0)
        for order in (np.arange(30), generator.permutation(30))
    )
    assert paired.gain == apart.gain
    assert paired.better
    assert not apart.better


def test_equal_models_win_about_as_seldom_as_the_confidence_says():
    generator = np.random.default_rng(4)
    won = Counter()
    for trial in range(200):
        level = generator.uniform(0.6, 0.9, 40)
        first, second = counts_with(level, generator, pixels=60), counts_with(level, generator, pixels=60)
        won[compare(first, second, resamples=200, confidence=0.9, seed=trial).better] += 1
    expected, spread = 200 * 0.1, math.sqrt(200 * 0.1 * 0.9)
    assert expected - 3 * spread < won[True] < expected + 3 * spread


def test_the_seed_decides():
    generator = np.random.default_rng(0)
    first, second = (counts_with(np.full(6, 0.7), generator) for _ in range(2))
    again = {seed: compare(first, second, resamples=100, confidence=0.9, seed=seed) for seed in (1, 2)}
    assert compare(first, second, resamples=100, confidence=0.9, seed=1) == again[1]
    assert again[1].lower_bound != again[2].lower_bound


def test_draws_without_a_label_are_left_out():
    """Three images, one without labels: one draw in 27 holds only that one and has no score."""
    generator = np.random.default_rng(0)
    good, bad = (counts_with(np.full(3, accuracy), generator) for accuracy in (0.95, 0.5))
    good[2] = bad[2] = 0
    assert compare(good, bad, resamples=500, confidence=0.95, seed=0).better


def test_one_image_is_decided_by_its_gain():
    generator = np.random.default_rng(0)
    good, bad = (counts_with([accuracy], generator) for accuracy in (0.9, 0.6))
    actual = compare(good, bad, resamples=100, confidence=0.95, seed=0)
    assert actual.lower_bound == actual.gain > 0
