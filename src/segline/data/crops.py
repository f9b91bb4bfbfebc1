"""The positions of crops, and the cutting: fullest (Seed S0, sections 3 and 4.2.2), tiles, drawn ones.

The size of a crop is its height and width in px.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segline.classes import IGNORED

Corner = tuple[int, int]
Size = tuple[int, int]

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


def max_foreground_corner(foreground: NDArray[np.bool_], size: Size) -> Corner:
    """Return the top-left corner of the window with the most foreground pixels; the search is exact.

    Of equally full windows the one nearest to the image's center wins, then the first in row order. So an object lies
    in the middle of its crop, and data without a background class are cropped around their center.

    A summed-area table is kept for one row of windows at a time, because a table of a whole large image does not fit
    into the processor's cache and takes four times as long.

    Args:
        foreground: The mask, shape (h, w).
        size: The height and width of the window in px; a window larger than the image starts at 0.
    """
    height, width = np.minimum(size, foreground.shape).tolist()
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


def several_corners(foreground: NDArray[np.bool_], size: Size, count: int) -> list[Corner]:
    """Return up to ``count`` corners, each of the window with the most foreground outside all earlier windows.

    The first is the corner of :func:`max_foreground_corner`, even without foreground. There are fewer than ``count``
    corners when no foreground is left.
    """
    left_over = foreground.copy()
    corners: list[Corner] = []
    while len(corners) < count and (not corners or left_over.any()):
        top, left = max_foreground_corner(left_over, size)
        left_over[top : top + size[0], left : left + size[1]] = False
        corners.append((top, left))
    return corners


def tiles(shape: tuple[int, int], size: Size, overlap: int) -> list[Corner]:
    """Return the corners, in row order, of windows that cover an image.

    Args:
        shape: The height and width of the image in px.
        size: The height and width of the windows in px; a window larger than the image starts at 0.
        overlap: The overlap of neighboring windows in px, less than both sides of a window. The last window of a
            row or column is moved back into the image and overlaps more.
    """
    tops, lefts = (_starts(length, side, overlap) for length, side in zip(shape, size, strict=True))
    return [(top, left) for top in tops for left in lefts]


def random_corners(shape: tuple[int, int], size: Size, count: int, rng: np.random.Generator) -> list[Corner]:
    """Return the corners of ``count`` random windows within an image of this shape, all equally probable."""
    last = np.maximum(np.subtract(shape, size), 0)
    return [(int(top), int(left)) for top, left in rng.integers(last, size=(count, 2), endpoint=True)]


def by_class_corners(
    ids: NDArray[np.uint8], background: int | None, size: Size, count: int, rng: np.random.Generator
) -> list[Corner]:
    """Return the corners of ``count`` windows, each around a random pixel of a random class.

    Every class of the image is equally probable, and so is every pixel of it. The background is drawn only where there
    is no other class, and ignored pixels never are, as in nnU-Net (Isensee et al. 2021), which oversamples the
    foreground in this way; an image of ignored pixels gives random windows. A window is moved into the image.

    Args:
        ids: The class ids (h, w); ``IGNORED`` belongs to no class.
        background: The id that is not foreground, or None.
        size: The height and width of the windows in px; a window larger than the image starts at 0.
        count: The number of windows.
        rng: The source of all randomness.
    """
    classes = np.flatnonzero(np.bincount(ids.ravel(), minlength=IGNORED)[:IGNORED])
    if len(classes) == 0:
        return random_corners(ids.shape, size, count, rng)
    foreground = classes[classes != background]
    chosen = rng.choice(foreground if len(foreground) else classes, count)
    pixels = {each: np.flatnonzero(ids == each) for each in set(chosen.tolist())}
    centers = [np.unravel_index(rng.choice(pixels[each]), ids.shape) for each in chosen.tolist()]
    corners = np.subtract(centers, np.floor_divide(size, 2))
    return [(int(top), int(left)) for top, left in corners.clip(0, np.maximum(np.subtract(ids.shape, size), 0))]


def center_corner(shape: tuple[int, int], size: Size) -> Corner:
    """Return the corner of the window in the middle; what cannot be even is one px more below and to the right."""
    top, left = (max(length - side, 0) // 2 for length, side in zip(shape, size, strict=True))
    return top, left


def cut(
    image: NDArray[np.uint8], label: NDArray[np.uint8], corner: Corner, size: Size
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut the crop at ``corner`` from image (h, w, 3) and label (h, w); pixels outside are black and ignored."""
    part = tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True))
    return _pad(image[part], label[part], size)


def resize_pair(
    image: NDArray[np.uint8], label: NDArray[np.uint8], size: Size
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scale image (h, w, 3) and label (h, w) until they fill one side of ``size``, and pad the other one.

    Images are averaged over areas when they shrink and interpolated when they grow; a label is that of the nearest
    pixel. The padding, at the bottom or the right, is black and ignored.
    """
    height, width = label.shape
    length, side = filled_side((height, width), size)
    return _pad(*scale_pair(image, label, scaled_shape((height, width), length, side)), size)


def scaled_shape(shape: tuple[int, int], length: int, target: int) -> tuple[int, int]:
    """Return the height and width of an image, each at least 1 px, when ``length`` px of it become ``target`` px."""
    height, width = (max(1, round(side * target / length)) for side in shape)
    return height, width


def scale_pair(
    image: NDArray[np.uint8], label: NDArray[Any], shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Scale image (h, w, 3) and label (h, w) to a height and width.

    Images are averaged over areas when they shrink and interpolated when they grow; a label is that of the nearest
    pixel.
    """
    (height, width), shrinks = shape, min(shape[0] - label.shape[0], shape[1] - label.shape[1]) < 0
    smooth = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return (
        np.asarray(Image.fromarray(image).resize((width, height), smooth)),
        np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)),
    )


def filled_side(shape: tuple[int, int], size: Size) -> tuple[int, int]:
    """Return the side of an image that fills its crop when all of the image is shown, and that side of the crop."""
    (height, width), (rows, columns) = shape, size
    return (height, rows) if height * columns >= width * rows else (width, columns)


def _pad(image: NDArray[np.uint8], label: NDArray[np.uint8], size: Size) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    below, right = size[0] - label.shape[0], size[1] - label.shape[1]
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)))
        label = np.pad(label, ((0, below), (0, right)), constant_values=IGNORED)
    return image, label


def _starts(length: int, side: int, overlap: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, side - overlap), last]
