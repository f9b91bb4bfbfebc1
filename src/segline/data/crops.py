"""The crop that holds the most foreground (Seed S0, sections 3 and 4.2.2)."""

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED


def max_foreground_corner(foreground: NDArray[np.bool_], side: int) -> tuple[int, int]:
    """The top-left corner of the square window with the most foreground pixels; exact.

    Every window is counted with a summed-area table. Of equally full windows the one nearest to the image's centre
    wins, then the first in reading order; so data without a background class are cropped around their centre.

    Args:
        foreground: shape (h, w).
        side: of the window in px; a window larger than the image starts at 0.
    """
    height, width = foreground.shape
    rows, columns = min(side, height), min(side, width)
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = foreground.cumsum(0, dtype=np.int64).cumsum(1)
    counts = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    fullest = np.argwhere(counts == counts.max())
    from_centre = np.square(2 * fullest - (height - rows, width - columns)).sum(1)
    top, left = fullest[from_centre.argmin()]
    return int(top), int(left)


def cut(
    image: NDArray[np.uint8], label: NDArray[np.uint8], corner: tuple[int, int], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The square at ``corner`` of image (h, w, 3) and label (h, w); what lies outside is black and ignored."""
    top, left = corner
    image, label = image[top : top + side, left : left + side], label[top : top + side, left : left + side]
    below, right = side - label.shape[0], side - label.shape[1]
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)))
        label = np.pad(label, ((0, below), (0, right)), constant_values=IGNORED)
    return image, label
