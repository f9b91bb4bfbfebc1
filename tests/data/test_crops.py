"""Crops are compared with a count of every window, pixel by pixel."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.crops import (
    Foreground,
    by_class_corners,
    center_corner,
    cut,
    max_foreground_corner,
    random_corners,
    resize_pair,
    several_corners,
    tiles,
)


def fullest_window(foreground, size):
    """The window with the most foreground, then nearest to the center, by counting each in row order."""
    (height, width), (rows, columns) = foreground.shape, size
    best, corner = (-1, 0.0), None
    for top in range(max(height - rows, 0) + 1):
        for left in range(max(width - columns, 0) + 1):
            count = int(np.count_nonzero(foreground[top : top + rows, left : left + columns]))
            middle = (top + min(rows, height) / 2, left + min(columns, width) / 2)
            far = (middle[0] - height / 2) ** 2 + (middle[1] - width / 2) ** 2
            if (count, -far) > best:
                best, corner = (count, -far), (top, left)
    return corner


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 7), (12, 9), (8, 15)])
@pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (5, 5), (7, 7), (9, 9), (20, 20), (1, 5), (5, 1), (7, 9), (9, 2), (20, 3), (3, 20)]
)
def test_the_corner_is_that_of_the_fullest_window(shape, size, density):
    rng = np.random.default_rng([*shape, *size])
    for _ in range(5):
        foreground = rng.random(shape) < density
        assert max_foreground_corner(foreground, size) == fullest_window(foreground, size)


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
    assert max_foreground_corner(foreground, (side, side)) == corner


def fullest_of_all(foreground, size):
    """The same for large images, by a summed-area table of the whole image."""
    rows, columns = (min(side, length) for side, length in zip(size, foreground.shape, strict=True))
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
@pytest.mark.parametrize(
    "size",
    [
        (8, 8),
        (17, 17),
        (33, 33),
        (96, 96),
        (128, 128),
        (131, 131),
        (200, 200),
        (8, 131),
        (96, 33),
        (130, 17),
        (90, 300),
    ],
)
def test_the_corner_in_large_images(shape, size):
    rng = np.random.default_rng([*shape, *size])
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
        assert max_foreground_corner(foreground, size) == fullest_of_all(foreground, size)
        assert max_foreground_corner(foreground[::-1, ::-1], size) == fullest_of_all(foreground[::-1, ::-1], size)


@pytest.mark.parametrize("size", [(24, 24), (33, 33), (24, 33), (41, 16)])
def test_of_two_windows_that_mirror_each_other_the_first_wins(size):
    (height, width), (rows, columns) = (70, 83), size
    places = [(top, left) for top in range(height - rows + 1) for left in range(width - columns + 1)]
    for top, left in places[::5]:
        foreground = np.zeros((height, width), bool)
        foreground[top : top + rows, left : left + columns] = True
        foreground |= foreground[::-1, ::-1]
        assert max_foreground_corner(foreground, size) == fullest_of_all(foreground, size)


def test_a_large_image_is_counted_without_overflow():
    foreground = np.zeros((300, 400), bool)
    foreground[40:296, 100:356] = True
    assert max_foreground_corner(foreground, (256, 256)) == (40, 100)


@pytest.mark.parametrize(
    ("corner", "size"),
    [((0, 0), (4, 4)), ((2, 3), (4, 4)), ((1, 0), (1, 1)), ((0, 0), (9, 9)), ((0, 2), (6, 6)), ((1, 1), (2, 9))],
)
def test_a_cut_is_the_rectangle_with_black_ignored_pixels_outside(corner, size):
    rng = np.random.default_rng(0)
    image, label = rng.integers(1, 255, (6, 8, 3), np.uint8), rng.integers(0, 9, (6, 8), np.uint8)
    cut_image, cut_label = cut(image, label, corner, size)
    assert cut_image.shape == (*size, 3)
    assert cut_label.shape == size
    assert cut_image.dtype == cut_label.dtype == np.uint8
    for row in range(size[0]):
        for column in range(size[1]):
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
        corners = several_corners(foreground, (16, 12), count)
        assert 1 <= len(corners) <= count
        for top, side in corners:
            assert (top, side) == fullest_of_all(left, (16, 12))
            assert left[top : top + 16, side : side + 12].any()
            left[top : top + 16, side : side + 12] = False
        assert len(corners) == count or not left.any()
    assert several_corners(np.zeros((9, 9), bool), (3, 3), 4) == [(3, 3)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (8, 8), (9, 30), (31, 8), (50, 64)])
@pytest.mark.parametrize(
    ("size", "overlap"),
    [((8, 8), 0), ((8, 8), 3), ((8, 8), 7), ((1, 1), 0), ((100, 100), 10), ((8, 20), 3), ((30, 5), 4)],
)
def test_tiles_cover_the_image_and_stay_within(height, width, size, overlap):
    corners = tiles((height, width), size, overlap)
    covered = np.zeros((height, width), int)
    for top, left in corners:
        assert 0 <= top <= max(height - size[0], 0)
        assert 0 <= left <= max(width - size[1], 0)
        covered[top : top + size[0], left : left + size[1]] += 1
    assert covered.all()
    assert corners == sorted(set(corners))
    for axis, (length, side) in enumerate(zip((height, width), size, strict=True)):
        starts = sorted({corner[axis] for corner in corners})
        steps = np.diff(starts)
        assert (steps <= side - overlap).all()
        assert (steps[:-1] == side - overlap).all()
        assert len(starts) == 1 + max(0, -(-(length - side) // (side - overlap)))


def test_random_corners_are_everywhere_and_stay_within():
    corners = random_corners((7, 12), (5, 3), 2000, np.random.default_rng(0))
    assert {*corners} == {(top, left) for top in range(3) for left in range(10)}
    assert corners == random_corners((7, 12), (5, 3), 2000, np.random.default_rng(0))
    assert random_corners((3, 4), (5, 5), 2, np.random.default_rng(0)) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("background", [None, 0])
@pytest.mark.parametrize("size", [(4, 4), (3, 7), (40, 5)])
def test_crops_by_class_are_even_over_the_classes_and_over_the_pixels_of_each(size, background):
    """The share of every corner is the sum over the pixels that lead to it, each 1 in the pixels of its class."""
    ids, count = np.zeros((9, 14), np.uint8), 30_000
    ids[1:3, 2:5], ids[8, 13], ids[4, 4:9], ids[6] = 3, 5, 7, IGNORED
    classes = sorted({0, 3, 5, 7} - {background})
    expected = {}
    for row, column in np.argwhere(np.isin(ids, classes)).tolist():
        top = min(max(row - size[0] // 2, 0), max(9 - size[0], 0))
        left = min(max(column - size[1] // 2, 0), max(14 - size[1], 0))
        share = 1 / len(classes) / np.count_nonzero(ids == ids[row, column])
        expected[top, left] = expected.get((top, left), 0) + share
        inside = ids[top : top + size[0], left : left + size[1]]
        assert ids[row, column] in inside
    corners = by_class_corners(ids, background, size, count, np.random.default_rng(0))
    assert {*corners} <= {*expected}
    for corner, share in expected.items():
        assert abs(corners.count(corner) / count - share) < 5 * np.sqrt(share / count)


def test_crops_by_class_of_an_image_of_background_or_of_nothing():
    ids = np.full((6, 8), IGNORED, np.uint8)
    assert len({*by_class_corners(ids, 0, (2, 2), 500, np.random.default_rng(0))}) == 5 * 7
    ids[5, 0] = 0
    assert {*by_class_corners(ids, 0, (2, 2), 20, np.random.default_rng(0))} == {(4, 0)}


@pytest.mark.parametrize(
    ("shape", "size", "corner"),
    [((10, 20), (4, 4), (3, 8)), ((9, 8), (4, 5), (2, 1)), ((3, 9), (5, 5), (0, 2)), ((4, 4), (4, 4), (0, 0))],
)
def test_the_center_crop_is_as_far_from_all_borders(shape, size, corner):
    assert center_corner(shape, size) == corner


def test_a_pair_shrinks_to_averages_and_nearest_labels():
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (12, 24, 3), np.uint8), rng.integers(0, 9, (12, 24), np.uint8)
    small, small_label = resize_pair(image, label, (8, 8))
    averages = image.reshape(4, 3, 8, 3, 3).mean((1, 3))
    assert np.abs(small[:4] - averages).max() < 1  # Rows and columns are rounded one after the other.
    assert np.array_equal(small_label[:4], label[1::3, 1::3])
    assert not small[4:].any()
    assert (small_label[4:] == IGNORED).all()


def test_a_pair_grows_smoothly_and_its_labels_stay_whole():
    image = np.array([[[0] * 3], [[90] * 3]], np.uint8)
    label = np.array([[1], [5]], np.uint8)
    large, large_label = resize_pair(image, label, (4, 4))
    assert large.shape == (4, 4, 3)
    assert large[:, 0, 0].tolist() == pytest.approx([0, 22.5, 67.5, 90], abs=0.5)
    assert large_label[:, :2].tolist() == [[1, 1], [1, 1], [5, 5], [5, 5]]
    assert (large_label[:, 2:] == IGNORED).all()
    assert not large[:, 2:].any()


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (8, 8), (3, 2)])
@pytest.mark.parametrize("size", [(8, 8), (6, 9), (30, 4)])
def test_a_resized_pair_fills_one_side_of_the_crop_whatever_its_shape(shape, size):
    image, label = resize_pair(np.ones((*shape, 3), np.uint8), np.zeros(shape, np.uint8), size)
    assert image.shape == (*size, 3)
    assert label.shape == size
    factor = min(size[0] / shape[0], size[1] / shape[1])
    rows, columns = (max(1, round(length * factor)) for length in shape)
    expected = np.zeros(size, bool)
    expected[:rows, :columns] = True
    assert rows == size[0] or columns == size[1]
    assert np.array_equal(label == 0, expected)
    assert np.array_equal(image.any(2), expected)
