"""Tiles, against the rules that they keep and a search for the best tile of every pixel."""

from itertools import pairwise

import numpy as np
import pytest

from segline.config.sections import Evaluate
from segline.data.tiles import OVERLAP, STEP, tiles

SHAPES = [(1, 1), (128, 128), (129, 128), (500, 300), (64, 5000), (1000, 1001), (3000, 130)]


@pytest.mark.parametrize("max_pixels", [2**14, 2**16, 200_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_kept_makes_up_the_image_once_and_no_tile_is_too_large(shape, max_pixels):
    times = np.zeros(shape, int)
    for tile in tiles(shape, max_pixels):
        times[tile.kept] += 1
        numbers = np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(numbers[tile.seen][tile.inner], numbers[tile.kept])
        assert numbers[tile.seen].size <= max_pixels
        assert tile.seen[0].start % STEP == tile.seen[1].start % STEP == 0
    assert (times == 1).all()


@pytest.mark.parametrize("shape", [(500, 300), (64, 5000), (3000, 130)])
def test_each_pixel_is_taken_from_the_tile_in_which_it_is_farthest_from_a_cut(shape):
    parts = list(tiles(shape, 2**14))
    best, taken = np.zeros(shape, int), np.zeros(shape, int)
    for tile in parts:
        rows, columns = (
            np.minimum(
                np.full(size, 10**6) if seen.start == 0 else np.arange(size) - seen.start,
                np.full(size, 10**6) if seen.stop == size else seen.stop - 1 - np.arange(size),
            )
            for seen, size in zip(tile.seen, shape, strict=True)
        )
        distance = np.minimum.outer(rows, columns)
        best = np.maximum(best, distance)
        taken[tile.kept] = distance[tile.kept]
    assert taken.min() >= 31
    assert (best - taken).max() <= 1


def test_small_images_are_one_tile_and_large_ones_overlap_by_256_px():
    limit = Evaluate().max_pixels
    assert len(list(tiles((1080, 1850), limit))) == 1
    rows = sorted({(tile.seen[0].start, tile.seen[0].stop) for tile in tiles((8000, 10000), limit)})
    assert {stop - start for start, stop in rows[:-1]} == {1408}
    assert {one[1] - other[0] for one, other in pairwise(rows)} == {OVERLAP}
    assert rows[-1][1] == 8000
