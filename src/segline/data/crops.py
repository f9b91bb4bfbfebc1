"""The positions of crops, and the cutting: fullest crops (Seed S0, sections 3 and 4.2.2), tiles, random crops."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segline.classes import IGNORED

Corner = tuple[int, int]

# The number of mask rows that are computed at once; they stay in the processor's cache.
ROWS = 32
# With more ranges of raw values than this, a lookup per pixel is the faster test.
MOST_RANGES = 8


class Foreground:
    """The test of which pixels of a label map are foreground: neither ignored nor background.

    Called with raw values (h, w), uint8 or uint16, it returns a mask, bool of the same shape.

    Args:
        lut: The lookup table from raw value to class id, 65536 entries, uint8.
        background: The class id of the background, or None when every class counts.
    """

    def __init__(self, lut: NDArray[np.uint8], background: int | None) -> None:
        self._is_foreground = lut != IGNORED
        if background is not None:
            self._is_foreground &= lut != background
        steps = np.flatnonzero(np.diff(self._is_foreground, prepend=False, append=False))
        self._ranges = [(int(first), int(stop) - 1) for first, stop in steps.reshape(-1, 2)]

    def __call__(self, raw: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return the mask of the foreground."""
        largest = np.iinfo(raw.dtype).max
        ranges = [(first, min(last, largest)) for first, last in self._ranges if first <= largest]
        if len(ranges) > MOST_RANGES:
            looked_up: NDArray[np.bool_] = self._is_foreground.take(raw)
            return looked_up
        mask = np.zeros(raw.shape, np.bool_)
        for start in range(0, len(raw), ROWS):
            values, part = raw[start : start + ROWS], mask[start : start + ROWS]
            highest = values.max(initial=0)
            for first, last in ranges:
                if first <= highest:
                    # Below `first` the difference wraps around to a large number, so one comparison replaces two.
                    part |= values - raw.dtype.type(first) <= last - first
        return mask


def max_foreground_corner(foreground: NDArray[np.bool_], side: int) -> Corner:
    """Return the top-left corner of the square window with the most foreground pixels; the search is exact.

    Of equally full windows the one nearest to the image's center wins, then the first in row order. So an object lies
    in the middle of its crop, and data without a background class are cropped around their center.

    A summed-area table is kept for one row of windows at a time, because a table of a whole large image does not fit
    into the processor's cache and takes four times as long.

    Args:
        foreground: The mask, shape (h, w).
        side: The side of the window in px; a window larger than the image starts at 0.
    """
    height, width = (min(side, length) for length in foreground.shape)
    pixels = foreground.view(np.uint8)
    in_column = np.zeros(foreground.shape[1] + 1, np.int32)
    in_column[1:] = pixels[:height].sum(0)
    last_top, last_left = len(pixels) - height, foreground.shape[1] - width
    best = (1, 0, 0, 0)
    for top in range(last_top + 1):
        if top:
            in_column[1:] += pixels[top + height - 1]
            in_column[1:] -= pixels[top - 1]
        sums = in_column.cumsum(dtype=np.int32)
        counts = sums[width:] - sums[:-width]
        most = int(counts.max())
        if -most <= best[0]:
            equals = np.flatnonzero(counts == most)
            left = int(equals[np.abs(2 * equals - last_left).argmin()])
            distance = (2 * top - last_top) ** 2 + (2 * left - last_left) ** 2
            best = min(best, (-most, distance, top, left))
    return best[2:]


def several_corners(foreground: NDArray[np.bool_], side: int, count: int) -> list[Corner]:
    """Return up to ``count`` corners, each of the window with the most foreground outside all earlier windows.

    The first is the corner of :func:`max_foreground_corner`, even without foreground. There are fewer than ``count``
    corners when no foreground is left.
    """
    left_over = foreground.copy()
    corners: list[Corner] = []
    while len(corners) < count and (not corners or left_over.any()):
        top, left = max_foreground_corner(left_over, side)
        left_over[top : top + side, left : left + side] = False
        corners.append((top, left))
    return corners


def tiles(height: int, width: int, side: int, overlap: int) -> list[Corner]:
    """Return the corners, in row order, of windows that cover an image.

    Args:
        height: The height of the image in px.
        width: The width of the image in px.
        side: The side of the windows in px; a window larger than the image starts at 0.
        overlap: The overlap of neighboring windows in px, less than ``side``. The last window of a row or column is
            moved back into the image and overlaps more.
    """
    return [(top, left) for top in _starts(height, side, overlap) for left in _starts(width, side, overlap)]


def random_corners(shape: tuple[int, int], side: int, count: int, rng: np.random.Generator) -> list[Corner]:
    """Return the corners of ``count`` random windows within an image of this shape, all equally probable."""
    last = np.maximum(np.array(shape) - side, 0)
    return [(int(top), int(left)) for top, left in rng.integers(last, size=(count, 2), endpoint=True)]


def cut(
    image: NDArray[np.uint8], label: NDArray[np.uint8], corner: Corner, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut the square at ``corner`` from image (h, w, 3) and label (h, w); pixels outside are black and ignored."""
    top, left = corner
    return _pad(image[top : top + side, left : left + side], label[top : top + side, left : left + side], side)


def resize_pair(
    image: NDArray[np.uint8], label: NDArray[np.uint8], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scale image (h, w, 3) and label (h, w) so that the longer side is ``side`` px, and pad them to a square.

    Images are averaged over areas when they shrink and interpolated when they grow; a label is that of the nearest
    pixel. The padding, at the bottom or the right, is black and ignored.
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
