"""Decoding of image files to arrays.

JPEGs are decoded by libjpeg-turbo (simplejpeg), gray PNGs of 8 or 16 bits by Rust's png (kornia-rs), everything else by
Pillow, which takes about twice as long. A damaged file is an error and never gives gray rows: libjpeg's warnings count
as errors, and the checksums of a PNG's chunks and pixels are compared, which Pillow does not do for pixels.

The heads of JPEGs and PNGs are parsed here, which takes less than 0.1 ms a file. That finds the damage which decoders
pass over, and it lets a JPEG be decoded down to the last row of a crop only: about 40 % less time in the middle of a
frame of 1710 x 3384 px.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
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
PIXELS_PER_BYTE = 8 * 1032
"""The most pixels that a byte stands for: deflate makes 1032 bytes of one, of 8 pixels each; JPEG and GIF make less."""
# The formats of Pillow in which data sets are published; some of the others start programs or fetch files.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
JPEG_START, JPEG_END, PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"

TRUNCATED = "the file is truncated"
EXIF_ORIENTATION, TIFF_BITS = 0x0112, 258
BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}


@dataclass(frozen=True)
class Header:
    """The properties of an image that its file's head states.

    Attributes:
        format: Pillow's name of the file format: JPEG, PNG, TIFF, ...
        height: The height in px.
        width: The width in px.
        channels: The number of channels; palette indices are one.
        bits: The number of bits per channel.
        mode: Pillow's name of the pixel format: RGB, L, CMYK, RGBA, P, I;16, ...
        orientation: The EXIF orientation; 1 is upright.
    """

    format: str
    height: int
    width: int
    channels: int
    bits: int
    _: KW_ONLY
    mode: str
    orientation: int


def read_header(data: bytes) -> Header:
    """Read the head of an image file alone; raises OSError when it is not an image."""
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
    """Decode an image as RGB (h, w, 3): the whole, a part of it, or the whole at a reduced size.

    Gray is repeated, alpha is dropped, CMYK is converted as Pillow does it, and 16 bits are cut to the upper 8. The
    EXIF orientation is not applied (but Pillow applies it to TIFFs).

    Args:
        data: The content of the file.
        box: The part to return, at full size. The rows of a JPEG below it are neither decoded nor checked.
        reduce: 1, 2, 4 or 8; the sides are divided by it and rounded up. The whole file is read and checked.

    Raises:
        OSError: The file is no image, damaged or too large; the text says which.
    """
    assert box is None or reduce == 1
    if data.startswith(JPEG_START):
        pixels = _decode_jpeg(data, box, reduce)
    else:
        _read_png(data)
        with _opened(data) as image:
            _refuse_claim(image, data)
            pixels = _to_rgb(image, reduce)
    if box is None:
        return pixels
    # A copy, as a view would keep the whole image in memory.
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width].copy()


def checked_shape(data: bytes) -> tuple[int, int]:
    """Return the height and width of :func:`decode_image`'s result, without decoding a JPEG or a PNG.

    Raises:
        OSError: The file is no image, or has damage that its structure shows: a JPEG's end that is missing, a PNG's
            checksums. Other files are decoded.
    """
    if data.startswith(JPEG_START):
        jpeg = _read_jpeg(data)
        return jpeg.height, jpeg.width
    png = _read_png(data)
    return (png.height, png.width) if png else decode_image(data).shape[:2]


def decode_label(data: bytes) -> NDArray[np.integer]:
    """Decode a label map of one channel, or of palette indices, as uint8 or uint16 (h, w).

    Raises:
        OSError: The file is no image, damaged or too large, or it has several channels, or values that are not whole or
            need more than 16 bits.
    """
    png = _read_png(data)
    if png and png.is_plain_gray:
        return _decode_gray_png(data, png)
    with _opened(data) as image:
        _refuse_claim(image, data)
        channels = len(image.getbands())
        if channels > 1:
            raise OSError(f"the label map has {channels} channels ({image.mode}), expected 1")
        if image.mode == "F":
            raise OSError("the label map has float values, expected whole numbers")
        values, bits = _pixels(image), _bits(image, data)
    if bits < 8:
        # Pillow scales gray, and only gray, to 0 to 255.
        return values.astype(np.uint8) // (255 // (2**bits - 1) if image.mode == "L" else 1)
    if bits <= 16:
        return values.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    return _to_16_bits(values)


# JPEG. https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.

BASELINE, EXTENDED, RESTARTS, SCAN = 0xC0, 0xC1, 0xDD, 0xDA
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# The rows below a box that are decoded as well. Its pixels depend on 1 or 2 of them, because chroma is stored at half
# the height and interpolated.
MARGIN = 8
# Some cameras leave up to this many meaningless bytes between the pixels and the end marker.
MOST_PADDING = 64
LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


class _Jpeg(NamedTuple):
    """The frame header; ``in_rows`` says that pixels are stored once, row by row, without restart markers."""

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
    _check_size(height, width, file=data)
    return _Jpeg(frame, height, width, data[frame + 9], data[frame + 1] in (BASELINE, EXTENDED) and not restarts)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Generate the marker and the offset of each segment in front of the pixels."""
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
            # This fails when the channels are stored one after the other, and when the file is damaged.
            with suppress(OSError):
                return _decode_upper_rows(data, jpeg, last)
        return _turbo(data, jpeg, 3, reduce)
    except _UnusualError:
        with _opened(data) as image:
            return _to_rgb(image, reduce)


def _decode_upper_rows(data: bytes, jpeg: _Jpeg, rows: int) -> NDArray[np.uint8]:
    """Decode the first rows, in about their share of the time that all rows take.

    The height in the header is replaced by ``rows``. Decoding ends there, and libjpeg-turbo only warns that bytes are
    left between the last row and the end marker; it has seen that marker, so the file is not truncated.
    """
    shortened = data[: jpeg.at + 5] + rows.to_bytes(2) + data[jpeg.at + 7 :]
    return _turbo(shortened, jpeg._replace(height=rows), 3, is_shortened=True)


class _UnusualError(Exception):
    """A JPEG is valid, but the simple interface of libjpeg-turbo does not support it."""


def _turbo(
    data: bytes, jpeg: _Jpeg, channels: int, reduce: int = 1, *, is_shortened: bool = False
) -> NDArray[np.uint8]:
    """Decode to RGB or, with 4 channels, to CMYK as it is stored."""
    height, width = -(-jpeg.height // reduce), -(-jpeg.width // reduce)
    pixels = np.empty((height, width, channels), np.uint8)
    color_space = "RGB" if channels == 3 else "CMYK"
    try:
        simplejpeg.decode_jpeg(data, color_space, min_height=height, min_width=width, min_factor=reduce, buffer=pixels)
    except ValueError as error:
        # libjpeg raises this after all rows are decoded, unless there are restart markers.
        left_over = LEFT_OVER.fullmatch(str(error))
        if left_over and jpeg.in_rows and (is_shortened or _is_padding(data, int(left_over[1]))):
            return pixels
        if "subsampling" in str(error):
            raise _UnusualError from None
        raise _damaged(error) from None
    return pixels


def _is_padding(data: bytes, size: int) -> bool:
    """Return whether the last bytes before the end marker are padding and not pixels."""
    end = data.rfind(JPEG_END)
    return size <= MOST_PADDING and not data[end - size : end].strip(b"\0\xff")


def _from_cmyk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert CMYK to RGB as Pillow does: JPEGs of four channels hold inverted values, as Adobe writes them."""
    height, width, _ = pixels.shape
    inks = Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK;I", 0, 1)
    return np.asarray(inks.convert("RGB"))


# PNG. https://www.w3.org/TR/png-3


class _Png(NamedTuple):
    """The header chunk and the compressed pixels."""

    height: int
    width: int
    bits: int
    is_plain_gray: bool
    pixels: bytes


def _read_png(data: bytes) -> _Png | None:
    """Read the parts of a PNG and compare their checksums; None for a file that is no PNG."""
    if not data.startswith(PNG_START):
        return None
    chunks = list(_chunks(data))
    name, head = chunks[0]
    if name != b"IHDR" or len(head) != 13:
        raise OSError("the file is damaged (no header)")
    width, height, bits, color, _, _, interlace = struct.unpack(">IIBBBBB", head)
    _check_size(height, width, file=data)
    is_plain_gray = color == 0 and bits >= 8 and not interlace
    return _Png(height, width, bits, is_plain_gray, b"".join(content for kind, content in chunks if kind == b"IDAT"))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Generate the name and the content of each chunk; raises OSError for a wrong checksum."""
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


def _decode_gray_png(data: bytes, png: _Png) -> NDArray[np.integer]:
    decode = kornia.decode_image_png_u8 if png.bits == 8 else kornia.decode_image_png_u16
    try:
        values: NDArray[np.integer] = decode(data, (png.height, png.width), "mono")
        # kornia-rs does not compare the checksum of the pixels; libdeflate does, in a millisecond. It comes second,
        # because the other order takes up to 8 ms more for memory.
        deflate.zlib_decompress(png.pixels, png.height * (1 + png.width * png.bits // 8))
    except Exception as error:
        raise _damaged(error) from None
    return values[:, :, 0]


# All other files are decoded by Pillow.

# Pillow does not warn of the size of images with fewer pixels than this.
LARGE = 2**26
_pillow = threading.RLock()


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image with Pillow, which reads its head."""
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


def _refuse_claim(image: Image.Image, data: bytes) -> None:
    """Refuse a head that claims more pixels than the file can hold; WebP and the compressions of TIFF have no bound."""
    if image.format in ("BMP", "GIF", "PPM") or image.info.get("compression") == "raw":
        _check_size(image.height, image.width, file=data)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings and lift its own limit of pixels; both are global, hence the lock."""
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
    """Return the number of bits per channel, which Pillow's mode does not always state."""
    if image.format == "PNG":
        return data[len(PNG_START) + 16]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(TIFF_BITS, (1,))))
    return BITS.get(image.mode, 8)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the pixels in order to search the chunks behind them.
    with _quiet():
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _check_size(height: int, width: int, *, file: bytes = b"") -> None:
    """Refuse too many pixels, and more than the bytes of a whole file can stand for, before they take memory."""
    if not 0 < height * width <= MOST_PIXELS:
        raise OSError(f"the image has {height} x {width} pixels, expected 1 to {MOST_PIXELS}")
    if file and height * width > PIXELS_PER_BYTE * len(file):
        raise OSError(TRUNCATED)


def _damaged(error: Exception) -> OSError:
    """Return an OSError with the plain reason for a decoder's error."""
    message = str(error).removeprefix("Corrupt JPEG data: ")
    if re.search("truncated|premature end|end of file", message, re.IGNORECASE):
        return OSError(TRUNCATED)
    return OSError(f"the file is damaged ({message})")
