"""Crops are compared with counting every window pixel by pixel."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.crops import cut, max_foreground_corner


def fullest_window(foreground, side):
    """The window with the most foreground, then nearest to the centre, by looking at each in reading order."""
    height, width = foreground.shape
    best, corner = (-1, 0.0), None
    for top in range(max(height - side, 0) + 1):
        for left in range(max(width - side, 0) + 1):
            count = int(np.count_nonzero(foreground[top : top + side, left : left + side]))
            middle = (top + min(side, height) / 2, left + min(side, width) / 2)
            far = (middle[0] - height / 2) ** 2 + (middle[1] - width / 2) ** 2
            if (count, -far) > best:
                best, corner = (count, -far), (top, left)
    return corner


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 7), (12, 9), (8, 15)])
@pytest.mark.parametrize("side", [1, 2, 5, 7, 9, 20])
def test_the_corner_is_that_of_the_fullest_window(shape, side, density):
    rng = np.random.default_rng([*shape, side])
    for _ in range(5):
        foreground = rng.random(shape) < density
        assert max_foreground_corner(foreground, side) == fullest_window(foreground, side)


@pytest.mark.parametrize(
    ("marked", "side", "corner"),
    [
        ([], 2, (2, 2)),
        ([], 3, (1, 1)),
        ([(5, 5)], 2, (4, 4)),
        ([(0, 4), (4, 0)], 2, (0, 3)),
        ([(2, 1), (2, 4)], 2, (2, 1)),
        ([(2, 1), (2, 4), (2, 5)], 2, (2, 4)),
    ],
)
def test_of_equally_full_windows_the_one_nearest_to_the_centre_wins(marked, side, corner):
    foreground = np.zeros((6, 6), bool)
    for place in marked:
        foreground[place] = True
    assert max_foreground_corner(foreground, side) == corner


def test_a_large_image_is_counted_without_overflow():
    foreground = np.zeros((300, 400), bool)
    foreground[40:296, 100:356] = True
    assert max_foreground_corner(foreground, 256) == (40, 100)


@pytest.mark.parametrize(("corner", "side"), [((0, 0), 4), ((2, 3), 4), ((1, 0), 1), ((0, 0), 9), ((0, 2), 6)])
def test_a_cut_is_the_square_with_black_ignored_pixels_outside(corner, side):
    rng = np.random.default_rng(0)
    image, label = rng.integers(1, 255, (6, 8, 3), np.uint8), rng.integers(0, 9, (6, 8), np.uint8)
    cut_image, cut_label = cut(image, label, corner, side)
    assert cut_image.shape == (side, side, 3)
    assert cut_label.shape == (side, side)
    assert cut_image.dtype == cut_label.dtype == np.uint8
    for row in range(side):
        for column in range(side):
            y, x = corner[0] + row, corner[1] + column
            inside = y < 6 and x < 8
            assert cut_label[row, column] == (label[y, x] if inside else IGNORED)
            assert cut_image[row, column].tolist() == (image[y, x].tolist() if inside else [0, 0, 0])
