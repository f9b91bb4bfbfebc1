"""The order of an epoch: factors by the formula of the paper, and repeats by counting many epochs."""

import math

import numpy as np
import pytest
from shard_files import write_split

from segline.data.shards import Crops
from segline.training.order import EpochOrder, repeat_factors

CLASSES_OF = [{0}, {0, 1}, {0, 1, 2}, {0}, set(), {0, 3}, {0, 1}, {0}, {0, 1}, {1}]
"""The classes of ten crops; 2 and 3 are rare, and one crop is ignored as a whole."""


def expected_factors(threshold):
    """max over the classes c of a crop of max(1, sqrt(t / f(c))), written as the paper says it."""
    share = {c: sum(c in classes for classes in CLASSES_OF) / len(CLASSES_OF) for c in range(4)}
    return [max([1.0] + [math.sqrt(threshold / share[c]) for c in classes]) for classes in CLASSES_OF]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    labels = np.full((10, 4, 4), 255, np.uint8)
    for label, classes in zip(labels, CLASSES_OF, strict=True):
        for each in classes:
            label[each] = each
    write_split(folder, np.zeros((10, 4, 4, 3), np.uint8), labels, size=4)
    return Crops(folder)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 1.0])
def test_the_factors_are_those_of_the_paper(split, threshold):
    found = repeat_factors(split.class_presence(), threshold)
    np.testing.assert_allclose(found, expected_factors(threshold), rtol=1e-12)


def test_without_a_threshold_an_epoch_is_a_permutation_of_seed_and_number(split):
    order = EpochOrder(split, 0.0, 7)
    assert len(order) == 10
    for number in (1, 2):
        assert order.epoch(number).tolist() == np.random.default_rng([7, number]).permutation(10).tolist()


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 1.0])
def test_crops_are_repeated_as_often_as_their_factors_say(split, threshold):
    order, factors, epochs = EpochOrder(split, threshold, 3), np.array(expected_factors(threshold)), 4000
    counts = np.zeros(10)
    for number in range(1, epochs + 1):
        chosen = np.bincount(order.epoch(number), minlength=10)
        assert chosen.sum() == len(order) == math.floor(factors.sum() + 1e-9)
        # One crop is left out where chance would give the epoch one more than the others have.
        assert (chosen <= np.ceil(factors)).all()
        assert np.maximum(np.floor(factors) - chosen, 0).sum() <= 1
        counts += chosen
    # Leaving out the surplus takes at most one crop of all from the mean.
    assert np.abs(counts / epochs - factors).max() < 0.15
    assert abs((counts / epochs - factors).sum()) < 1


def test_whole_factors_are_kept_in_every_epoch(tmp_path):
    """One crop of nine has the second class, and sqrt(1 / (1 / 9)) = 3."""
    labels = np.zeros((9, 2, 2), np.uint8)
    labels[4, 0, 0] = 1
    write_split(tmp_path, np.zeros((9, 2, 2, 3), np.uint8), labels)
    order = EpochOrder(Crops(tmp_path), 1.0, 0)
    for number in range(1, 20):
        assert np.bincount(order.epoch(number)).tolist() == [1, 1, 1, 1, 3, 1, 1, 1, 1]


def test_repeats_are_spread_over_the_epoch_and_follow_seed_and_number_alone(split):
    order, again, other = (EpochOrder(split, 1.0, seed) for seed in (1, 1, 2))
    assert order.epoch(5).tolist() == again.epoch(5).tolist()
    assert len({str(each.tolist()) for each in (order.epoch(5), order.epoch(6), other.epoch(5))}) == 3
    beside = [np.diff(order.epoch(number)) == 0 for number in range(1, 200)]
    assert np.mean(beside) < 0.2
