"""Crops of every kind are held against plain slices of the whole image and label map."""

import io

import numpy as np
import pytest
from PIL import Image

from segline.classes import IGNORED
from segline.config.sections import Label
from segline.data.boxes import Box
from segline.data.distances import DISTANCES, Truth
from segline.data.exclusions import Exclusions
from segline.data.layouts import LAYOUTS
from segline.data.sampling import Sampler
from segline.errors import DataError
from segline.files.trees import File

LAYOUT = LAYOUTS["wad"]()
LABEL_SPEC = LAYOUT.label_spec("")
ROW = {"key": "k", "group": "g", "image": "i", "label": "l", "slice_index": -1}


class Memory:
    """Files of this test."""

    where = "memory"

    def __init__(self, **files):
        self.content = files
        self.files = {name: File(len(data), "") for name, data in files.items()}

    def read(self, path):
        if path not in self.content:
            raise OSError("gone")
        return self.content[path]


def encoded(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def scene(height=50, width=70, seed=0):
    """A noisy image and a label map with unknown values, two cars, a person and background."""
    rng = np.random.default_rng(seed)
    raw = np.zeros((height, width), np.uint16)
    for value in (33_001, 33_002, 36_001, 60_000):
        top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
        raw[top : top + 8, left : left + 8] = value
    return rng.integers(0, 256, (height, width, 3), np.uint8), raw


def ids_of(raw):
    ids = {0: 0, 33: 1, 36: 4, 60: IGNORED}
    return np.vectorize(lambda value: ids[int(value) // 1000])(raw).astype(np.uint8)


def sample(image, raw, exclusions=None, seed=0, key="k", **settings):
    memory = Memory(i=encoded(image), l=encoded(raw))
    sampler = Sampler(
        memory,
        LAYOUT,
        LABEL_SPEC,
        Label(**{"sampling": "max_foreground", **settings}),
        exclusions or Exclusions(),
        seed=seed,
    )
    return sampler.crops(ROW | {"key": key})


def size_of(settings):
    size = settings["crop"]
    return tuple(size) if isinstance(size, list) else (size, size)


def check(crop, image, ids, size):
    """The crop is what lies at its corner, padded with black and ignored."""
    label, pixels = np.full(size, IGNORED, np.uint8), np.zeros((*size, 3), np.uint8)
    there = ids[crop.top : crop.top + size[0], crop.left : crop.left + size[1]]
    label[: there.shape[0], : there.shape[1]] = there
    pixels[: there.shape[0], : there.shape[1]] = image[crop.top : crop.top + size[0], crop.left : crop.left + size[1]]
    np.testing.assert_array_equal(crop.label, label)
    np.testing.assert_array_equal(crop.image, pixels)
    assert (crop.key, crop.group, crop.scale) == ("k", "g", 1.0)


CASES = [
    {"sampling": "max_foreground", "crop": 16},
    {"sampling": "max_foreground", "crop": 16, "crops_per_image": 3},
    {"sampling": "max_foreground", "crop": 64},
    {"sampling": "tiles", "crop": 32},
    {"sampling": "tiles", "crop": 24, "tile_overlap": 10},
    {"sampling": "tiles", "crop": 100},
    {"sampling": "random", "crop": 16, "crops_per_image": 5},
    {"sampling": "by_class", "crop": 16, "crops_per_image": 5},
    {"sampling": "center", "crop": 16},
    {"sampling": "max_foreground", "crop": [16, 40]},
    {"sampling": "max_foreground", "crop": [90, 20], "crops_per_image": 3},
    {"sampling": "tiles", "crop": [20, 50], "tile_overlap": 10},
    {"sampling": "random", "crop": [45, 16], "crops_per_image": 5},
    {"sampling": "by_class", "crop": [16, 90], "crops_per_image": 5},
    {"sampling": "center", "crop": [60, 20]},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_every_crop_is_what_lies_at_its_corner(settings, seed):
    image, raw = scene(seed=seed)
    crops = sample(image, raw, **settings)
    assert crops
    for crop in crops:
        check(crop, image, ids_of(raw), size_of(settings))


def test_tiles_cover_the_image():
    image, raw = scene()
    seen = np.zeros(raw.shape, bool)
    for crop in sample(image, raw, sampling="tiles", crop=24, tile_overlap=3):
        seen[crop.top : crop.top + 24, crop.left : crop.left + 24] = True
    assert seen.all()


def test_the_fullest_crops_take_the_objects_one_after_the_other():
    image, raw = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60), np.uint16)
    raw[2:12, 2:12], raw[40:46, 40:46] = 33_001, 36_001
    crops = sample(image, raw, sampling="max_foreground", crop=16, crops_per_image=4)
    assert [int((crop.label > 0).sum()) for crop in crops] == [100, 36]


def test_an_image_without_foreground_still_gives_a_crop():
    crops = sample(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint16), crop=16, crops_per_image=3)
    assert [(crop.top, crop.left) for crop in crops] == [(12, 12)]


@pytest.mark.parametrize("sampling", ["random", "by_class"])
def test_crops_that_are_drawn_follow_seed_and_key_alone(sampling):
    image, raw = scene()

    def corners(**given):
        crops = sample(image, raw, sampling=sampling, crop=16, crops_per_image=8, **given)
        return [(crop.top, crop.left) for crop in crops]

    assert corners() == corners()
    assert len({str(corners()), str(corners(seed=1)), str(corners(key="other"))}) == 3


def test_a_whole_frame_is_scaled_and_padded():
    image, raw = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint16)
    raw[:, 40:], image[:, 40:] = 33_001, 200
    [crop] = sample(image, raw, sampling="resize", crop=16)
    expected = np.full((16, 16), IGNORED)
    expected[:8] = [0] * 8 + [1] * 8
    np.testing.assert_array_equal(crop.label, expected)
    np.testing.assert_array_equal(crop.image[:8, :, 0], np.tile([0] * 8 + [200] * 8, (8, 1)))
    assert (crop.top, crop.left, crop.scale) == (0, 0, 5.0)


@pytest.mark.parametrize(("crop", "scale", "filled"), [([20, 80], 2.0, (20, 40)), ([60, 20], 4.0, (10, 20))])
def test_a_whole_frame_fills_one_side_of_a_rectangle(crop, scale, filled):
    image, raw = np.full((40, 80, 3), 200, np.uint8), np.zeros((40, 80), np.uint16)
    [found] = sample(image, raw, sampling="resize", crop=crop)
    expected = np.full(crop, IGNORED)
    expected[: filled[0], : filled[1]] = 0
    np.testing.assert_array_equal(found.label, expected)
    np.testing.assert_array_equal(found.image, np.where(expected[..., None] == 0, 200, [0, 0, 0]))
    assert found.scale == scale


def test_an_excluded_object_draws_no_crop_by_class():
    raw = np.zeros((40, 40), np.uint16)
    raw[:4, :4], raw[30:34, 30:34] = 33_001, 36_001
    exclusions = Exclusions(regions={"k": (Box(0, 0, 4, 4),)})
    crops = sample(np.zeros((40, 40, 3), np.uint8), raw, exclusions, sampling="by_class", crop=16, crops_per_image=20)
    assert all((crop.label == 4).any() for crop in crops)


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_what_is_excluded_is_ignored_and_draws_no_crop(settings):
    image, raw = scene()
    top, left = np.argwhere(raw == 33_001)[0].tolist()
    ids = ids_of(raw)
    ids[top : top + 9, left : left + 9] = IGNORED
    exclusions = Exclusions(regions={"k": (Box(top, left, 9, 9),)})
    crops = sample(image, raw, exclusions, **settings)
    for crop in crops:
        check(crop, image, ids, size_of(settings))
    if settings["sampling"] == "max_foreground" and settings.get("crops_per_image", 1) == 1:
        rows, columns = size_of(settings)
        foreground = (ids != 0) & (ids != IGNORED)
        fullest = max(
            foreground[row : row + rows, column : column + columns].sum()
            for row in range(max(50 - rows, 0) + 1)
            for column in range(max(70 - columns, 0) + 1)
        )
        assert int(((crops[0].label != 0) & (crops[0].label != IGNORED)).sum()) == fullest


KINDS = ["border", "signed", "touching"]


def crowd(seed):
    """Instances in patches of 4 px, of which many touch another of their class."""
    rng = np.random.default_rng(seed)
    image, _ = scene(seed=seed)
    patches = rng.choice(np.array([0, 0, 0, 33_001, 33_002, 36_001, 60_000], np.uint16), (13, 18))
    return image, np.kron(patches, np.ones((4, 4), np.uint16))[:50, :70]


def check_distances(crop, raw):
    """The maps are those of the crop's own class ids and of the raw values that they come from."""
    assert list(crop.distances) == KINDS
    truth = Truth(crop.label, raw, len(LABEL_SPEC.classes), LABEL_SPEC.background)
    for name in KINDS:
        np.testing.assert_array_equal(crop.distances[name], DISTANCES[name](truth))


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_distances_are_those_of_the_crop_and_of_its_instances(settings):
    image, raw = crowd(seed=1)
    size = size_of(settings)
    crops = sample(image, raw, **settings, distances=KINDS)
    plain = sample(image, raw, **settings)
    assert len(crops) == len(plain)
    for crop, before in zip(crops, plain, strict=True):
        values = np.full(size, 33_999, np.uint16)
        there = raw[crop.top : crop.top + size[0], crop.left : crop.left + size[1]]
        values[: there.shape[0], : there.shape[1]] = there
        check(crop, image, ids_of(raw), size)
        check_distances(crop, values)
        assert before.distances == {}


@pytest.mark.parametrize("side", [16, 35, 100])
def test_distances_of_a_whole_frame_are_those_of_the_scaled_instances(side):
    image, raw = crowd(seed=3)
    [crop] = sample(image, raw, sampling="resize", crop=side, distances=KINDS)
    sizes = [(length, round(length * side / max(raw.shape))) for length in raw.shape]
    rows, columns = (((np.arange(size) + 0.5) * length / size).astype(int) for length, size in sizes)
    scaled = raw[rows][:, columns]
    values = np.full((side, side), 33_999, np.uint16)
    values[: len(scaled)] = scaled
    np.testing.assert_array_equal(crop.label[: len(scaled)], ids_of(scaled))
    check_distances(crop, values)


def test_what_is_excluded_makes_no_contour_and_is_no_instance():
    image, raw = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint16)
    raw[:, 3], raw[:, 9], raw[:, 14] = 33_001, 33_002, 36_001
    exclusions = Exclusions(regions={"k": (Box(0, 8, 16, 3),)})
    [crop] = sample(image, raw, exclusions, crop=16, distances=KINDS)
    assert crop.distances["border"][0, 0, [2, 3, 6, 7, 12, 14]].tolist() == [0.5, 0.5, 2.5, 3.5, 1.5, 0.5]
    assert crop.distances["touching"][0, 0, [0, 4, 7]].tolist() == [16, 10, 10]


@pytest.mark.parametrize("missing", ["i", "l"])
def test_a_file_that_is_gone_is_one_line(missing):
    image, raw = scene()
    memory = Memory(
        **{name: data for name, data in {"i": encoded(image), "l": encoded(raw)}.items() if name != missing}
    )
    with pytest.raises(DataError, match="memory: pair k cannot be read any more"):
        Sampler(memory, LAYOUT, LABEL_SPEC, Label(sampling="max_foreground", crop=16)).crops(ROW)


def test_an_image_that_became_smaller_than_its_label_is_one_line():
    image, raw = scene()
    with pytest.raises(DataError, match="pair k cannot be read any more"):
        sample(image[:20, :20], raw, sampling="tiles", crop=16)
