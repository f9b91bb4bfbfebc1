"""Where an image is cut, and the cutting: the fullest crops (Seed S0, sections 3 and 4.2.2), tiles, random crops."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segline.classes import IGNORED

Corner = tuple[int, int]

# Rows of a mask that are made at once: they stay in the processor's cache.
ROWS = 32
# Above this many ranges of raw values a look-up per pixel is the faster test.
MOST_RANGES = 8
# Side, in px, of the largest cell of corners whose windows are first bounded together.
LARGEST_CELL = 16


class Foreground:
    """Tells which pixels of a label map are foreground: neither ignored nor background.

    Called with raw values (h, w), uint8 or uint16, it returns a mask, bool of the same shape.

    Args:
        table: raw value to class id, 65536 entries, uint8.
        background: the background's class id, or None when every class counts.
    """

    def __init__(self, table: NDArray[np.uint8], background: int | None) -> None:
        self._is_foreground = table != IGNORED
        if background is not None:
            self._is_foreground &= table != background
        steps = np.flatnonzero(np.diff(self._is_foreground, prepend=False, append=False))
        self._ranges = [(int(first), int(stop) - 1) for first, stop in steps.reshape(-1, 2)]

    def __call__(self, raw: NDArray[np.integer]) -> NDArray[np.bool_]:
        """The mask of the foreground."""
        largest = np.iinfo(raw.dtype).max
        ranges = [(first, min(last, largest)) for first, last in self._ranges if first <= largest]
        if len(ranges) > MOST_RANGES:
            found: NDArray[np.bool_] = self._is_foreground.take(raw)
            return found
        mask = np.zeros(raw.shape, np.bool_)
        for start in range(0, len(raw), ROWS):
            values, part = raw[start : start + ROWS], mask[start : start + ROWS]
            highest = values.max(initial=0)
            for first, last in ranges:
                if first <= highest:
                    # Below `first` the difference wraps around to a large one: one comparison does for two.
                    part |= values - raw.dtype.type(first) <= last - first
        return mask


def max_foreground_corner(foreground: NDArray[np.bool_], side: int) -> Corner:
    """The top-left corner of the square window with the most foreground pixels; exact.

    Of equally full windows the one nearest to the image's centre wins, then the first in reading order; so data
    without a background class are cropped around their centre.

    Corners are taken in square cells. The windows of a cell hold no more than the rectangle around them all, and
    sums over a coarse grid bound that; so windows are counted one by one in the few cells only that are left.

    Args:
        foreground: shape (h, w).
        side: of the window in px; a window larger than the image starts at 0.
    """
    windows = _Windows(foreground, side)
    most, distance = windows.most(), windows.distance()
    promise = most.max(1)
    nearest = np.where(most == promise[:, None], distance, FAR).min(1)
    best = _Window(-windows.at_least(), FAR, 0, 0)
    for row in np.lexsort((nearest, -promise)).tolist():
        count = -best.minus_count
        cells = np.flatnonzero((most[row] > count) | ((most[row] == count) & (distance[row] <= best.distance)))
        if len(cells):
            best = min(best, windows.best(row, int(cells[0]), int(cells[-1])))
    return best.top, best.left


def several_corners(foreground: NDArray[np.bool_], side: int, count: int) -> list[Corner]:
    """Up to ``count`` corners, each of the window with the most foreground that no earlier one holds.

    The first is that of :func:`max_foreground_corner`, whatever it holds; there are fewer when nothing is left.
    """
    left_over = foreground.copy()
    corners: list[Corner] = []
    while len(corners) < count and (not corners or left_over.any()):
        top, left = max_foreground_corner(left_over, side)
        left_over[top : top + side, left : left + side] = False
        corners.append((top, left))
    return corners


def tiles(height: int, width: int, side: int, overlap: int) -> list[Corner]:
    """The corners, in reading order, of windows that cover an image.

    Args:
        height: of the image in px.
        width: of the image in px.
        side: of the windows in px; one larger than the image starts at 0.
        overlap: of neighbouring windows in px, less than ``side``; the last of a row or column is moved back into the
            image and overlaps more.
    """
    return [(top, left) for top in _starts(height, side, overlap) for left in _starts(width, side, overlap)]


def random_corners(shape: tuple[int, int], side: int, count: int, rng: np.random.Generator) -> list[Corner]:
    """Corners of ``count`` windows within an image of this shape, all equally probable."""
    last = np.maximum(np.array(shape) - side, 0)
    return [(int(top), int(left)) for top, left in rng.integers(last, size=(count, 2), endpoint=True)]


def cut(
    image: NDArray[np.uint8], label: NDArray[np.uint8], corner: Corner, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The square at ``corner`` of image (h, w, 3) and label (h, w); what lies outside is black and ignored."""
    top, left = corner
    return _pad(image[top : top + side, left : left + side], label[top : top + side, left : left + side], side)


def resize_pair(
    image: NDArray[np.uint8], label: NDArray[np.uint8], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The whole of image (h, w, 3) and label (h, w), scaled so that the longer side is ``side`` px.

    Images are averaged over areas when they shrink, interpolated when they grow; a label is that of the nearest pixel.
    What is missing of the square, at the bottom or the right, is black and ignored.
    """
    height, width = label.shape
    longer = max(height, width)
    size = max(1, round(width * side / longer)), max(1, round(height * side / longer))
    smooth = Image.Resampling.BOX if side < longer else Image.Resampling.BILINEAR
    return _pad(
        np.asarray(Image.fromarray(image).resize(size, smooth)),
        np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST)),
        side,
    )


def _pad(image: NDArray[np.uint8], label: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    below, right = side - label.shape[0], side - label.shape[1]
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)))
        label = np.pad(label, ((0, below), (0, right)), constant_values=IGNORED)
    return image, label


def _starts(length: int, side: int, overlap: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, side - overlap), last]


FAR = np.iinfo(np.int64).max


class _Window(NamedTuple):
    """A window; the better one of two is the smaller tuple."""

    minus_count: int
    distance: int
    top: int
    left: int


class _Windows:
    """All windows of one size in an image, by cells of corners."""

    def __init__(self, foreground: NDArray[np.bool_], side: int) -> None:
        self._pixels = np.ascontiguousarray(foreground).view(np.uint8)
        self._cell = max(1, min(LARGEST_CELL, side // 8))
        self._size = [min(side, length) for length in foreground.shape]
        self._last = [length - size for length, size in zip(foreground.shape, self._size, strict=True)]
        self._first_of_cells = [np.arange(0, last + 1, self._cell) for last in self._last]
        self._last_of_cells = [
            np.minimum(first + self._cell - 1, last)
            for first, last in zip(self._first_of_cells, self._last, strict=True)
        ]
        self._strips = self._sum_strips()
        self._sums = self._sum_blocks()

    def most(self) -> NDArray[np.int32]:
        """For each cell what no window in it exceeds: all blocks that its windows touch."""
        ends = [-(-(last + size) // self._cell) for last, size in zip(self._last_of_cells, self._size, strict=True)]
        return self._in_blocks(ends).clip(max=self._size[0] * self._size[1])

    def at_least(self) -> int:
        """What the fullest window reaches at least: all blocks within the first window of a cell."""
        ends = [
            first // self._cell + size // self._cell
            for first, size in zip(self._first_of_cells, self._size, strict=True)
        ]
        return int(self._in_blocks(ends).max())

    def distance(self) -> NDArray[np.int64]:
        """For each cell the squared distance from the image's centre that no window in it is below, in half px."""
        rows, columns = (
            np.maximum(np.maximum(2 * first - last, last - 2 * end), 0)
            for first, end, last in zip(self._first_of_cells, self._last_of_cells, self._last, strict=True)
        )
        squares: NDArray[np.int64] = np.square(rows)[:, None] + np.square(columns)
        return squares

    def best(self, row: int, first: int, last: int) -> _Window:
        """The best window of the cells from ``first`` to ``last`` of a row, counted one by one."""
        (height, width), top, left = self._size, row * self._cell, first * self._cell
        bottom, right = int(self._last_of_cells[0][row]), int(self._last_of_cells[1][last])
        columns = slice(left, right + width)
        strips_end = row + height // self._cell
        sums = np.zeros((bottom - top + 1, right + width - left + 1), np.int32)
        sums[0, 1:] = self._strips[row:strips_end, columns].sum(0, dtype=np.int32)
        sums[0, 1:] += self._pixels[strips_end * self._cell : top + height, columns].sum(0, dtype=np.int32)
        sums[1:, 1:] = self._pixels[top + height : bottom + height, columns]
        sums[1:, 1:] -= self._pixels[top:bottom, columns]
        sums = sums.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
        counts = sums[:, width:] - sums[:, :-width]
        count = int(counts.max())
        corners = np.argwhere(counts == count) + np.array((top, left))
        distances = np.square(2 * corners - self._last).sum(1)
        nearest = int(distances.argmin())
        return _Window(-count, int(distances[nearest]), *corners[nearest].tolist())

    def _sum_strips(self) -> NDArray[np.uint8]:
        """Column sums over strips as high as a cell; at most ``LARGEST_CELL`` each."""
        height, width = self._pixels.shape
        whole = height // self._cell
        strips = np.zeros((-(-height // self._cell), width), np.uint8)
        strips[:whole] = self._pixels[: whole * self._cell].reshape(whole, self._cell, width).sum(1, dtype=np.uint8)
        strips[whole:] = self._pixels[whole * self._cell :].sum(0, dtype=np.uint8)
        return strips

    def _sum_blocks(self) -> NDArray[np.int32]:
        """The summed-area table of blocks as large as a cell, with a row and a column of zeros in front."""
        width = self._pixels.shape[1]
        ends = np.minimum(np.arange(self._cell, width + self._cell, self._cell), width)
        sums = np.zeros((len(self._strips) + 1, len(ends) + 1), np.int32)
        sums[1:, 1:] = self._strips.cumsum(1, dtype=np.int32)[:, ends - 1].cumsum(0, dtype=np.int32)
        return sums

    def _in_blocks(self, ends: list[NDArray[np.int64]]) -> NDArray[np.int32]:
        """For each cell the foreground from its first block up to the ``ends`` of rows and columns."""
        row_ends, column_ends = ends
        in_columns = self._sums[:, column_ends] - self._sums[:, : len(column_ends)]
        found: NDArray[np.int32] = in_columns[row_ends] - in_columns[: len(row_ends)]
        return found
