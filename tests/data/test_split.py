"""The batches of a split whose items have several shapes, against the rules that they keep."""

from itertools import pairwise

import numpy as np
import pytest
from mixed_split import MixedSplit, random_split

from segline.config.sections import Evaluate
from segline.data.split import MAX_PIXELS

SMALL, WIDE, LARGE = (30, 20), (20, 30), (900, 800)


@pytest.fixture
def split(tmp_path):
    """The large items take no memory, as all their rows are one."""
    shapes = [SMALL, SMALL, SMALL, WIDE, SMALL, *[LARGE] * 5, WIDE, WIDE]
    labels = [np.broadcast_to(np.uint8(0), shape) for shape in shapes]
    return MixedSplit(tmp_path, [np.broadcast_to(np.uint8(0), (*shape, 3)) for shape in shapes], labels)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_batches_are_the_longest_of_one_shape_that_are_small_enough(split, size):
    ranges = list(split.ranges(size))
    assert [position for positions in ranges for position in positions] == list(range(len(split)))
    shapes = [{split.labels[position].shape for position in positions} for positions in ranges]
    assert all(len(of_one) == 1 for of_one in shapes)
    heights = [(len(positions), *of_one.copy().pop()) for positions, of_one in zip(ranges, shapes, strict=True)]
    assert all(count == 1 or count * height * width <= MAX_PIXELS for count, height, width in heights)
    for (count, height, width), following in pairwise(heights):
        assert count == size or (height, width) != following[1:] or (count + 1) * height * width > MAX_PIXELS


def test_an_item_with_more_pixels_than_a_batch_is_one(tmp_path):
    labels = [np.broadcast_to(np.uint8(0), (5000, 4000))] * 2
    assert list(MixedSplit(tmp_path, labels, labels).ranges(16)) == [range(1), range(1, 2)]


def test_the_limit_is_an_argument_and_that_of_evaluate_without_one(split):
    assert [len(positions) for positions in split.ranges(16, 30 * 20)] == [1] * len(split)
    assert list(split.ranges(16)) == list(split.ranges(16, Evaluate().max_pixels))
    assert split.pixels([0, 3, 5]) == 2 * 600 + 900 * 800


def test_batches_and_keys_are_those_of_the_ranges(tmp_path):
    split = random_split(tmp_path, [SMALL, WIDE, WIDE, SMALL], 3)
    batches = list(split.batches(16))
    assert [labels.shape for _, labels in batches] == [(1, *SMALL), (2, *WIDE), (1, *SMALL)]
    np.testing.assert_array_equal(batches[1][0][1], split.images[2])
    assert split.keys([2, 0]) == ["frame2", "frame0"]
