"""Image files to arrays.

JPEGs go to libjpeg-turbo (simplejpeg), grey PNGs of 8 or 16 bits to Rust's png (kornia-rs), everything else to Pillow,
which is several times slower. Damage is an error, never grey rows: libjpeg's warnings count, and of a PNG the checksums
of all chunks and that of the pixels are compared.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import deflate
import numpy as np
import simplejpeg
from kornia_rs import io as kornia
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segline.data.boxes import Box

MOST_PIXELS = 2**30
# Of Pillow's formats those that data sets come in; some of the others start programs or fetch files.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
JPEG_START, JPEG_END, PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"

TRUNCATED = "the file is truncated"
EXIF_ORIENTATION, TIFF_BITS = 0x0112, 258
BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}


@dataclass(frozen=True)
class Header:
    """What the head of an image file tells.

    Attributes:
        format: Pillow's name: JPEG, PNG, TIFF, ...
        height: in px.
        width: in px.
        channels: palette indices are one.
        bits: per channel.
        mode: Pillow's name for the kind of pixels: RGB, L, CMYK, RGBA, P, I;16, ...
        orientation: by EXIF; 1 is upright.
    """

    format: str
    height: int
    width: int
    channels: int
    bits: int
    mode: str
    orientation: int


def read_header(data: bytes) -> Header:
    """What the file's head alone tells; raises OSError when it is not that of an image."""
    with _opened(data) as image:
        return Header(
            format="JPEG" if image.format == "MPO" else str(image.format),
            height=image.height,
            width=image.width,
            channels=len(image.getbands()),
            bits=_bits(image, data),
            mode=image.mode,
            orientation=_orientation(image),
        )


def decode_image(data: bytes, *, box: Box | None = None, reduce: int = 1) -> NDArray[np.uint8]:
    """The image as RGB (h, w, 3), or a part of it, or all of it at a reduced size.

    Grey is repeated, alpha dropped, CMYK converted as Pillow does, 16 bits are cut to the upper 8. The EXIF orientation
    is not applied (but Pillow turns TIFFs).

    Args:
        data: the file.
        box: the part to return, at full size. What is below it in a JPEG is not decoded, and so not checked.
        reduce: 1, 2, 4 or 8; the sides shrink to this fraction, rounded up. All of the file is read and checked.

    Raises:
        OSError: the file is no image, damaged or too large; the text says which.
    """
    assert box is None or reduce == 1
    if data.startswith(JPEG_START):
        pixels = _decode_jpeg(data, box, reduce)
    else:
        _read_png(data)
        with _opened(data) as image:
            pixels = _to_rgb(image, reduce)
    if box is None:
        return pixels
    # A copy, as a view would keep the whole image in memory.
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width].copy()


def decode_label(data: bytes) -> NDArray[np.integer]:
    """The values of a label map of one channel, or its palette indices, as uint8 or uint16 (h, w).

    Raises:
        OSError: the file is no image, damaged or too large, or it has several channels, or values that are not whole or
            beyond 16 bits.
    """
    png = _read_png(data)
    if png and png.is_plain_grey:
        return _decode_grey_png(data, png)
    with _opened(data) as image:
        channels = len(image.getbands())
        if channels > 1:
            raise OSError(f"the label map has {channels} channels ({image.mode}), expected 1")
        if image.mode == "F":
            raise OSError("the label map has float values, expected whole numbers")
        values, bits = _pixels(image), _bits(image, data)
    if bits < 8:
        # Pillow stretches grey, and only grey, to 0 to 255.
        return values.astype(np.uint8) // (255 // (2**bits - 1) if image.mode == "L" else 1)
    if bits <= 16:
        return values.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    return _to_16_bits(values)


# JPEG. https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.

BASELINE, EXTENDED, RESTARTS, SCAN = 0xC0, 0xC1, 0xDD, 0xDA
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Rows below a box that its pixels depend on: 1 or 2, as colours are stored at half the height and interpolated.
MARGIN = 8
# So many bytes without meaning some cameras leave between the pixels and the end mark.
MOST_PADDING = 64
LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


class _Jpeg(NamedTuple):
    """What the frame header tells; ``in_rows`` if the pixels are stored once, row by row and without restart marks."""

    at: int
    height: int
    width: int
    channels: int
    in_rows: bool


def _read_jpeg(data: bytes) -> _Jpeg:
    frame, restarts = 0, False
    for marker, at in _segments(data):
        if marker in FRAMES:
            frame = at
        elif marker == RESTARTS:
            restarts = data[at + 4 : at + 6] != b"\0\0"
    if not frame:
        raise OSError("the file is damaged (no frame header)")
    if data.rfind(JPEG_END) < frame:
        raise OSError(TRUNCATED)
    height, width = int.from_bytes(data[frame + 5 : frame + 7]), int.from_bytes(data[frame + 7 : frame + 9])
    _check_size(height, width)
    return _Jpeg(frame, height, width, data[frame + 9], data[frame + 1] in (BASELINE, EXTENDED) and not restarts)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of the segments in front of the pixels."""
    at, marker = len(JPEG_START), 0
    while marker != SCAN:
        if at + 12 > len(data):
            raise OSError(TRUNCATED)
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise OSError("the file is damaged (bytes between its segments)")
        if marker == 0xFF:
            at += 1
        else:
            yield marker, at
            at += 2 + int.from_bytes(data[at + 2 : at + 4])


def _decode_jpeg(data: bytes, box: Box | None, reduce: int) -> NDArray[np.uint8]:
    jpeg = _read_jpeg(data)
    last = jpeg.height if box is None else box.top + box.height + MARGIN
    try:
        if jpeg.channels > 3:
            return _from_cmyk(_turbo(data, jpeg, 4, reduce))
        if last < jpeg.height and jpeg.in_rows:
            # Fails where the colours are stored one after the other, and where a file is damaged.
            with suppress(OSError):
                return _decode_upper_rows(data, jpeg, last)
        return _turbo(data, jpeg, 3, reduce)
    except _UnusualError:
        with _opened(data) as image:
            return _to_rgb(image, reduce)


def _decode_upper_rows(data: bytes, jpeg: _Jpeg, rows: int) -> NDArray[np.uint8]:
    """The first rows, in about their share of the time for all.

    The JPEG is told to be less high. Decoding ends there, and libjpeg-turbo has no complaint but that bytes are left
    between the last row and the end; it saw the end, so the file is not truncated.
    """
    shortened = data[: jpeg.at + 5] + rows.to_bytes(2) + data[jpeg.at + 7 :]
    return _turbo(shortened, jpeg._replace(height=rows), 3, is_shortened=True)


class _UnusualError(Exception):
    """A JPEG that is right but that libjpeg-turbo's simple interface does not take."""


def _turbo(
    data: bytes, jpeg: _Jpeg, channels: int, reduce: int = 1, *, is_shortened: bool = False
) -> NDArray[np.uint8]:
    """RGB or, of 4 channels, CMYK as it is stored."""
    height, width = -(-jpeg.height // reduce), -(-jpeg.width // reduce)
    pixels = np.empty((height, width, channels), np.uint8)
    colours = "RGB" if channels == 3 else "CMYK"
    try:
        simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width, min_factor=reduce, buffer=pixels)
    except ValueError as error:
        # Raised after all rows are decoded, unless there are restart marks.
        left_over = LEFT_OVER.fullmatch(str(error))
        if left_over and jpeg.in_rows and (is_shortened or _is_padding(data, int(left_over[1]))):
            return pixels
        if "subsampling" in str(error):
            raise _UnusualError from None
        raise _damaged(error) from None
    return pixels


def _is_padding(data: bytes, size: int) -> bool:
    """Whether the last bytes before the end mark were never pixels."""
    end = data.rfind(JPEG_END)
    return size <= MOST_PADDING and not data[end - size : end].strip(b"\0\xff")


def _from_cmyk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As Pillow does it: JPEGs of four channels hold the inverse, as Adobe's do."""
    height, width, _ = pixels.shape
    inks = Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK;I", 0, 1)
    return np.asarray(inks.convert("RGB"))


# PNG. https://www.w3.org/TR/png-3


class _Png(NamedTuple):
    """What the header chunk tells, and the compressed pixels."""

    height: int
    width: int
    bits: int
    is_plain_grey: bool
    pixels: bytes


def _read_png(data: bytes) -> _Png | None:
    """The parts of a PNG whose checksums are right; None when it is none."""
    if not data.startswith(PNG_START):
        return None
    chunks = list(_chunks(data))
    name, head = chunks[0]
    if name != b"IHDR" or len(head) != 13:
        raise OSError("the file is damaged (no header)")
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", head)
    _check_size(height, width)
    is_plain_grey = colour == 0 and bits >= 8 and not interlace
    return _Png(height, width, bits, is_plain_grey, b"".join(content for kind, content in chunks if kind == b"IDAT"))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at, kind = memoryview(data), len(PNG_START), b""
    while kind != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            raise OSError(TRUNCATED)
        kind = data[at + 4 : at + 8]
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise OSError("the file is damaged (checksum of a chunk)")
        yield kind, view[at + 8 : end]
        at = end + 4


def _decode_grey_png(data: bytes, png: _Png) -> NDArray[np.integer]:
    decode = kornia.decode_image_png_u8 if png.bits == 8 else kornia.decode_image_png_u16
    try:
        values: NDArray[np.integer] = decode(data, (png.height, png.width), "mono")
        # kornia-rs does not compare the checksum of the pixels; libdeflate does, in a millisecond.
        # It comes second as memory is then where it leaves it: the other way round takes up to 8 ms more.
        deflate.zlib_decompress(png.pixels, png.height * (1 + png.width * png.bits // 8))
    except Exception as error:
        raise _damaged(error) from None
    return values[:, :, 0]


# What Pillow decodes.

# Pixels below which Pillow does not complain of an image's size.
LARGE = 2**26
_pillow = threading.RLock()


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image with its head read."""
    if not data:
        raise OSError("the file is empty")
    with _quiet():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            known = data.startswith((JPEG_START, PNG_START))
            raise OSError("the head of the file is damaged" if known else "the file is not an image") from None
        except Exception as error:
            raise _damaged(error) from None
    with image:
        _check_size(image.height, image.width)
        with _quiet() if image.height * image.width > LARGE else nullcontext():
            yield image


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow without warnings, and without its own limit of pixels; both are global, hence the lock."""
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _pixels(image: Image.Image) -> NDArray[Any]:
    try:
        return np.asarray(image)
    except Exception as error:
        raise _damaged(error) from None


def _to_rgb(image: Image.Image, reduce: int) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise OSError("the image has float values, expected 8 or 16 bits per channel")
    if image.mode.startswith("I"):
        image = Image.fromarray((_to_16_bits(_pixels(image)) >> 8).astype(np.uint8))
    image.info.pop("transparency", None)
    try:
        rgb = image.convert("RGB")
    except Exception as error:
        raise _damaged(error) from None
    return np.asarray(rgb.reduce(reduce) if reduce > 1 else rgb)


def _to_16_bits(values: NDArray[np.integer]) -> NDArray[np.uint16]:
    if values.min() < 0 or values.max() >= 2**16:
        raise OSError(f"the file has values from {values.min()} to {values.max()}, expected 0 to {2**16 - 1}")
    return values.astype(np.uint16, copy=False)


def _bits(image: Image.Image, data: bytes) -> int:
    """Per channel; Pillow's mode does not tell all."""
    if image.format == "PNG":
        return data[len(PNG_START) + 16]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(TIFF_BITS, (1,))))
    return BITS.get(image.mode, 8)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the pixels to look behind them.
    with _quiet():
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MOST_PIXELS:
        raise OSError(f"the image has {height} x {width} pixels, expected 1 to {MOST_PIXELS}")


def _damaged(error: Exception) -> OSError:
    """The plain reason for what a decoder said."""
    said = str(error).removeprefix("Corrupt JPEG data: ")
    if re.search("truncated|premature end|end of file", said, re.IGNORECASE):
        return OSError(TRUNCATED)
    return OSError(f"the file is damaged ({said})")
