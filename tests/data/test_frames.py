"""Frames are compared, pixel by pixel, with what Pillow and nibabel read from the very files."""

import io

import nibabel
import numpy as np
import pandas as pd
import pytest
from contours import distance_to_contour
from PIL import Image

from segline.artifacts.dataset import pack_file
from segline.classes import LabelClass
from segline.config.sections import Frames as FrameSettings
from segline.config.sections import Label
from segline.data.boxes import Box
from segline.data.encoding import encode_png
from segline.data.exclusions import Exclusions
from segline.data.frames import write_pack
from segline.data.layouts import LAYOUTS, LabelSpec
from segline.data.layouts.layout import build_lut
from segline.data.parts import join_parts
from segline.data.reading import open_split
from segline.data.sampling import Sampler
from segline.errors import DataError, StageError
from segline.files.trees import Folder

CLASSES = tuple(LabelClass(name, (number, 0, 0)) for number, name in enumerate("abc"))
SPEC = LabelSpec(CLASSES, 0, build_lut([(0, 0), (10, 1), (20, 1), (30, 2)]))
IDS = {0: 0, 10: 1, 20: 1, 30: 2, 40: 255}
SHAPES = [(37, 53), (37, 53), (64, 48), (20, 70)]


def row(key, image, label, slice_index=-1):
    return {"key": key, "image": image, "label": label, "slice_index": slice_index, "group": f"g{key}"}


def ids_of(raw):
    return np.vectorize(IDS.get)(raw).astype(np.uint8)


def picture(shape, seed):
    """A photograph's likeness: smooth colors with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(small)


def truth(shape, seed):
    """Patches of raw label values, of which 40 has no class."""
    rng = np.random.default_rng(seed)
    patches = rng.choice(np.array(list(IDS), np.uint8), (9, 9))
    rows, columns = (np.arange(length) * 9 // length for length in shape)
    return patches[rows][:, columns]


def write_image(folder, name, image, kind):
    path = folder / name
    pillow = Image.fromarray(image)
    if kind == "jpg":
        pillow.save(path.with_suffix(".jpg"), quality=90)
    elif kind == "palette":
        pillow.quantize(64).save(path.with_suffix(".png"))
    elif kind == "gray16":
        Image.fromarray((image[..., 0] * 257.0 - 3 * (image[..., 0] > 0)).astype(np.uint16)).save(
            path.with_suffix(".png")
        )
    elif kind == "alpha":
        pillow.convert("RGBA").save(path.with_suffix(".png"))
    else:
        pillow.save(path.with_suffix(f".{kind}"))
    return path.with_suffix(".jpg" if kind == "jpg" else f".{kind}" if kind in ("png", "tif", "bmp") else ".png").name


def pillow_rgb(path):
    """What any reader sees of an image: of 16 bits the upper 8."""
    image = Image.open(path)
    if image.mode.startswith("I"):
        return np.stack([np.asarray(image).astype(np.uint16) >> 8] * 3, axis=2).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


@pytest.fixture
def source(tmp_path):
    """A folder for the files of pairs."""
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def written(source, rows, layout="folders", spec=SPEC, exclusions=None, **settings):
    """The split that label makes of these pairs, two frames in a pack."""
    sampler = Sampler(Folder(source), LAYOUTS[layout](), spec, Label(**settings), exclusions or Exclusions())
    split = source.parent / "val"
    starts = range(0, len(rows), 2)
    for number, start in enumerate(starts):
        write_pack(split, number, map(sampler.frame, rows[start : start + 2]))
    pixels, digest = join_parts(split, len(starts))
    assert len(digest) == 64
    frames = open_split(source.parent, "val")
    counted = sum(np.bincount(frames.take([number])[1].ravel(), minlength=256) for number in range(len(rows)))
    np.testing.assert_array_equal(pixels, counted)
    return frames


def pairs(source, kind="png"):
    rows = []
    for number, shape in enumerate(SHAPES):
        image = write_image(source, f"i{number}", picture(shape, number), kind)
        Image.fromarray(truth(shape, number)).save(source / f"l{number}.png")
        rows.append(row(f"k{number}", image, f"l{number}.png"))
    return rows


@pytest.mark.parametrize("kind", ["jpg", "png", "palette", "gray16", "alpha", "tif", "bmp"])
def test_frames_hold_the_sources_pixels_and_bytes(source, kind):
    rows = pairs(source, kind)
    frames = written(source, rows)
    assert len(frames) == len(rows)
    packed = b"".join(pack_file(frames.folder, number).read_bytes() for number in range(2))
    for number, (entry, shape) in enumerate(zip(rows, SHAPES, strict=True)):
        images, labels = frames.take([number])
        assert frames.shape(number) == shape == labels.shape[1:]
        np.testing.assert_array_equal(images[0], pillow_rgb(source / entry["image"]))
        np.testing.assert_array_equal(labels[0], ids_of(np.asarray(Image.open(source / entry["label"]))))
        assert (source / entry["image"]).read_bytes() in packed
        assert np.flatnonzero(frames.class_presence()[number]).tolist() == np.unique(labels[labels < 255]).tolist()
    assert frames.keys(range(4)) == ["k0", "k1", "k2", "k3"]
    assert frames.index["group"].tolist() == ["gk0", "gk1", "gk2", "gk3"]
    assert frames.index[["top", "left", "scale"]].eq([0, 0, 1]).all(axis=None)


def test_a_batch_has_frames_of_one_shape(source):
    frames = written(source, pairs(source))
    assert [list(positions) for positions in frames.ranges(8)] == [[0, 1], [2], [3]]
    images, labels = frames.take([1, 0])
    assert images.shape == (2, 37, 53, 3)
    np.testing.assert_array_equal(labels[1], ids_of(truth((37, 53), 0)))


def test_labels_of_a_palette_and_of_16_bits(source):
    raw = truth((24, 32), 3)
    palette = Image.fromarray(raw)
    palette.putpalette([value for value in range(256) for _ in range(3)])
    palette.save(source / "palette.png")
    Image.fromarray(raw.astype(np.uint16)).save(source / "wide.png")
    write_image(source, "i", picture(raw.shape, 3), "jpg")
    frames = written(source, [row("p", "i.jpg", "palette.png"), row("w", "i.jpg", "wide.png")])
    for labels in frames.take([0, 1])[1]:
        np.testing.assert_array_equal(labels, ids_of(raw))


def test_slices_of_a_volume_become_lossless_images(source):
    rng = np.random.default_rng(1)
    scan = rng.integers(-300, 400, (20, 16, 3)).astype(np.int16)
    organs = rng.integers(0, 5, (20, 16, 3)).astype(np.uint8)
    for name, values in {"scan": scan, "GT": organs}.items():
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1])), source / f"{name}.nii.gz")
    spec = LAYOUTS["segthor"]().label_spec("")
    rows = [row(f"s{number}", "scan.nii.gz", "GT.nii.gz", number) for number in range(3)]
    frames = written(source, rows, "segthor", spec)
    read = LAYOUTS["segthor"]()
    for number in range(3):
        images, labels = frames.take([number])
        np.testing.assert_array_equal(images[0], read.read_image(Folder(source), "scan.nii.gz", number))
        # Radiological: the file's first axis runs to the patient's left and its second one to the back.
        window = np.clip((scan[..., number].T + 160.0) / 400, 0, 1) * 255
        np.testing.assert_allclose(images[0], np.stack([window] * 3, axis=2), atol=1)
        np.testing.assert_array_equal(labels[0], organs[..., number].T)


@pytest.mark.parametrize("side", [40, 16])
def test_a_longer_frame_is_scaled(source, side):
    rows = pairs(source)
    frames = written(source, rows, frames=FrameSettings(max_side=side))
    for number, (height, width) in enumerate(SHAPES):
        longer = max(height, width)
        size = (round(width * side / longer), round(height * side / longer))
        image = Image.open(source / rows[number]["image"]).resize(size, Image.Resampling.BOX)
        images, labels = frames.take([number])
        np.testing.assert_array_equal(images[0], np.asarray(image))
        at = [
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip(size[::-1], (height, width), strict=True)
        ]
        np.testing.assert_array_equal(labels[0], ids_of(truth((height, width), number)[at[0]][:, at[1]]))
        assert frames.index["scale"][number] == longer / side


def test_a_frame_that_is_short_enough_keeps_its_bytes(source):
    rows = pairs(source, "jpg")
    frames = written(source, rows, frames=FrameSettings(max_side=64))
    packed = b"".join(pack_file(frames.folder, number).read_bytes() for number in range(2))
    assert [(source / entry["image"]).read_bytes() in packed for entry in rows] == [True, True, True, False]
    assert frames.index["scale"].tolist() == [1, 1, 1, 70 / 64]


def test_excluded_regions_are_ignored(source):
    rows = pairs(source)
    frames = written(source, rows, exclusions=Exclusions(regions={"k2": (Box(5, 6, 30, 10),)}))
    expected = ids_of(truth(SHAPES[2], 2))
    expected[5:35, 6:16] = 255
    np.testing.assert_array_equal(frames.take([2])[1][0], expected)
    np.testing.assert_array_equal(frames.take([3])[1][0], ids_of(truth(SHAPES[3], 3)))


@pytest.mark.parametrize("side", [0, 40])
def test_distances_are_those_of_the_whole_frame(source, side):
    frames = written(source, pairs(source), distances=["border", "signed"], frames=FrameSettings(max_side=side))
    for number in range(len(SHAPES)):
        (label,) = frames.take([number])[1]
        maps = frames.take_distances(["signed", "border"], [number])
        assert maps["border"].shape == (1, 1, *label.shape)
        assert maps["signed"].shape == (1, 3, *label.shape)
        border = distance_to_contour(label)
        np.testing.assert_allclose(maps["border"][0, 0], border, rtol=2**-11)
        for class_id, signed in enumerate(maps["signed"][0]):
            inside = label == class_id
            np.testing.assert_array_equal(signed[inside], -maps["border"][0, 0][inside])
            assert (signed[~inside] >= 0).all()


def test_a_kind_of_distances_that_is_not_there_is_named(source):
    frames = written(source, pairs(source), distances=["border"])
    with pytest.raises(StageError, match=r"label\.distances lacks 'touching'"):
        frames.take_distances(["border", "touching"], [0])


@pytest.mark.parametrize("fault", ["gone", "cut off", "smaller", "no image"])
def test_a_pair_that_cannot_be_read_any_more_is_one_line(source, fault):
    entry = pairs(source, "jpg")[0]
    path = source / entry["image"]
    data = path.read_bytes()
    if fault == "gone":
        path.unlink()
    elif fault == "smaller":
        write_image(source, "i0", picture((36, 53), 0), "jpg")
    else:
        path.write_bytes(data[: len(data) // 2] if fault == "cut off" else b"hello")
    with pytest.raises(DataError, match="pair k0 cannot be read any more") as raised:
        written(source, [entry])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", ["shorter", "longer", "gone", "no index", "index of others"])
def test_a_broken_pack_is_refused(source, fault):
    folder = written(source, pairs(source)).folder
    path = pack_file(folder, 1)
    if fault == "gone":
        path.unlink()
    elif fault == "no index":
        (folder / "index.csv").unlink()
    elif fault == "index of others":
        pd.DataFrame({"key": ["a"]}).to_csv(folder / "index.csv")
    else:
        path.write_bytes(path.read_bytes()[:-1] if fault == "shorter" else path.read_bytes() + b"x")
    with pytest.raises(StageError, match="lacks packs or has a broken one; run `segline label` again"):
        open_split(folder.parent, "val")


def test_a_damaged_frame_is_named(source):
    frames = written(source, pairs(source))
    path = pack_file(frames.folder, 0)
    data = bytearray(path.read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    with pytest.raises(StageError, match=r"the frame k0 cannot be read .*; run `segline label` again"):
        frames.take([0])
    assert frames.take([1])[0].shape == (1, 37, 53, 3)


def test_crops_that_label_did_not_write_are_named(tmp_path):
    with pytest.raises(StageError, match=r"val_crops is missing: .* run `segline label` again"):
        open_split(tmp_path, "val_crops")


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 9), (33, 50), (5, 8, 3), (300, 2, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("content", ["noise", "constant"])
def test_any_reader_decodes_what_is_encoded(shape, kind, content):
    if len(shape) == 3 and kind is np.uint16:
        kind = np.uint8
    rng = np.random.default_rng(0)
    values = (
        rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
        if content == "noise"
        else np.full(shape, 7, kind)
    )
    data = encode_png(values)
    assert data == encode_png(np.asfortranarray(values))
    image = Image.open(io.BytesIO(data))
    image.load()
    decoded = np.asarray(image.convert("RGB") if len(shape) == 3 else image)
    np.testing.assert_array_equal(decoded, values)
    assert (image.mode == "RGB") == (len(shape) == 3 and content == "noise")
