"""Decoding is compared with Pillow and with the arrays that the files were made of."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from segline.data import decoding
from segline.data.boxes import Box
from segline.data.decoding import Header, decode_image, decode_label, read_header

PNG_START = b"\x89PNG\r\n\x1a\n"


def pixels(height, width, channels=3):
    """Smooth colours with some noise, so that neighbouring blocks of a JPEG differ."""
    rng = np.random.default_rng([height, width, channels])
    y, x, channel = np.mgrid[:height, :width, :channels]
    return ((3 * y + 2 * x + 40 * channel + rng.integers(0, 60, y.shape)) % 256).astype(np.uint8)


def save(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def image_file(mode, kind, size=(21, 34), **options):
    image = Image.fromarray(pixels(*size, 4 if mode in ("CMYK", "RGBA") else 3), "CMYK" if mode == "CMYK" else None)
    return save(image.convert(mode), kind, **options)


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(lines, bits, colour, *, width, interlace=0, stream=None):
    """A PNG of lines (filter type and bytes) or of a compressed stream."""
    head = struct.pack(">IIBBBBB", width, len(lines), bits, colour, 0, 0, interlace)
    stream = zlib.compress(lines.tobytes()) if stream is None else stream
    palette = chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    return PNG_START + chunk(b"IHDR", head) + palette + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def interlaced(values):
    """A grey Adam7 PNG."""
    height, width = values.shape
    lines = [
        bytes([0]) + row.astype(f">u{values.itemsize}").tobytes()
        for top, left, down, right in (
            *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
        )
        for row in values[top::down, left::right]
        if len(row)
    ]
    stream = zlib.compress(b"".join(lines))
    return png(np.zeros((height, 0)), 8 * values.itemsize, 0, width=width, interlace=1, stream=stream)


JPEGS = {
    f"{mode}-{subsampling}-{'progressive' if progressive else 'baseline'}{'-restarts' if restarts else ''}": (
        mode,
        {"subsampling": subsampling, "progressive": progressive, "restart_marker_rows": restarts},
    )
    for mode, subsamplings in {"RGB": (0, 1, 2), "L": (-1,), "CMYK": (0, 2)}.items()
    for subsampling in subsamplings
    for progressive in (False, True)
    for restarts in (0, 1)
}


@pytest.fixture(params=JPEGS.values(), ids=JPEGS.keys(), scope="module")
def jpeg_kind(request):
    mode, options = request.param
    return lambda *size: image_file(mode, "JPEG", size, quality=90, **options)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (16, 16), (37, 53)])
def test_a_jpeg_is_decoded_as_by_pillow(jpeg_kind, size):
    data = jpeg_kind(*size)
    # Their versions of libjpeg-turbo may round differently.
    np.testing.assert_allclose(decode_image(data).astype(int), by_pillow(data), atol=1)


def test_a_box_of_a_jpeg_is_the_same_part_of_the_whole(jpeg_kind):
    data = jpeg_kind(331, 76)
    whole = decode_image(data)
    assert whole.shape == (331, 76, 3)
    for top in (0, 1, 7, 15, 16, 63, 64, 190, 250, 330):
        for height in (1, 2, 16, 31, 331 - top):
            box = Box(top, 5, min(height, 331 - top), 60)
            part = decode_image(data, box=box)
            assert np.array_equal(part, whole[top : top + box.height, 5:65])
            assert part.base is None


@pytest.mark.parametrize("subsampling", ["444", "440", "422", "420", "411"])
def test_any_row_of_a_jpeg(subsampling):
    data = simplejpeg.encode_jpeg(pixels(90, 40), quality=95, colorsubsampling=subsampling)
    whole = decode_image(data)
    np.testing.assert_allclose(whole.astype(int), by_pillow(data), atol=1)
    for top in range(90):
        assert np.array_equal(decode_image(data, box=Box(top, 0, 1, 40)), whole[top : top + 1])


def test_the_rows_below_a_box_are_not_decoded():
    data = bytearray(image_file("RGB", "JPEG", (600, 64)))
    whole, box = decode_image(bytes(data)), Box(0, 0, 100, 64)
    data[len(data) * 3 // 4 : -2] = bytes(len(data) - 2 - len(data) * 3 // 4)
    assert np.array_equal(decode_image(bytes(data), box=box), whole[:100])
    with pytest.raises(OSError, match=r"truncated|damaged"):
        decode_image(bytes(data))


def in_three_scans(planes):
    """A baseline JPEG that stores each colour in a scan of its own; made of three grey ones."""
    grey = [save(Image.fromarray(plane), "JPEG", quality=90) for plane in np.moveaxis(planes, 2, 0)]
    frame, tables, scan = (grey[0].index(bytes([0xFF, marker])) for marker in (0xC0, 0xC4, 0xDA))
    colours = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    whole = (
        grey[0][:frame] + b"\xff\xc0\0\x11" + grey[0][frame + 4 : frame + 9] + b"\3" + colours + grey[0][tables:scan]
    )
    for number, data in enumerate(grey, 1):
        pixels = data.index(b"\xff\xda") + 10
        whole += b"\xff\xda\0\x08\x01" + bytes([number]) + b"\0\0\x3f\0" + data[pixels:-2]
    return whole + b"\xff\xd9"


def test_a_box_of_a_jpeg_in_several_scans():
    data = in_three_scans(pixels(300, 50))
    whole = decode_image(data)
    np.testing.assert_allclose(whole.astype(int), by_pillow(data), atol=1)
    assert np.array_equal(decode_image(data, box=Box(7, 8, 40, 40)), whole[7:47, 8:48])
    with pytest.raises(OSError, match=r"^the file is truncated$"):
        decode_image(data[:-40], box=Box(7, 8, 40, 40))


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 16), (90, 71)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_reduced_image_is_about_that_of_averages(kind, size, reduce):
    data = image_file("RGB", kind, size, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    reduced = decode_image(data, reduce=reduce)
    averages = np.asarray(Image.fromarray(decode_image(data)).reduce(reduce)).astype(int)
    assert reduced.shape == averages.shape
    if min(size) >= reduce:
        inner = np.s_[: size[0] // reduce, : size[1] // reduce]
        assert np.abs(reduced[inner] - averages[inner]).mean() < 4


@pytest.mark.parametrize("box", [None, Box(20, 10, 40, 50)])
def test_padding_after_the_pixels_of_a_jpeg_is_no_damage(box):
    data = image_file("RGB", "JPEG", (120, 90))
    padded = data[:-2] + bytes(60) + data[-2:]
    assert np.array_equal(decode_image(padded, box=box), decode_image(data, box=box))
    for left in (b"abc" + bytes(57), bytes(600)):
        with pytest.raises(OSError, match=r"damaged \(\d+ extraneous bytes"):
            decode_image(data[:-2] + left + data[-2:])


@pytest.mark.parametrize("options", [{}, {"box": Box(0, 0, 20, 20)}, {"reduce": 8}])
def test_a_truncated_jpeg_is_an_error(jpeg_kind, options):
    for data in (jpeg_kind(200, 40), jpeg_kind(17, 33)):
        for part in (0.01, 0.3, 0.6, 0.9, -3, -2, -1):
            with pytest.raises(OSError, match=r"^the file is truncated$"):
                decode_image(data[: int(len(data) * part) if part > 0 else part], **options)


@pytest.mark.parametrize("options", [{}, {"box": Box(0, 0, 150, 40)}])
def test_a_jpeg_that_ends_early_between_restart_marks_is_an_error(options):
    data = image_file("RGB", "JPEG", (200, 40), restart_marker_rows=1)
    for number in range(4):
        place = data.index(bytes([0xFF, 0xD0 + number]))
        with pytest.raises(OSError, match=r"^the file is (damaged|truncated)"):
            decode_image(data[:place] + bytes(30) + b"\xff\xd9", **options)


OTHERS = {
    "bmp": ("RGB", "BMP", {}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff-lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff-cmyk": ("CMYK", "TIFF", {}),
    "webp": ("RGB", "WEBP", {"lossless": True}),
    "webp-alpha": ("RGBA", "WEBP", {"lossless": True}),
    "ppm": ("RGB", "PPM", {}),
    "gif": ("P", "GIF", {}),
    "png": ("RGB", "PNG", {}),
    "png-grey": ("L", "PNG", {}),
    "png-grey-alpha": ("LA", "PNG", {}),
    "png-alpha": ("RGBA", "PNG", {}),
    "png-palette": ("P", "PNG", {}),
    "png-palette-transparent": ("P", "PNG", {"transparency": bytes([0, 100, 200])}),
    "png-grey-transparent": ("L", "PNG", {"transparency": 7}),
    "png-1-bit": ("1", "PNG", {}),
}


@pytest.mark.parametrize(("mode", "kind", "options"), OTHERS.values(), ids=OTHERS.keys())
def test_other_images_are_decoded_as_by_pillow(mode, kind, options, capfd):
    data = image_file(mode, kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA").convert("RGB"))
    expected = by_pillow(data) if mode == "CMYK" else expected
    decoded = decode_image(data)
    assert np.array_equal(decoded, expected)
    assert np.array_equal(decode_image(data, box=Box(3, 4, 10, 20)), decoded[3:13, 4:24])
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(OSError, match=r"^the (file|head of the file) is "):
            decode_image(data[: int(len(data) * part)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_16_bits_are_cut_to_the_upper_8(colour):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    upper = pixels(6, 7, channels)
    lines = np.zeros((6, 1 + 7 * channels * 2), np.uint8)
    lines[:, 1::2], lines[:, 2::2] = upper.reshape(6, -1), 99
    expected = upper[..., :3] if channels > 2 else np.repeat(upper[..., :1], 3, axis=2)
    assert np.array_equal(decode_image(png(lines, 16, colour, width=7)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (23, 31)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "interlaced PNG"])
def test_a_label_is_its_values(dtype, size, kind):
    values = np.random.default_rng(size).integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
    data = interlaced(values) if kind == "interlaced PNG" else save(Image.fromarray(values), kind)
    decoded = decode_label(data)
    assert decoded.dtype == dtype
    assert decoded.dtype.isnative
    assert np.array_equal(decoded, values)


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("width", [1, 5, 16])
def test_png_labels_of_any_depth_and_filter(bits, colour, width):
    rng = np.random.default_rng([bits, colour, width])
    if bits == 16 and colour == 3:
        pytest.skip("there are no such palettes")
    for _ in range(20):
        lines = rng.integers(0, 256, (9, 1 + -(-width * bits // 8))).astype(np.uint8)
        lines[:, 0] = rng.integers(0, 5, 9)
        data = png(lines, bits, colour, width=width)
        decoded = decode_label(data)
        assert decoded.dtype == (np.uint16 if bits == 16 else np.uint8)
        with Image.open(io.BytesIO(data)) as image:
            stretch = 255 // (2**bits - 1) if image.mode == "L" else 1
            assert np.array_equal(decoded, np.asarray(image) // stretch)


def test_a_transparent_value_of_a_label_is_a_value():
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decode_label(save(Image.fromarray(values), "PNG", transparency=7)), values)


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("P", "BMP"), ("1", "PNG"), ("1", "TIFF")])
def test_palette_indices_and_bits_are_values(mode, kind):
    values = (np.arange(60).reshape(6, 10) % 2).astype(np.uint8)
    image = Image.fromarray(values)
    image.putpalette([9, 9, 9, 200, 0, 0])
    data = save(image if mode == "P" else Image.fromarray(values.astype(bool)), kind)
    assert np.array_equal(decode_label(data), values)


def test_whole_numbers_of_32_bits_must_fit_16():
    values = np.array([[0, 65535]], np.int32)
    decoded = decode_label(save(Image.fromarray(values), "TIFF"))
    assert decoded.dtype == np.uint16
    assert np.array_equal(decoded, values)
    for beyond in (values + 1, values - 1):
        with pytest.raises(OSError, match="expected 0 to 65535"):
            decode_label(save(Image.fromarray(beyond), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "kind", "reason"),
    [
        ("F", "TIFF", "the label map has float values, expected whole numbers"),
        ("RGB", "PNG", r"the label map has 3 channels \(RGB\), expected 1"),
        ("LA", "PNG", r"the label map has 2 channels \(LA\), expected 1"),
        ("RGBA", "PNG", r"the label map has 4 channels \(RGBA\), expected 1"),
        ("RGB", "JPEG", r"the label map has 3 channels \(RGB\), expected 1"),
    ],
)
def test_a_label_has_one_channel_of_whole_numbers(mode, kind, reason):
    with pytest.raises(OSError, match=f"^{reason}$"):
        decode_label(image_file(mode, kind))


@pytest.fixture(params=["8 bits", "16 bits", "RGB", "palette", "interlaced"])
def png_file(request):
    if request.param == "16 bits":
        return save(Image.fromarray(pixels(50, 60, 1)[..., 0] * np.uint16(1000)), "PNG")
    if request.param == "interlaced":
        return interlaced(pixels(50, 60, 1)[..., 0])
    return image_file({"8 bits": "L", "palette": "P"}.get(request.param, "RGB"), "PNG")


@pytest.mark.parametrize("decode", [decode_image, decode_label])
def test_a_truncated_png_is_an_error(png_file, decode):
    for size in (8, 20, 33, 50, len(png_file) // 2, len(png_file) - 20, len(png_file) - 12, len(png_file) - 1):
        with pytest.raises(OSError, match=r"^the file is truncated$"):
            decode(png_file[:size])


@pytest.mark.parametrize("decode", [decode_image, decode_label])
def test_any_changed_byte_of_a_png_is_noticed(png_file, decode):
    for place in np.random.default_rng(0).integers(8, len(png_file), 100):
        changed = bytearray(png_file)
        changed[place] ^= 1 << place % 8
        with pytest.raises(OSError, match=r"^the file is (damaged|truncated)"):
            decode(bytes(changed))


@pytest.mark.parametrize("decode", [decode_image, decode_label])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_wrong_sum_of_the_pixels_is_noticed_where_the_chunk_is_right(decode, bits):
    lines = np.arange(3 * (1 + 4 * bits // 8), dtype=np.uint8).reshape(3, -1)
    lines[:, 0] = 0
    stream = bytearray(zlib.compress(lines.tobytes()))
    assert decode(png(lines, bits, 0, width=4)).shape[:2] == (3, 4)
    stream[-1] ^= 1
    with pytest.raises(OSError, match=r"^the file is damaged"):
        decode(png(lines, bits, 0, width=4, stream=bytes(stream)))
    with pytest.raises(OSError, match=r"^the file is (damaged|truncated)"):
        decode(png(lines, bits, 0, width=4, stream=zlib.compress(lines.tobytes()[:-1])))


READERS = {"image": decode_image, "label": decode_label, "header": read_header}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"just text, renamed to a.jpg\n" * 100, "the file is not an image"),
        (b"<svg></svg>", "the file is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the file is not an image"),
        (b"\xff\xd8", "the file is truncated|the head of the file is damaged"),
        (
            b"\xff\xd8\xff\xe0" + b"text" * 9,
            "the file is truncated|the head of the file is damaged|the file is damaged.*",
        ),
        (b"\xff\xd8not a JPEG, though it begins like one", "the file is damaged.*|the head of the file is damaged"),
        (PNG_START, "the file is truncated|the head of the file is damaged"),
    ],
)
def test_what_is_no_image_is_said_plainly(read, data, reason, recwarn):
    with pytest.raises(OSError, match=f"^({reason})$"):
        read(data)
    assert not recwarn


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(("width", "reason"), [(2**20, "1024 x 1048576 pixels"), (0, "pixels|damaged")])
def test_too_large_and_empty_images_are_refused(read, width, reason):
    head = struct.pack(">IIBBBBB", width, 2**10 + (width > 0), 8, 0, 0, 0, 0)
    data = PNG_START + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(OSError, match=reason.replace("1024", "1025")):
        read(data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_the_limit_of_pillow_does_not_count(kind, monkeypatch, recwarn):
    data = image_file("L", kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(decoding, "LARGE", 9)
    assert read_header(data).width == 34
    assert decode_image(data).shape == (21, 34, 3)
    assert decode_label(data).shape == (21, 34)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert not recwarn


HEADERS = {
    "jpeg": (("RGB", "JPEG", {}), Header("JPEG", 21, 34, 3, 8, mode="RGB", orientation=1)),
    "grey jpeg": (("L", "JPEG", {}), Header("JPEG", 21, 34, 1, 8, mode="L", orientation=1)),
    "cmyk jpeg": (("CMYK", "JPEG", {}), Header("JPEG", 21, 34, 4, 8, mode="CMYK", orientation=1)),
    "png": (("RGBA", "PNG", {}), Header("PNG", 21, 34, 4, 8, mode="RGBA", orientation=1)),
    "grey-alpha png": (("LA", "PNG", {}), Header("PNG", 21, 34, 2, 8, mode="LA", orientation=1)),
    "palette png": (("P", "PNG", {}), Header("PNG", 21, 34, 1, 8, mode="P", orientation=1)),
    "1-bit png": (("1", "PNG", {}), Header("PNG", 21, 34, 1, 1, mode="1", orientation=1)),
    "16-bit png": (("I;16", "PNG", {}), Header("PNG", 21, 34, 1, 16, mode="I;16", orientation=1)),
    "float tiff": (("F", "TIFF", {}), Header("TIFF", 21, 34, 1, 32, mode="F", orientation=1)),
    "16-bit tiff": (("I;16", "TIFF", {}), Header("TIFF", 21, 34, 1, 16, mode="I;16", orientation=1)),
    "1-bit tiff": (("1", "TIFF", {}), Header("TIFF", 21, 34, 1, 1, mode="1", orientation=1)),
    "bmp": (("RGB", "BMP", {}), Header("BMP", 21, 34, 3, 8, mode="RGB", orientation=1)),
    "webp": (("RGB", "WEBP", {}), Header("WEBP", 21, 34, 3, 8, mode="RGB", orientation=1)),
}


@pytest.mark.parametrize(("file", "header"), HEADERS.values(), ids=HEADERS.keys())
def test_the_header_tells_size_and_kind(file, header):
    mode, kind, options = file
    if mode == "I;16":
        data = save(Image.fromarray(np.zeros((21, 34), np.uint16)), kind)
    else:
        data = image_file(mode, kind, **options)
    assert read_header(data) == header


def test_the_header_of_16_bit_colours():
    lines = np.zeros((2, 1 + 3 * 6), np.uint8)
    assert read_header(png(lines, 16, 2, width=3)) == Header("PNG", 2, 3, 3, 16, mode="RGB", orientation=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_header_tells_the_orientation_and_images_keep_theirs(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = image_file("RGB", kind, exif=exif)
    assert read_header(data).orientation == 6
    assert decode_image(data).shape == (21, 34, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_head_suffices_for_the_header(kind):
    data = image_file("RGB", kind, (200, 300))
    assert read_header(data[:1000]) == read_header(data)
    assert len(data) > 10_000


def claiming(kind):
    """A small file of this kind whose head claims 20000 x 20000 px."""
    size = 20_000
    data = bytearray(save(Image.fromarray(pixels(8, 8)), kind))
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", size, size)
    elif kind == "PPM":
        data = data.replace(b"8 8", b"%d %d" % (size, size))
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", size, size)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", size, size)
    elif kind == "TIFF":
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in data else -1
            kind_of, at = ("<I", at) if at >= 0 else ("<H", data.index(struct.pack("<HHI", tag, 3, 1)))
            data[at + 8 : at + 8 + struct.calcsize(kind_of)] = struct.pack(kind_of, size)
    else:
        data = bytearray(PNG_START + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)))
        data += chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return bytes(data)


@pytest.mark.parametrize("kind", ["BMP", "PPM", "GIF", "JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("decode", [decode_image, decode_label])
def test_a_head_that_claims_more_than_its_file_can_hold_takes_no_memory(kind, decode, monkeypatch):
    for decoder in ("_to_rgb", "_pixels", "_decode_gray_png"):
        monkeypatch.setattr(decoding, decoder, lambda *_: pytest.fail("the claimed pixels would be decoded"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("the claimed pixels would be decoded"))
    if kind == "JPEG" and decode is decode_label:
        pytest.skip("a JPEG is no label map")
    with pytest.raises(OSError, match="truncated"):
        decode(claiming(kind))
