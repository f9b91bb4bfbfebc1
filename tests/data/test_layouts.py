"""Layouts are tried on small trees, value by value, and on real files where they are at hand."""

import gzip
import io
import itertools
import pickle
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import nibabel
import numpy as np
import pytest
from PIL import Image

from segline.classes import IGNORED
from segline.data.boxes import Box
from segline.data.layouts import LAYOUTS, UNKNOWN, Pair
from segline.data.layouts.folders import pack
from segline.errors import DataError
from segline.files.trees import File, Folder

REAL = Path(__file__).parents[3] / "shared" / "data"
SUFFIX = "_instanceIds.png"
CLASSES_YAML = "classes: {background: 0, thing: [1, 2]}\nbackground: background\nignored: 255\n"


def needs(folder):
    return pytest.mark.skipif(not (REAL / folder).is_dir(), reason=f"the real data {REAL / folder} are not here")


@dataclass(eq=False)
class Memory:
    """A tree without a disk; it remembers what was read."""

    contents: dict[str, bytes]
    where: str = "memory:"
    reads: list[str] = field(default_factory=list)

    @property
    def files(self):
        return {path: File(len(data), "") for path, data in sorted(self.contents.items())}

    def read(self, path):
        self.reads.append(path)
        if path not in self.contents:
            raise FileNotFoundError(path)
        return self.contents[path]

    def head(self, path, size):
        return self.contents[path][:size]

    def checksum(self, path):
        return path


def png(values):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(stream, "PNG")
    return stream.getvalue()


def nifti(values, affine=None, *, zipped=True):
    data = nibabel.Nifti1Image(np.asarray(values), np.eye(4) if affine is None else affine).to_bytes()
    return gzip.compress(data) if zipped else data


GREY = png(np.full((4, 6), 1, np.uint8))
PHOTO = png(np.full((4, 6, 3), 77, np.uint8))
SCAN = nifti(np.zeros((4, 5, 3), np.int16))
ORGANS = nifti(np.ones((4, 5, 3), np.uint8))


def listed(name, lines):
    return {name: "".join(f"{line}\n" for line in lines).encode()}


@dataclass(frozen=True)
class Example:
    """A small tree of a layout: where a name's image and label lie, and what else belongs to it."""

    image: str
    label: str
    lists: object = lambda names: {}
    options: dict = field(default_factory=dict)
    more: tuple[str, ...] = ()
    """Further files of a label."""
    data: tuple[bytes, bytes] = (PHOTO, GREY)
    name: str = "ü b_000001_000002"
    """A name as awkward as the layout can have."""

    def files(self, *names):
        contents = dict(self.lists(names))
        for name in names:
            contents[self.image.format(name)] = self.data[0]
            contents |= {path.format(name): self.data[1] for path in (self.label, *self.more)}
        return contents


EXAMPLES = {
    "ade20k": Example("images/training/{}.jpg", "annotations/training/{}.png"),
    "camvid": Example(
        "train/{}.jpg",
        "trainannot/{}.png",
        lambda names: listed("train.txt", [f"train/{name}.jpg trainannot/{name}.png" for name in names]),
        name="ü_b",
    ),
    "cityscapes": Example("leftImg8bit/val/ü b/{}_leftImg8bit.png", "gtFine/val/ü b/{}_gtFine_labelIds.png"),
    "folders": Example("images/{}.jpg", "masks/{}.png", lambda names: {"classes.yaml": CLASSES_YAML.encode()}),
    "helen": Example(
        "images/{}.jpg",
        "labels/{0}/{0}_lbl00.png",
        lambda names: listed("exemplars.txt", [f"{number} , {name}" for number, name in enumerate(names)]),
        more=tuple(f"labels/{{0}}/{{0}}_lbl{number:02d}.png" for number in range(1, 11)),
    ),
    "lyft": Example("dataA/dataA/CameraRGB/{}.png", "dataA/dataA/CameraSeg/{}.png"),
    "segthor": Example("train/{0}/{0}.nii.gz", "train/{}/GT.nii.gz", data=(SCAN, ORGANS)),
    "voc": Example(
        "VOCdevkit/VOC2012/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/{}.png",
        lambda names: listed("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", names),
    ),
    "wad": Example("train_color/{}.jpg", f"train_label/{{}}{SUFFIX}", name="ü b_Camera_5"),
}
EVERY = pytest.mark.parametrize("kind", LAYOUTS)


def written(root, contents):
    for path, data in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return Folder(root)


def label_spec(kind, **options):
    return LAYOUTS[kind](**options).label_spec(CLASSES_YAML if kind == "folders" else "")


def find(kind, contents, **options):
    return LAYOUTS[kind](**options).find(Memory(contents))


def refusal(kind, tree, **options):
    """The one line with which a layout refuses a tree."""
    with pytest.raises(DataError) as caught:
        LAYOUTS[kind](**options).find(tree)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_layout_has_an_example():
    assert EXAMPLES.keys() == LAYOUTS.keys()


@EVERY
class TestEveryLayout:
    def test_the_table_knows_every_class_and_no_other(self, kind):
        known = label_spec(kind)
        ids = set(range(len(known.classes)))
        assert known.lut.shape == (2**16,)
        assert known.lut.dtype == np.uint8
        assert ids <= set(known.lut.tolist()) <= ids | {IGNORED, UNKNOWN}

    def test_names_and_colours_tell_the_classes_apart(self, kind):
        known = label_spec(kind)
        assert len(set(known.names)) == len({entry.color for entry in known.classes}) == len(known.classes)
        assert known.background is None or known.background in range(len(known.classes))

    @pytest.mark.parametrize("content", [[], ["README"], ["images/a.jpg", "labels/a.png"]])
    def test_a_folder_of_another_kind_is_refused_in_one_line(self, kind, content, tmp_path):
        tree = written(tmp_path, dict.fromkeys(content, b""))
        assert str(tmp_path) in refusal(kind, tree)

    def test_every_other_layout_is_refused_in_one_line(self, kind):
        for other, example in EXAMPLES.items():
            if other != kind:
                assert refusal(kind, Memory(example.files("a_1", "b_2")))

    def test_a_missing_partner_leaves_half_a_pair(self, kind):
        example = EXAMPLES[kind]
        for gone, side in [
            (example.label, "label"),
            (example.image, "image"),
            *((path, "label") for path in example.more),
        ]:
            contents = example.files("a_1", "b_2", "c_3")
            del contents[gone.format("b_2")]
            halves = [pair for pair in find(kind, contents) if "b_2" in pair.key]
            assert halves
            for pair in halves:
                other = "label" if side == "image" else "image"
                assert getattr(pair, side) == ""
                assert getattr(pair, other) == vars(example)[other].format("b_2")

    def test_awkward_names_are_found_on_a_disk(self, kind, tmp_path):
        example = EXAMPLES[kind]
        tree = written(tmp_path, example.files(example.name, "a_1"))
        paths = {(pair.image, pair.label) for pair in LAYOUTS[kind]().find(tree)}
        assert paths == {(example.image.format(name), example.label.format(name)) for name in (example.name, "a_1")}
        assert all("/" not in pair.key for pair in LAYOUTS[kind]().find(tree))

    def test_suffixes_may_be_capitals(self, kind):
        def raised(path):
            stem, dot, suffix = path.partition(".")
            return path if path.endswith((".txt", ".yaml")) else stem + dot + suffix.upper()

        lower = EXAMPLES[kind].files("a_1", "b_2")
        upper = {raised(path): data for path, data in lower.items()}
        if kind == "camvid":
            upper["train.txt"] = upper["train.txt"].replace(b".jpg", b".JPG").replace(b".png", b".PNG")
        assert [(pair.key, pair.group, pair.image, pair.label) for pair in find(kind, upper)] == [
            (pair.key, pair.group, raised(pair.image), raised(pair.label)) for pair in find(kind, lower)
        ]

    def test_pairs_are_sorted_and_no_image_is_read_to_find_them(self, kind):
        tree = Memory(EXAMPLES[kind].files("c_3", "a_1", "b_2"))
        keys = [pair.key for pair in LAYOUTS[kind]().find(tree)]
        assert keys == sorted(set(keys))
        assert all(path.endswith(".txt") for path in tree.reads)

    def test_files_are_read_through_any_tree_and_on_other_machines(self, kind):
        tree = Memory(EXAMPLES[kind].files("a_1"))
        layout = pickle.loads(cloudpickle.dumps(LAYOUTS[kind]()))
        pair = layout.find(tree)[0]
        image = layout.read_image(tree, pair.image, pair.slice_index)
        label = layout.read_label(tree, pair.label, pair.slice_index)
        assert image.dtype == np.uint8
        assert image.shape == (*label.shape, 3)
        assert label.dtype in (np.uint8, np.uint16)
        assert UNKNOWN not in label_spec(kind).lut[label]

    def test_every_file_of_a_label_is_named(self, kind):
        contents = EXAMPLES[kind].files("a_1")
        tree, layout = Memory(contents), LAYOUTS[kind]()
        pair = layout.find(tree)[0]
        layout.read_label(tree, pair.label, pair.slice_index)
        assert sorted(path for path in tree.reads if not path.endswith(".txt")) == sorted(
            layout.label_files(pair.label)
        )

    def test_damage_is_an_oserror(self, kind):
        layout = LAYOUTS[kind]()
        for data in (b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08", SCAN[:-9], SCAN[: len(SCAN) // 2]):
            tree = Memory(dict.fromkeys(EXAMPLES[kind].files("a_1"), data))
            path = EXAMPLES[kind].label.format("a_1")
            for read in (layout.read_image, layout.read_label):
                with pytest.raises(OSError, match=r"^.{5,150}$"):
                    read(tree, path, 0)


@pytest.mark.parametrize(
    ("kind", "name"), [("camvid", "train.txt"), ("wad", "train_video_list/drive.txt"), ("helen", "exemplars.txt")]
)
def test_a_list_that_is_no_text_is_refused(kind, name):
    contents = EXAMPLES[kind].files("a_1") | {name: b"\xff\xfe"}
    assert name in refusal(kind, Memory(contents))


@pytest.mark.parametrize("kind", ["ade20k", "cityscapes", "helen", "voc"])
def test_data_a_folder_deeper_are_found_but_not_twice(kind):
    contents = EXAMPLES[kind].files("a_1", "b_2")
    deeper = {f"data/set/{path}": data for path, data in contents.items()}
    assert [pair.key for pair in find(kind, deeper)] == ["a_1", "b_2"]
    assert "the folder of one" in refusal(kind, Memory(contents | deeper))


# WAD


def wad_files(*names):
    return EXAMPLES["wad"].files(*names)


def test_wad_pairs_by_name_and_groups_by_date_and_camera():
    names = ["171206_034559609_Camera_5", "170908_061502408_Camera_6", "170908_061502408_Camera_5"]
    assert find("wad", wad_files(*names, "170908_061559999_Camera_5")) == [
        Pair(key=name, image=f"train_color/{name}.jpg", label=f"train_label/{name}{SUFFIX}", group=group)
        for name, group in [
            ("170908_061502408_Camera_5", "170908_5"),
            ("170908_061502408_Camera_6", "170908_6"),
            ("170908_061559999_Camera_5", "170908_5"),
            ("171206_034559609_Camera_5", "171206_5"),
        ]
    ]


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_wad_groups_by_its_lists_first(slash):
    names = [f"170908_06150240{digit}_Camera_5" for digit in range(4)]
    contents = wad_files(*names)
    for drive, frames in {"road01_cam_5_video_1": names[:1], "road02_cam_5_video_7": names[1:3]}.items():
        lines = [
            f"..{slash}train_color{slash}{name}.jpg\t..{slash}train_label{slash}{name}{SUFFIX}\n" for name in frames
        ]
        contents |= listed(f"train_video_list/{drive}_image_list_train.txt", lines)
    groups = ["road01_cam_5_video_1", "road02_cam_5_video_7", "road02_cam_5_video_7", "170908_5"]
    assert [pair.group for pair in find("wad", contents)] == groups


# From the list of classes that came with the data set.
WAD_MOVABLE = {
    33: "car",
    34: "motorbicycle",
    35: "bicycle",
    36: "person",
    38: "truck",
    39: "bus",
    40: "tricycle",
}
WAD_RIDER = 37
WAD_BACKGROUND = (0, 1, 17, 49, 50, 65, 66, 67, 81, 82, 83, 84, 85, 86, 97, 98, 99, 100, 113, 255)


WAD_NAMES = label_spec("wad").names


def wad_class(raw):
    """The class of a raw value: class * 1000 + instance, or a bare id; a group is its class plus 128."""
    number = raw // 1000 if raw >= 1000 else raw
    if raw < 1000 and number - 128 in WAD_MOVABLE:
        number -= 128
    if number in WAD_MOVABLE:
        return WAD_NAMES.index(WAD_MOVABLE[number])
    return 0 if number in WAD_BACKGROUND else UNKNOWN


def test_every_wad_value_has_the_class_of_its_thousands():
    of_riders = {WAD_RIDER, WAD_RIDER + 128, *range(1000 * WAD_RIDER, 1000 * WAD_RIDER + 1000)}
    table = label_spec("wad").lut
    assert [raw for raw in range(2**16) if raw not in of_riders and table[raw] != wad_class(raw)] == []


@pytest.mark.parametrize("number", [*WAD_MOVABLE, WAD_RIDER])
def test_every_movable_thing_of_wad_is_known_alone_and_as_a_group(number):
    values = label_spec("wad").lut[[number * 1000, number * 1000 + 1, number * 1000 + 999, number, number + 128]]
    assert len(set(values)) == 1
    assert values[0] != UNKNOWN


# CamVid


def camvid_files(**lists):
    """``lists`` holds the frames of each split."""
    contents = {}
    for split, names in lists.items():
        contents |= listed(f"{split}.txt", [f"{split}/{name}.jpg {split}annot/{name}.png" for name in names])
        contents |= {f"{split}/{name}.jpg": PHOTO for name in names}
        contents |= {f"{split}annot/{name}.png": GREY for name in names}
    return contents


def test_camvid_keeps_the_official_split_and_groups_by_drive():
    contents = camvid_files(train=["0001TP_2", "0016E5_1"], val=["0001TP_1"], test=["Seq05VD_f1"])
    assert find("camvid", contents) == [
        Pair(key=key, image=f"{split}/{key}.jpg", label=f"{split}annot/{key}.png", group=group, split=split)
        for key, group, split in [
            ("0001TP_1", "0001TP", "val"),
            ("0001TP_2", "0001TP", "train"),
            ("0016E5_1", "0016E5", "train"),
            ("Seq05VD_f1", "Seq05VD", "test"),
        ]
    ]


def test_camvid_reads_the_lines_of_segnets_own_lists():
    contents = camvid_files(train=["0001TP_1", "0001TP_2"])
    before = find("camvid", contents)
    text = "\r\n\r\n".join(
        f"/SegNet/CamVid/train/{name}.jpg /SegNet/CamVid/trainannot/{name}.png" for name in ("0001TP_1", "0001TP_2")
    )
    assert find("camvid", contents | {"train.txt": text.encode()}) == before


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("train/a.jpg", "'train/a.jpg'"),
        ("train/a.jpg trainannot/a.png 1", "'train/a.jpg trainannot/a.png 1'"),
        ("train/b.jpg trainannot/b.png", "train/b.jpg"),
    ],
)
def test_camvid_refuses_a_line_that_is_no_pair(line, named):
    contents = camvid_files(train=["a"])
    contents["train.txt"] += line.encode()
    assert named in refusal("camvid", Memory(contents))


def test_every_camvid_value_is_its_class_and_11_is_void():
    table = label_spec("camvid").lut
    for raw in range(2**16):
        assert table[raw] == (raw if raw < 11 else IGNORED if raw == 11 else UNKNOWN), raw


# Cityscapes

CITYSCAPES_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def test_cityscapes_keeps_the_official_split_groups_by_city_and_leaves_dummies_out():
    contents = {}
    for split, city in [("val", "frankfurt"), ("train", "bad-honnef"), ("test", "berlin"), ("train_extra", "bonn")]:
        name = f"{city}_000000_000294"
        contents[f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"] = PHOTO
        contents[f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png"] = GREY
        contents[f"gtFine/{split}/{city}/{name}_gtFine_color.png"] = PHOTO
    assert [(pair.key, pair.group, pair.split) for pair in find("cityscapes", contents)] == [
        ("bad-honnef_000000_000294", "bad-honnef", "train"),
        ("frankfurt_000000_000294", "frankfurt", "val"),
    ]
    assert "labelTrainIds" in refusal("cityscapes", Memory(contents), labels="labelTrainIds")


@pytest.mark.parametrize("labels", ["labelIds", "instanceIds"])
def test_every_cityscapes_id_is_its_class_alone_and_with_instances(labels):
    names, table = label_spec("cityscapes").names, label_spec("cityscapes", labels=labels).lut
    class_of = dict.fromkeys(range(34), IGNORED) | {raw: names.index(name) for name, raw in CITYSCAPES_IDS.items()}
    expected = class_of | {1000 * raw + n: class_of[raw] for raw in range(24, 34) for n in (0, 1, 37, 999)}
    assert {raw: table[raw] for raw in expected} == expected
    assert table[255] == table[65535] == IGNORED
    assert {table[raw] for raw in (34, 254, 999, 34_000, 65_534)} == {UNKNOWN}


def test_every_training_id_of_cityscapes_is_its_class():
    table = label_spec("cityscapes", labels="labelTrainIds").lut
    assert table[:19].tolist() == list(range(19))
    assert set(table[19:255].tolist()) == {UNKNOWN}
    assert table[255] == IGNORED


@needs("formats/cityscapes")
def test_real_cityscapes_ids_and_instances_are_the_official_training_ids():
    tree = Folder(REAL / "formats" / "cityscapes")
    maps = {}
    for labels in ("labelIds", "instanceIds"):
        layout = LAYOUTS["cityscapes"](labels=labels)
        pairs = layout.find(tree)
        assert [pair.split for pair in pairs] == ["train", "train", "val"]
        maps[labels] = [layout.label_spec("").lut[layout.read_label(tree, pair.label, -1)] for pair in pairs]
    for by_id, by_instance in zip(*maps.values(), strict=True):
        np.testing.assert_array_equal(by_id, by_instance)
    trained = LAYOUTS["cityscapes"](labels="labelTrainIds")
    official = [pair.label for pair in trained.find(tree) if pair.label]
    assert [Path(path).name for path in official] == ["frankfurt_000000_000294_gtFine_labelTrainIds.png"]
    raw = np.asarray(Image.open(REAL / "formats" / "cityscapes" / official[0]))
    ids = np.asarray(Image.open(tree.root / official[0].replace("TrainIds", "Ids")))
    for value in np.unique(ids):
        # The two files were drawn apart: at borders, 77 px differ.
        assert np.bincount(raw[ids == value]).argmax() == maps["labelIds"][-1][ids == value][0]
    assert (raw != maps["labelIds"][-1]).sum() == 77
    np.testing.assert_array_equal(raw, trained.label_spec("").lut[trained.read_label(tree, official[0], -1)])


# VOC

VOC_LISTS = "ImageSets/Segmentation/"


def voc_files(labels, **lists):
    contents = {f"JPEGImages/{name}.jpg": PHOTO for names in lists.values() for name in names}
    contents |= {f"SegmentationClass/{name}.png": GREY for name in labels}
    for split, names in lists.items():
        contents |= listed(f"{VOC_LISTS}{split}.txt", names)
    return contents


def test_voc_keeps_its_lists_and_leaves_names_without_public_labels_out():
    contents = voc_files("abc", train=["a", "t"], val=["b"], test=["c", "d"], trainval=["a", "b", "t"])
    assert [(pair.key, pair.split, pair.group, pair.label) for pair in find("voc", contents)] == [
        ("a", "train", "a", "SegmentationClass/a.png"),
        ("b", "val", "b", "SegmentationClass/b.png"),
        ("c", "test", "c", "SegmentationClass/c.png"),
        ("t", "train", "t", ""),
    ]


def test_a_list_of_voc_that_is_wrong_is_refused():
    assert "names z" in refusal("voc", Memory(voc_files("a", train=["a"]) | listed(f"{VOC_LISTS}val.txt", ["z"])))
    assert "name a twice" in refusal("voc", Memory(voc_files("a", train=["a"], val=["a"])))
    assert "train.txt" in refusal("voc", Memory(voc_files("a", train=[])))


@pytest.mark.parametrize("more", [[], ["a", "e", "b"], ["/JPEGImages/e.jpg /SegmentationClassAug/e.png", "a"]])
def test_the_augmented_set_of_voc_trains_on_more_but_never_on_validation(more):
    contents = voc_files("ab", train=["a"], val=["b"])
    contents |= {f"JPEGImages/{name}.jpg": PHOTO for name in "abe"}
    contents |= {f"SegmentationClassAug/{name}.png": GREY for name in "abe"}
    contents |= listed(f"{VOC_LISTS}train_aug.txt", more) if more else {}
    assert [(pair.key, pair.split, pair.label) for pair in find("voc", contents, augmented=True)] == [
        ("a", "train", "SegmentationClassAug/a.png"),
        ("b", "val", "SegmentationClass/b.png"),
        ("e", "train", "SegmentationClassAug/e.png"),
    ]
    assert [pair.key for pair in find("voc", contents)] == ["a", "b"]
    assert "SegmentationClassAug" in refusal("voc", Memory(voc_files("a", train=["a"])), augmented=True)


@needs("formats/voc2012")
def test_real_voc_labels_are_values_and_their_palette_holds_our_colours():
    tree, layout = Folder(REAL / "formats" / "voc2012"), LAYOUTS["voc"]()
    pairs = layout.find(tree)
    assert [pair.split for pair in pairs] == ["train", "train", "val"]
    for pair in pairs:
        with Image.open(tree.root / pair.label) as image:
            palette, coloured = image.getpalette(), np.asarray(image.convert("RGB"))
        assert [entry.color for entry in layout.label_spec("").classes] == [
            tuple(palette[3 * index : 3 * index + 3]) for index in range(21)
        ]
        ids = layout.label_spec("").lut[layout.read_label(tree, pair.label, -1)]
        assert set(np.unique(ids).tolist()) <= {*range(21), IGNORED}
        shown = np.array([entry.color for entry in layout.label_spec("").classes])[np.where(ids == IGNORED, 0, ids)]
        np.testing.assert_array_equal(shown[ids != IGNORED], coloured[ids != IGNORED])


# ADE20K

# Rows of objectInfo150.txt.
ADE_ROWS = {1: "wall", 4: "floor", 13: "person", 21: "car", 45: "chest of drawers", 54: "stairs", 73: "palm"}
ADE_ROWS |= {88: "streetlight", 97: "escalator", 103: "van", 126: "pot", 140: "fan", 142: "crt screen", 150: "flag"}


def test_every_ade20k_value_is_its_row_and_0_is_ignored():
    known = label_spec("ade20k")
    assert len(known.classes) == 150
    assert known.lut[0] == IGNORED
    assert known.lut[1:151].tolist() == list(range(150))
    assert set(known.lut[151:].tolist()) == {UNKNOWN}
    assert {row: known.names[known.lut[row]] for row in ADE_ROWS} == ADE_ROWS


def test_ade20k_keeps_the_official_split():
    contents = {
        f"{folder}/{part}/ADE_{part}_1.{suffix}": PHOTO
        for part in ("training", "validation")
        for folder, suffix in [("images", "jpg"), ("annotations", "png")]
    }
    splits = {pair.key: pair.split for pair in find("ade20k", contents)}
    assert splits == {"ADE_training_1": "train", "ADE_validation_1": "val"}


@needs("formats/ade20k")
def test_real_ade20k_shows_what_its_pictures_show():
    tree, layout = Folder(REAL / "formats" / "ade20k"), LAYOUTS["ade20k"]()
    pairs, known = layout.find(tree), layout.label_spec("")
    seen = [
        {known.names[i] for i in np.unique(known.lut[layout.read_label(tree, pair.label, -1)]) if i != IGNORED}
        for pair in pairs
    ]
    assert [pair.split for pair in pairs] == ["val"] * 3
    assert seen[0] == {"wall", "building", "sky", "tree", "road", "grass", "plant"}
    assert {"bus", "van", "car", "escalator", "streetlight", "sidewalk"} <= seen[2]


# Lyft


@pytest.mark.parametrize("channels", [3, 4])
def test_a_lyft_label_is_the_red_channel(channels):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    read = LAYOUTS["lyft"]().read_label(Memory({"a.png": png(values)}), "a.png", -1)
    np.testing.assert_array_equal(read, values[:, :, 0])


def test_lyft_groups_by_drive_across_its_folders():
    frames = ["dataA/02_00_000", "dataB/02_00_031", "dataA/F61-12", "dataE/F61-1", "Train/7", "Train/123", "val/123"]
    contents = {
        f"{folder}/{camera}/{name}.png": PHOTO
        for folder, name in (frame.split("/") for frame in frames)
        for camera in ("CameraRGB", "CameraSeg")
    }
    assert {pair.key: (pair.group, pair.split) for pair in find("lyft", contents)} == {
        "dataA__02_00_000": ("02_00", ""),
        "dataB__02_00_031": ("02_00", ""),
        "dataA__F61-12": ("f61", ""),
        "dataE__F61-1": ("f61", ""),
        "Train__7": ("train frames 0 on", "train"),
        "Train__123": ("train frames 100 on", "train"),
        "val__123": ("val frames 100 on", "val"),
    }


@needs("formats/lyft_udacity")
def test_real_lyft_labels_are_its_13_values():
    tree, layout = Folder(REAL / "formats" / "lyft_udacity"), LAYOUTS["lyft"]()
    pairs = layout.find(tree)
    assert [pair.split for pair in pairs] == ["train", "train", "train", "val"]
    for pair in pairs:
        label = layout.read_label(tree, pair.label, -1)
        np.testing.assert_array_equal(label, np.asarray(Image.open(tree.root / pair.label))[:, :, 0])
        assert set(np.unique(layout.label_spec("").lut[label]).tolist()) == set(range(13))


# HELEN


def test_a_helen_label_is_the_likeliest_class():
    random = np.random.default_rng(0)
    masks = random.choice([0, 1, 100, 254, 255], (11, 6, 8)).astype(np.uint8)
    contents = {f"labels/a/a_lbl{number:02d}.png": png(mask) for number, mask in enumerate(masks)}
    read = LAYOUTS["helen"]().read_label(Memory(contents), "labels/a/a_lbl00.png", -1)
    for row, column in np.ndindex(6, 8):
        best = 0
        for number in range(11):
            if masks[number, row, column] > masks[best, row, column]:
                best = number
        assert read[row, column] == best


def test_helen_keeps_the_official_split_and_groups_by_photograph():
    contents = EXAMPLES["helen"].files("232194_1", "232194_2")
    more = EXAMPLES["helen"].files("99_1") | EXAMPLES["helen"].files("7_1")
    contents |= {path: data for path, data in more.items() if path != "exemplars.txt"}
    contents |= listed("tuning.txt", ["1 , 99_1"]) | listed("testing.txt", ["1,7_1"])
    assert [(pair.key, pair.group, pair.split) for pair in find("helen", contents)] == [
        ("232194_1", "232194", "train"),
        ("232194_2", "232194", "train"),
        ("7_1", "7", "test"),
        ("99_1", "99", "val"),
    ]


@pytest.mark.parametrize("number", [1, 5, 10])
def test_a_helen_mask_that_is_gone_or_of_another_size_is_an_oserror(number):
    contents = EXAMPLES["helen"].files("a")
    path = f"labels/a/a_lbl{number:02d}.png"
    for damaged in (
        contents | {path: png(np.zeros((3, 3), np.uint8))},
        {k: v for k, v in contents.items() if k != path},
    ):
        with pytest.raises(OSError, match=f"lbl{number:02d}"):
            LAYOUTS["helen"]().read_label(Memory(damaged), "labels/a/a_lbl00.png", -1)


# SegTHOR


def oriented(order, signs, shape=(4, 5, 3)):
    """An affine with these axes, the shape on them, and where each voxel is: right, front and up."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * (axis + 1.5)
        affine[world, 3] = 7 * sign
    own = tuple(shape[world] for world in order)
    voxels = np.stack(np.indices(own), -1).reshape(-1, 3)
    return affine, own, (voxels @ affine[:3, :3].T + affine[:3, 3]).reshape(*own, 3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)), ids=str)
def test_slices_stand_as_radiologists_see_them_whatever_the_axes_of_the_file(order, signs):
    affine, shape, places = oriented(order, signs)
    values = np.random.default_rng(0).permutation(60).reshape(shape).astype(np.int16)
    expected = np.zeros((3, 5, 4), int)
    coordinates = [sorted(set(places[..., world].ravel().tolist())) for world in range(3)]
    for index in np.ndindex(shape):
        right, front, up = (coordinates[world].index(places[(*index, world)]) for world in range(3))
        expected[up, 4 - front, 3 - right] = values[index]
    tree = Memory({"P/P.nii.gz": nifti(values, affine), "P/GT.nii.gz": nifti(values.astype(np.uint8), affine)})
    layout = LAYOUTS["segthor"](level=30, window=60)
    pairs = layout.find(tree)
    assert [(pair.key, pair.slice_index, pair.group) for pair in pairs] == [(f"P_00{z}", z, "P") for z in range(3)]
    for pair in pairs:
        np.testing.assert_array_equal(layout.read_label(tree, pair.label, pair.slice_index), expected[pair.slice_index])
        image = layout.read_image(tree, pair.image, pair.slice_index)
        assert image.shape == (5, 4, 3)
        for channel in range(3):
            np.testing.assert_array_equal(image[:, :, channel], np.rint(expected[pair.slice_index] / 60 * 255))


@pytest.mark.parametrize(("level", "window"), [(40, 400), (-600, 1500), (50, 1)])
def test_hounsfield_units_become_grey_by_the_window(level, window):
    units = np.arange(-1100, 1300, dtype=np.int16).reshape(40, 60, 1)
    scaled = bytearray(nifti((units + 1024) * 2, zipped=False))
    struct.pack_into("<2f", scaled, 112, 0.5, -1024)
    scaled = bytes(scaled)
    np.testing.assert_array_equal(nibabel.Nifti1Image.from_bytes(scaled).get_fdata(), units)
    greys = []
    for data in (nifti(units), scaled, nifti(units.astype(np.float32)), nifti(units, zipped=False)):
        read = LAYOUTS["segthor"](level=level, window=window).read_image(Memory({"a": data}), "a", 0)
        greys.append(read[::-1, ::-1, 0].T)
    for unit, *shown in zip(units.ravel().tolist(), *(grey.ravel().tolist() for grey in greys), strict=True):
        exact = min(max((unit - (level - window / 2)) / window, 0), 1) * 255
        assert all(abs(value - exact) <= 0.5 + 1e-3 for value in shown), unit


def test_a_part_and_a_reduction_of_a_slice():
    units = np.random.default_rng(0).integers(-200, 200, (24, 16, 2)).astype(np.int16)
    tree, read = Memory({"a": nifti(units)}), LAYOUTS["segthor"]().read_image
    whole = read(tree, "a", 1)
    np.testing.assert_array_equal(read(tree, "a", 1, box=Box(2, 3, 10, 12)), whole[2:12, 3:15])
    halved = read(tree, "a", 1, reduce=2)
    means = whole[..., 0].reshape(8, 2, 12, 2).mean((1, 3))
    assert halved.shape == (8, 12, 3)
    assert np.abs(halved[..., 0] - means).max() <= 0.5


def test_a_volume_is_decoded_once_for_all_its_slices_and_threads():
    tree = Memory(EXAMPLES["segthor"].files("P_1", "P_2"))
    layout = LAYOUTS["segthor"]()
    pairs = layout.find(tree)
    assert tree.reads == []
    with ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(len(pairs))

        def read(pair):
            barrier.wait()
            return layout.read_image(tree, pair.image, pair.slice_index), layout.read_label(
                tree, pair.label, pair.slice_index
            )

        assert len(list(pool.map(read, pairs))) == 6
    assert sorted(tree.reads) == sorted(EXAMPLES["segthor"].files("P_1", "P_2"))


@pytest.mark.parametrize("shape", [(4, 5, 2), (5, 4, 3)])
def test_volumes_of_different_size_are_refused(shape):
    data = nifti(np.zeros(shape, np.uint8))
    message = refusal("segthor", Memory(EXAMPLES["segthor"].files("P") | {"train/P/GT.nii.gz": data}))
    assert "train/P/GT.nii.gz" in message
    assert "4 x 5 x 3" in message


def test_volumes_that_lie_differently_are_refused():
    turned = nifti(np.ones((4, 5, 3), np.uint8), np.diag([-1, -1, 1, 1]))
    message = refusal("segthor", Memory(EXAMPLES["segthor"].files("P") | {"train/P/GT.nii.gz": turned}))
    assert "RAS" in message
    assert "LPS" in message


def test_test_patients_without_labels_are_left_out_and_others_are_the_test_split():
    contents = EXAMPLES["segthor"].files("P_1")
    contents |= {"test/P_2.nii.gz": SCAN, "test/P_3/P_3.nii.gz": SCAN}
    contents |= {"test/P_4/P_4.nii.gz": SCAN, "test/P_4/GT.nii.gz": ORGANS}
    found = {(pair.group, pair.split) for pair in find("segthor", contents)}
    assert found == {("P_1", ""), ("P_4", "test")}
    deeper = {f"SegTHOR/{path}": data for path, data in contents.items()}
    assert {(pair.group, pair.split) for pair in find("segthor", deeper)} == found


@pytest.mark.parametrize(
    "data", [b"", b"nothing", SCAN[:20], nifti(np.zeros((4, 5, 3, 2), np.int16))], ids=["empty", "text", "cut", "4-D"]
)
def test_a_patient_without_a_header_stands_as_pairs_that_cannot_be_read(data):
    contents = EXAMPLES["segthor"].files("P_1") | dict.fromkeys(EXAMPLES["segthor"].files("P_2"), data)
    contents["train/P_1/P_1.nii.gz"] = data
    layout, tree = LAYOUTS["segthor"](), Memory(contents)
    assert [pair.key for pair in layout.find(tree)] == ["P_1_000", "P_1_001", "P_1_002", "P_2_000"]
    for path in ("train/P_1/P_1.nii.gz", "train/P_2/GT.nii.gz"):
        with pytest.raises(OSError, match=r"^[^\n]{5,120}$"):
            layout.read_image(tree, path, 0)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_cut_and_no_flipped_header_byte_is_more_than_an_oserror(zipped):
    data = nifti(np.random.default_rng(0).integers(0, 99, (4, 5, 3)).astype(np.int16), zipped=False)
    layout = LAYOUTS["segthor"]()
    packed = (lambda raw: gzip.compress(raw, 1)) if zipped else bytes
    for cut in range(0, len(data), 7):
        with pytest.raises(OSError, match=r"."):
            layout.read_image(Memory({"a": packed(data)[:cut] if cut < len(packed(data)) else b""}), "a", 0)
        with pytest.raises(OSError, match=r"."):
            layout.read_image(Memory({"a": packed(data[:cut])}), "a", 0)
    messages = set()
    for at, value in itertools.product(range(348), [0x7F, 0xFF]):
        broken = packed(data[:at] + bytes([value]) + data[at + 1 :])
        contents = {"P/P.nii.gz": broken, "P/GT.nii.gz": broken}
        try:
            for pair in layout.find(Memory(contents))[:3]:
                layout.read_image(Memory(contents), pair.image, pair.slice_index)
                layout.read_label(Memory(contents), pair.label, pair.slice_index)
        except OSError as error:
            messages.add(str(error))
    assert all("\n" not in message and 5 < len(message) < 200 for message in messages)


def test_a_header_that_promises_terabytes_costs_none():
    data = bytearray(nifti(np.zeros((4, 5, 3), np.int16), zipped=False))
    struct.pack_into("<3h", data, 42, 32767, 32767, 32767)
    with pytest.raises(OSError, match="cut off"):
        LAYOUTS["segthor"]().read_image(Memory({"a": bytes(data)}), "a", 0)


@pytest.mark.parametrize("values", [[-1, 1], [0.5, 1], [70_000, 1], [np.nan, 1]])
def test_label_volumes_with_other_than_whole_numbers_are_an_oserror(values):
    data = nifti(np.resize(values, (4, 5, 3)).astype(np.float32))
    with pytest.raises(OSError, match="whole numbers"):
        LAYOUTS["segthor"]().read_label(Memory({"a": data}), "a", 0)


@needs("formats/segthor")
def test_a_real_scan_lies_on_its_back_and_its_body_is_where_its_label_is():
    tree, layout = Folder(REAL / "formats" / "segthor"), LAYOUTS["segthor"]()
    pairs = layout.find(tree)
    assert [pair.slice_index for pair in pairs] == list(range(30))
    for pair in pairs[::7]:
        image = layout.read_image(tree, pair.image, pair.slice_index)[..., 0]
        label = layout.read_label(tree, pair.label, pair.slice_index)
        assert image.shape == label.shape == (101, 122)
        assert image[label == 1].mean() > 5 * image[label == 0].mean()
        bright = np.argwhere(image == 255)
        assert bright[:, 0].mean() > 55, "the spine is below"


# Your own folders


def folders_files(*paths, suffix=".jpg"):
    contents = {f"images/{path}{suffix}": PHOTO for path in paths}
    return contents | {f"masks/{path}.png": GREY for path in paths} | {"classes.yaml": CLASSES_YAML.encode()}


def test_folders_group_by_the_first_sub_folder_and_split_by_train_val_test():
    paths = ["a", "d1/a", "d1/deep/a", "d2/a", "train/a", "train/d1/b", "val/c", "test/d3/deep/d"]
    assert {pair.image: (pair.key, pair.group, pair.split) for pair in find("folders", folders_files(*paths))} == {
        "images/a.jpg": ("a", "a", ""),
        "images/d1/a.jpg": ("d1__a", "d1", ""),
        "images/d1/deep/a.jpg": ("d1__deep__a", "d1", ""),
        "images/d2/a.jpg": ("d2__a", "d2", ""),
        "images/train/a.jpg": ("train__a", "train/a", "train"),
        "images/train/d1/b.jpg": ("train__d1__b", "d1", "train"),
        "images/val/c.jpg": ("val__c", "val/c", "val"),
        "images/test/d3/deep/d.jpg": ("test__d3__deep__d", "d3", "test"),
    }


def test_folders_may_have_other_names_and_masks_an_ending():
    contents = {
        "x/rgb/a.TIF": PHOTO,
        "x/rgb/b.webp": PHOTO,
        "x/rgb/notes.txt": b"",
        "y/a_mask.PNG": GREY,
        "y/b.png": GREY,
    }
    pairs = find("folders", contents, images="x/rgb/", masks="y", mask_ending="_mask")
    assert [(pair.key, pair.image, pair.label) for pair in pairs] == [
        ("a", "x/rgb/a.TIF", "y/a_mask.PNG"),
        ("b", "x/rgb/b.webp", ""),
    ]


def test_images_and_masks_may_lie_in_one_folder():
    contents = {"x/a.png": PHOTO, "x/a_mask.png": GREY, "x/b_mask.png": GREY, "x/c.jpg": PHOTO, "x/c_mask.jpg": PHOTO}
    pairs = find("folders", contents, images="x", masks="x", mask_ending="_mask")
    assert [(pair.image, pair.label) for pair in pairs] == [
        ("x/a.png", "x/a_mask.png"),
        ("", "x/b_mask.png"),
        ("x/c.jpg", ""),
        ("x/c_mask.jpg", ""),
    ]


@pytest.mark.parametrize(
    ("paths", "mask_ending", "said"),
    [
        (["masks/a.png"], "", "memory:: no images in images/; "),
        (["images/a.png"], "", "memory:: no masks in masks/; "),
        (["images/a.png", "masks/a.png"], "_mask", "memory:: no masks in masks/ whose names end with _mask; "),
        ([], "", "memory:: no images in images/ and no masks in masks/; "),
        (
            ["images/a.png", "masks/a.JPG"],
            "",
            "memory:: no masks in masks/ but such as masks/a.JPG (masks must be lossless: png, bmp or tif); ",
        ),
    ],
)
def test_what_the_folders_lack_is_named(paths, mask_ending, said):
    tree = Memory(dict.fromkeys(paths, GREY))
    assert refusal("folders", tree, mask_ending=mask_ending) == f"{said}expected the folders layout"


@pytest.mark.parametrize("channels", [3, 4])
def test_a_mask_in_colours_is_refused_with_the_option_for_it(channels):
    tree = Memory({"a.png": png(np.zeros((4, 6, channels), np.uint8))})
    with pytest.raises(OSError, match=rf"{channels} channels .*set `colors: true`$"):
        LAYOUTS["folders"]().read_label(tree, "a.png", -1)
    with pytest.raises(OSError, match=r"2 channels \(LA\), expected 1$"):
        LAYOUTS["folders"]().read_label(Memory({"a.png": png(np.zeros((4, 6, 2), np.uint8))}), "a.png", -1)


def test_two_images_of_one_name_are_refused():
    contents = folders_files("a") | {"images/a.png": PHOTO}
    assert "images/a.jpg and images/a.png" in refusal("folders", Memory(contents))


@pytest.mark.parametrize(("color", "ignore"), [("color", "ignore"), ("colour", "ignored")])
def test_folders_read_the_classes_as_they_are_written(color, ignore):
    text = f"""
    classes:
      background: 0
      car: [1, 2, 7]
      lane: 10-19
      person: {{values: [3, 30 - 32], {color}: [213, 94, 0]}}
      dirt: {{values: 65535, {color}: [128, 0, 0]}}
    background: background
    {ignore}: [255, 200-203]
    """
    known = LAYOUTS["folders"]().label_spec(text)
    assert known.names == ("background", "car", "lane", "person", "dirt")
    assert known.background == 0
    assert known.classes[0].color == (0, 0, 0)
    assert known.classes[3].color == (213, 94, 0)
    assert len({entry.color for entry in known.classes}) == 5
    values = {0: 0, 1: 1, 2: 1, 7: 1} | dict.fromkeys(range(10, 20), 2) | {3: 3, 30: 3, 31: 3, 32: 3, 65535: 4}
    expected = values | dict.fromkeys((255, 200, 201, 202, 203), IGNORED)
    assert known.lut.tolist() == [expected.get(raw, UNKNOWN) for raw in range(2**16)]


def test_without_a_background_every_class_counts_and_none_is_black():
    known = LAYOUTS["folders"]().label_spec("classes: {a: 1, b: 0}")
    assert known.background is None
    assert (0, 0, 0) not in {entry.color for entry in known.classes}


def test_the_most_classes_have_colours_of_their_own():
    taken = "".join(f"  t{n}: {{values: {n}, colour: [{n * 2}, 0, 128]}}\n" for n in range(100))
    known = LAYOUTS["folders"]().label_spec("classes:\n" + taken + "".join(f"  n{n}: {n}\n" for n in range(100, 254)))
    assert len({entry.color for entry in known.classes}) == 254
    assert known.lut[253] == 253


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "classes.yaml: got no mapping"),
        ("- a", "classes.yaml: got no mapping"),
        ("classes: {a: [", "classes.yaml: "),
        ("classes: {a: 2020-13-45}", "classes.yaml: "),
        ("background: a", "classes: got None"),
        ("classes: []", "classes: got []"),
        ("classes: {}", "classes: got {}"),
        ("classes: {a: 0}\nclases: {}", "unknown key 'clases'; did you mean 'classes'?"),
        ("classes: {0: road}", "the name 0"),
        ('classes: {"a\\nb": road}', "the name 'a\\nb'"),
        ('classes: {a: 1}\n"b\\nc": 1', "unknown key 'b\\nc'"),
        ("classes: {no: 0}", "the name False"),
        ("classes: {a: 0, a: 1}", "key 'a' is given twice"),
        ("classes: {a: }", "classes.a: got None"),
        ("classes: {a: true}", "classes.a: got True"),
        ("classes: {a: 1.0}", "classes.a: got 1.0"),
        ("classes: {a: -1}", "classes.a: got -1"),
        ("classes: {a: 65536}", "classes.a: got 65536"),
        ("classes: {a: 9-3}", "classes.a: got '9-3'"),
        ("classes: {a: []}", "classes.a: got []"),
        ("classes: {a: [1, x]}", "classes.a: got [1, 'x']"),
        ("classes: {a: 1, b: 0-3}", "classes.b: has a value that cannot be distinguished from one of classes.a"),
        ("classes: {a: 1}\nignored: 1", "classes.a: has a value that cannot be distinguished from one of ignored"),
        ("classes: {a: {value: 1}}", "classes.a: got the keys value"),
        ("classes: {a: {values: 1, colors: [0, 0, 0]}}", "classes.a: got the keys values, colors"),
        ("classes: {a: {values: 1, color: [0, 0, 0], colour: [0, 0, 0]}}", "classes.a: got both color and colour"),
        ("classes: {a: 1}\nignore: 2\nignored: 3", "got both ignore and ignored"),
        ("classes: {a: {values: 1, colour: red}}", "classes.a.colour: got 'red'"),
        ("classes: {a: {values: 1, color: [0, 0, 256]}}", "classes.a.color: got [0, 0, 256]"),
        ("classes: {a: {values: 1, colour: [1, 1, 1]}, b: {values: 2, colour: [1, 1, 1]}}", "classes.b: has a color"),
        ("classes: {a: 1}\nbackground: b", "background: unknown class 'b'"),
        ("classes: {a: 1}\nbackground: [a]", "background: unknown class"),
        ("classes: {a: 1}\nignored: all", "ignored: got 'all'"),
        ("classes: {a: 1}\nignore: all", "ignore: got 'all'"),
        ("classes: {" + ", ".join(f"c{n}: {n}" for n in range(255)) + "}", "classes: got 255"),
        ("classes: &x {a: *x}", "classes.a"),
        ("classes:\n  a: 010", "line 2: got 010, expected a number"),
        ("classes: {a: [1, 0x10]}", "line 1: got 0x10"),
        ("classes: {a: 1:30}", "line 1: got 1:30"),
        ("classes: {a: [128, 64, 128], b: [0, 0, 128]}", "set the layout's `colors: true`"),
        ("classes: {a: [[0, 0, 142], [0, 0, 143]]}", "set the layout's `colors: true`"),
    ],
)
def test_a_fault_in_the_classes_is_one_line_that_names_it(text, named):
    with pytest.raises(DataError) as caught:
        LAYOUTS["folders"]().label_spec(text)
    assert str(caught.value).startswith("classes.yaml: ")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("colors", "ignore"), [("colors", "ignore"), ("colours", "ignored")])
def test_masks_may_be_pictures_in_the_colors_of_the_classes(colors, ignore):
    text = f"classes: {{road: [128, 64, 128], car: [[0, 0, 142], [0, 0, 143]]}}\n{ignore}: [0, 0, 0]"
    layout = LAYOUTS["folders"](**{colors: True})
    known = layout.label_spec(text)
    assert [entry.color for entry in known.classes] == [(128, 64, 128), (0, 0, 142)]
    mask = np.array(
        [[[128, 64, 128], [0, 0, 142], [0, 0, 143]], [[0, 0, 0], [128, 64, 127], [255, 255, 255]]], np.uint8
    )
    read = known.lut[layout.read_label(Memory({"a.png": png(mask)}), "a.png", -1)]
    assert read.tolist() == [[0, 1, 1], [IGNORED, UNKNOWN, UNKNOWN]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("classes: {a: 0}", "classes.a: got 0, expected a color"),
        ("classes: {a: [1, 2]}", "classes.a: got [1, 2], expected a color"),
        ("classes: {a: [0, 0, 256]}", "classes.a: got [0, 0, 256]"),
        ("classes: {a: [0, 0, 1], b: [0, 0, 1]}", "classes.b"),
        ("classes: {a: [0, 0, 1], b: [[9, 9, 9], [0, 0, 1]]}", "classes.b"),
        ("classes: {a: [0, 0, 1]}\nignored: 255", "ignored: got 255"),
    ],
)
def test_a_fault_in_the_colours_is_one_line_that_names_it(text, named):
    with pytest.raises(DataError) as caught:
        LAYOUTS["folders"](colors=True).label_spec(text)
    assert str(caught.value).startswith("classes.yaml: ")
    assert "colors: true" not in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_colours_that_are_near_each_other_are_never_confused():
    steps = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for centre in [(20, 20, 20), (128, 64, 128), (235, 235, 235), (100, 30, 200)]:
        near = (np.array(centre) + steps).astype(np.uint8)
        assert (pack(near) == pack(np.array([centre], np.uint8))).sum() == 1


# All


@needs("camvid")
def test_the_real_camvid_is_found_whole():
    tree, layout = Folder(REAL / "camvid"), LAYOUTS["camvid"]()
    pairs = layout.find(tree)
    assert [sum(pair.split == split for pair in pairs) for split in ("train", "val", "test")] == [367, 101, 0]
    assert {pair.group for pair in pairs} == {"0001TP", "0006R0", "0016E5"}
    for pair in pairs[::60]:
        image, label = layout.read_image(tree, pair.image, -1), layout.read_label(tree, pair.label, -1)
        assert image.shape == (360, 480, 3)
        assert label.shape == (360, 480)
        assert label.max() <= 11
        assert UNKNOWN not in layout.label_spec("").lut[label]


def test_no_other_layout_pays_for_nibabel():
    code = (
        "import sys; from segline.data.layouts import LAYOUTS; LAYOUTS['segthor'](); sys.exit('nibabel' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
