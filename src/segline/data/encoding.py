"""Lossless encoding of arrays as PNG, in about the time that decoding takes.

Every row is stored as its difference from the row above (filter 2, "up"), which is zero nearly everywhere in a label
map, and libdeflate compresses the rows fast. Any program opens the files, and
:mod:`segline.data.decoding` reads them. https://www.w3.org/TR/png-3
"""

import struct
import zlib

import deflate
import numpy as np
from numpy.typing import NDArray

from segline.data.decoding import PNG_START

LEVEL = 2
"""The fastest level of libdeflate for label maps; level 1 takes longer where most bytes are zero."""
UP = 2
"""The number of the filter in front of each row."""
GRAY, RGB = 0, 2
"""The PNG color types."""


def encode_png(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode gray values, uint8 or uint16 (h, w), or RGB, uint8 (h, w, 3), as a PNG; equal values give equal bytes.

    RGB with three equal channels becomes gray, which decodes to the same RGB.
    """
    if values.ndim == 3 and _is_gray(values):
        values = values[..., 0]
    height, width = values.shape[:2]
    bits = 8 * values.itemsize
    stored = np.ascontiguousarray(values.astype(">u2") if bits == 16 else values)
    rows = stored.reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, bits, RGB if values.ndim == 3 else GRAY, 0, 0, 0)
    pixels = bytes(deflate.zlib_compress(filtered.ravel().data, LEVEL))
    return PNG_START + _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _is_gray(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bool:
    red = image[..., 0]
    return bool(np.array_equal(red, image[..., 1]) and np.array_equal(red, image[..., 2]))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return len(content).to_bytes(4) + kind + content + checksum.to_bytes(4)
