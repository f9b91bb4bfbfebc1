"""Crops are compared with a count of every window, pixel by pixel."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.crops import (
    Foreground,
    cut,
    max_foreground_corner,
    random_corners,
    resize_pair,
    several_corners,
    tiles,
)


def fullest_window(foreground, side):
    """The window with the most foreground, then nearest to the center, by counting each in row order."""
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
def test_of_equally_full_windows_the_one_nearest_to_the_center_wins(marked, side, corner):
    foreground = np.zeros((6, 6), bool)
    for place in marked:
        foreground[place] = True
    assert max_foreground_corner(foreground, side) == corner


def fullest_of_all(foreground, side):
    """The same for large images, by a summed-area table of the whole image."""
    rows, columns = (min(side, length) for length in foreground.shape)
    sums = np.pad(foreground.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    counts = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    fullest = np.argwhere(counts == counts.max())
    height, width = foreground.shape
    from_center = np.square(2 * fullest - (height - rows, width - columns)).sum(1)
    return tuple(fullest[from_center.argmin()])


def blobs(rng, shape, count):
    """Rectangles, many of them of equal size."""
    foreground = np.zeros(shape, bool)
    for _ in range(count):
        (top, left), (height, width) = rng.integers(shape), rng.choice([3, 20, 60, 200], 2)
        foreground[top : top + height, left : left + width] = True
    return foreground


@pytest.mark.parametrize("shape", [(100, 140), (161, 97), (190, 420)])
@pytest.mark.parametrize("side", [8, 17, 33, 96, 128, 131, 200])
def test_the_corner_in_large_images(shape, side):
    rng = np.random.default_rng([*shape, side])
    examples = [blobs(rng, shape, count) for count in (1, 2, 5, 20, 20)]
    examples += [
        np.zeros(shape, bool),
        np.ones(shape, bool),
        rng.random(shape) < 0.5,
        np.tile([True, False], shape)[: shape[0], : shape[1]],
    ]
    for place in [(0, 0), (-1, -1), (shape[0] // 2, 3)]:
        examples.append(np.zeros(shape, bool))
        examples[-1][place] = True
        examples.append(~examples[-1])
    for foreground in examples:
        assert max_foreground_corner(foreground, side) == fullest_of_all(foreground, side)
        assert max_foreground_corner(foreground[::-1, ::-1], side) == fullest_of_all(foreground[::-1, ::-1], side)


@pytest.mark.parametrize("side", [24, 33])
def test_of_two_windows_that_mirror_each_other_the_first_wins(side):
    shape = (70, 83)
    places = [(top, left) for top in range(shape[0] - side + 1) for left in range(shape[1] - side + 1)]
    for top, left in places[::5]:
        foreground = np.zeros(shape, bool)
        foreground[top : top + side, left : left + side] = True
        foreground |= foreground[::-1, ::-1]
        assert max_foreground_corner(foreground, side) == fullest_of_all(foreground, side)


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


TABLES = {
    "few ranges": [(0, 0, 0), (1, 5, 1), (6, 9, 0), (10, 300, 2), (40000, 65535, 3)],
    "many ranges": [(start, start + 9, 1 + start // 500) for start in range(3, 60000, 500)],
    "all": [(0, 65535, 1)],
    "none": [],
    "bytes only": [(0, 0, 0), (200, 255, 1)],
}


@pytest.mark.parametrize("ranges", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("background", [None, 0, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_foreground_is_what_is_neither_ignored_nor_background(ranges, background, dtype):
    table = np.full(65536, IGNORED, np.uint8)
    for first, last, class_id in ranges:
        table[first : last + 1] = class_id
    every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    raw = np.random.default_rng(0).permutation(every).reshape(-1, 16)
    mask = Foreground(table, background)(raw)
    assert mask.dtype == bool
    assert mask.shape == raw.shape
    for value, marked in zip(raw.flat, mask.flat, strict=True):
        assert marked == (table[value] not in (IGNORED, background))
    for value in {value for first, last, _ in ranges[:9] for value in (first, last) if value <= every[-1]}:
        assert (
            Foreground(table, background)(np.full((2, 3), value, dtype)) == (table[value] not in (IGNORED, background))
        ).all()
    mask[0] = True  # The mask is the caller's own.


def test_several_corners_are_the_fullest_of_what_is_left():
    rng = np.random.default_rng(1)
    for count in (1, 2, 5, 100):
        foreground = blobs(rng, (40, 60), 6)
        left = foreground.copy()
        corners = several_corners(foreground, 16, count)
        assert 1 <= len(corners) <= count
        for top, side in corners:
            assert (top, side) == fullest_of_all(left, 16)
            assert left[top : top + 16, side : side + 16].any()
            left[top : top + 16, side : side + 16] = False
        assert len(corners) == count or not left.any()
    assert several_corners(np.zeros((9, 9), bool), 3, 4) == [(3, 3)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (8, 8), (9, 30), (31, 8), (50, 64)])
@pytest.mark.parametrize(("side", "overlap"), [(8, 0), (8, 3), (8, 7), (1, 0), (100, 10)])
def test_tiles_cover_the_image_and_stay_within(height, width, side, overlap):
    corners = tiles(height, width, side, overlap)
    covered = np.zeros((height, width), int)
    for top, left in corners:
        assert 0 <= top <= max(height - side, 0)
        assert 0 <= left <= max(width - side, 0)
        covered[top : top + side, left : left + side] += 1
    assert covered.all()
    assert corners == sorted(set(corners))
    for axis, length in ((0, height), (1, width)):
        starts = sorted({corner[axis] for corner in corners})
        steps = np.diff(starts)
        assert (steps <= side - overlap).all()
        assert (steps[:-1] == side - overlap).all()
        assert len(starts) == 1 + max(0, -(-(length - side) // (side - overlap)))


def test_random_corners_are_everywhere_and_stay_within():
    corners = random_corners((7, 12), 5, 2000, np.random.default_rng(0))
    assert {*corners} == {(top, left) for top in range(3) for left in range(8)}
    assert corners == random_corners((7, 12), 5, 2000, np.random.default_rng(0))
    assert random_corners((3, 4), 5, 2, np.random.default_rng(0)) == [(0, 0), (0, 0)]


def test_a_pair_shrinks_to_averages_and_nearest_labels():
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (12, 24, 3), np.uint8), rng.integers(0, 9, (12, 24), np.uint8)
    small, small_label = resize_pair(image, label, 8)
    averages = image.reshape(4, 3, 8, 3, 3).mean((1, 3))
    assert np.abs(small[:4] - averages).max() < 1  # Rows and columns are rounded one after the other.
    assert np.array_equal(small_label[:4], label[1::3, 1::3])
    assert not small[4:].any()
    assert (small_label[4:] == IGNORED).all()


def test_a_pair_grows_smoothly_and_its_labels_stay_whole():
    image = np.array([[[0] * 3], [[90] * 3]], np.uint8)
    label = np.array([[1], [5]], np.uint8)
    large, large_label = resize_pair(image, label, 4)
    assert large.shape == (4, 4, 3)
    assert large[:, 0, 0].tolist() == pytest.approx([0, 22.5, 67.5, 90], abs=0.5)
    assert large_label[:, :2].tolist() == [[1, 1], [1, 1], [5, 5], [5, 5]]
    assert (large_label[:, 2:] == IGNORED).all()
    assert not large[:, 2:].any()


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (8, 8), (3, 2)])
def test_a_resized_pair_is_square_whatever_its_shape(shape):
    image, label = resize_pair(np.ones((*shape, 3), np.uint8), np.zeros(shape, np.uint8), 8)
    assert image.shape == (8, 8, 3)
    assert label.shape == (8, 8)
    assert np.array_equal(image.any(2), label == 0)
