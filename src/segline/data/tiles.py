"""The tiles by which an image is predicted that is too large for one forward pass.

Tiles overlap, and each pixel is taken from the tile in which it is farthest from a cut: half the overlap at least.
So a network that looks no further gives the same as for the whole image; pooling over the whole image sees the tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

OVERLAP = 256
"""The pixels that neighbours share, if their sides are at least four times as long."""
STEP = 64
"""The multiple at which tiles begin, in px: the largest stride of a network, so that no grid of features moves."""

Region = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        seen: The rows and columns that the network gets.
        kept: Of these the rows and columns that are taken from its output; those of all tiles make up the image.
    """

    seen: Region
    kept: Region

    @property
    def inner(self) -> Region:
        """The kept rows and columns, counted from the tile's first ones."""
        rows, columns = (
            slice(kept.start - seen.start, kept.stop - seen.start)
            for seen, kept in zip(self.seen, self.kept, strict=True)
        )
        return rows, columns


def tiles(shape: tuple[int, int], max_pixels: int) -> Iterator[Tile]:
    """Yield the tiles of an image in reading order: one if it has at most so many pixels.

    Args:
        shape: The height and width of the image, in px.
        max_pixels: The most pixels of a tile, at least 4 ``STEP`` squared.
    """
    height, width = shape
    if height * width <= max_pixels:
        whole = slice(0, height), slice(0, width)
        yield Tile(whole, whole)
        return
    side = isqrt(max_pixels) // STEP * STEP
    overlap = min(OVERLAP, max(STEP, side // 4 // STEP * STEP))
    for rows_seen, rows_kept in _spans(height, side, overlap):
        for columns_seen, columns_kept in _spans(width, side, overlap):
            yield Tile((rows_seen, columns_seen), (rows_kept, columns_kept))


def _spans(length: int, side: int, overlap: int) -> list[tuple[slice, slice]]:
    """Return what is seen and what is kept of a row of tiles; only the last one may be shorter than the others."""
    starts = range(0, max(1, length - overlap), side - overlap)
    cuts = [0, *(start + overlap // 2 for start in starts[1:]), length]
    return [
        (slice(start, min(start + side, length)), slice(*kept))
        for start, kept in zip(starts, pairwise(cuts), strict=True)
    ]
