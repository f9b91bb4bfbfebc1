"""Layouts are tried on small folders, value by value, and on real files where they are at hand."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segline.classes import IGNORED
from segline.data.layouts import LAYOUTS, UNKNOWN, Pair, read_image
from segline.data.layouts.layout import read_indices
from segline.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
WAD, CAMVID = LAYOUTS["wad"], LAYOUTS["camvid"]
SUFFIX = "_instanceIds.png"


def needs(folder):
    return pytest.mark.skipif(not (REAL / folder).is_dir(), reason=f"the real data {REAL / folder} are not here")


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint16 if value > 255 else np.uint8)).save(path)


def make_wad(root, names):
    for name in names:
        save(root / "train_color" / f"{name}.jpg")
        save(root / "train_label" / f"{name}{SUFFIX}", 33_001)
    return root


def make_camvid(root, **lists):
    """``lists`` holds the frames of each split."""
    root.mkdir(exist_ok=True)
    for split, names in lists.items():
        lines = [f"{split}/{name}.jpg {split}annot/{name}.png" for name in names]
        for path in chain.from_iterable(line.split() for line in lines):
            save(root / path)
        (root / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return root


def refusal(layout, root):
    """The one line with which a layout refuses a folder."""
    with pytest.raises(DataError) as caught:
        layout.find(root)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
class TestEveryLayout:
    def test_the_table_knows_every_class_and_no_other(self, layout):
        ids = set(range(len(layout.classes)))
        assert layout.table.shape == (2**16,)
        assert layout.table.dtype == np.uint8
        assert ids <= set(layout.table.tolist()) <= ids | {IGNORED, UNKNOWN}

    def test_names_and_colours_tell_the_classes_apart(self, layout):
        assert len(set(layout.names)) == len({entry.colour for entry in layout.classes}) == len(layout.classes)
        assert layout.background is None or layout.background in range(len(layout.classes))

    @pytest.mark.parametrize("content", [[], ["README"], ["images/a.jpg", "labels/a.png"]])
    def test_a_folder_of_another_kind_is_refused_in_one_line(self, layout, content, tmp_path):
        for name in content:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert str(tmp_path) in refusal(layout, tmp_path)


def test_wad_pairs_by_name_and_groups_by_date_and_camera(tmp_path):
    names = ["171206_034559609_Camera_5", "170908_061502408_Camera_6", "170908_061502408_Camera_5"]
    pairs = WAD.find(make_wad(tmp_path, [*names, "170908_061559999_Camera_5"]))
    assert pairs == [
        Pair(key=name, image=f"train_color/{name}.jpg", label=f"train_label/{name}{SUFFIX}", group=group)
        for name, group in [
            ("170908_061502408_Camera_5", "170908_5"),
            ("170908_061502408_Camera_6", "170908_6"),
            ("170908_061559999_Camera_5", "170908_5"),
            ("171206_034559609_Camera_5", "171206_5"),
        ]
    ]


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_wad_groups_by_its_lists_first(tmp_path, slash):
    names = [f"170908_06150240{digit}_Camera_5" for digit in range(4)]
    make_wad(tmp_path, names)
    folder = tmp_path / "train_video_list"
    folder.mkdir()
    for drive, frames in {"road01_cam_5_video_1": names[:1], "road02_cam_5_video_7": names[1:3]}.items():
        lines = [
            f"..{slash}train_color{slash}{name}.jpg\t..{slash}train_label{slash}{name}{SUFFIX}\n" for name in frames
        ]
        (folder / f"{drive}_image_list_train.txt").write_text("\n".join(lines))
    groups = ["road01_cam_5_video_1", "road02_cam_5_video_7", "road02_cam_5_video_7", "170908_5"]
    assert [pair.group for pair in WAD.find(tmp_path)] == groups


@pytest.mark.parametrize("missing", ["train_color/b.jpg", f"train_label/b{SUFFIX}"])
def test_wad_refuses_a_file_without_its_partner(tmp_path, missing):
    (make_wad(tmp_path, "abc") / missing).unlink()
    assert "'b'" in refusal(WAD, tmp_path)


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


def wad_class(raw):
    """The class of a raw value: class * 1000 + instance, or a bare id; a group is its class plus 128."""
    number = raw // 1000 if raw >= 1000 else raw
    if raw < 1000 and number - 128 in WAD_MOVABLE:
        number -= 128
    if number in WAD_MOVABLE:
        return WAD.names.index(WAD_MOVABLE[number])
    return 0 if number in WAD_BACKGROUND else UNKNOWN


def test_every_wad_value_has_the_class_of_its_thousands():
    of_riders = {WAD_RIDER, WAD_RIDER + 128, *range(1000 * WAD_RIDER, 1000 * WAD_RIDER + 1000)}
    wrong = [raw for raw in range(2**16) if raw not in of_riders and WAD.table[raw] != wad_class(raw)]
    assert wrong == []


@pytest.mark.parametrize("number", [*WAD_MOVABLE, WAD_RIDER])
def test_every_movable_thing_of_wad_is_known_alone_and_as_a_group(number):
    values = [number * 1000, number * 1000 + 1, number * 1000 + 999, number, number + 128]
    assert len(set(WAD.table[values])) == 1
    assert WAD.table[number] != UNKNOWN


def test_camvid_keeps_the_official_split_and_groups_by_drive(tmp_path):
    root = make_camvid(tmp_path, train=["0001TP_2", "0016E5_1"], val=["0001TP_1"], test=["Seq05VD_f1"])
    assert CAMVID.find(root) == [
        Pair(key=key, image=f"{split}/{key}.jpg", label=f"{split}annot/{key}.png", group=group, split=split)
        for key, group, split in [
            ("0001TP_1", "0001TP", "val"),
            ("0001TP_2", "0001TP", "train"),
            ("0016E5_1", "0016E5", "train"),
            ("Seq05VD_f1", "Seq05VD", "test"),
        ]
    ]


def test_camvid_reads_the_lines_of_segnets_own_lists(tmp_path):
    root = make_camvid(tmp_path, train=["0001TP_1", "0001TP_2"])
    before = CAMVID.find(root)
    text = "\r\n\r\n".join(
        f"/SegNet/CamVid/train/{name}.jpg /SegNet/CamVid/trainannot/{name}.png" for name in ("0001TP_1", "0001TP_2")
    )
    (root / "train.txt").write_text(text)
    assert CAMVID.find(root) == before


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("train/a.jpg", "'train/a.jpg'"),
        ("train/a.jpg trainannot/a.png 1", "'train/a.jpg trainannot/a.png 1'"),
        ("train/a.jpg trainannot/b.png", "trainannot/b.png"),
        ("train/b.jpg trainannot/a.png", "train/b.jpg"),
    ],
)
def test_camvid_refuses_a_line_that_is_no_pair(tmp_path, line, named):
    root = make_camvid(tmp_path, train=["a"])
    with (root / "train.txt").open("a") as stream:
        stream.write(line)
    assert named in refusal(CAMVID, root)


@pytest.mark.parametrize(("layout", "name"), [(CAMVID, "train.txt"), (WAD, "train_video_list/drive.txt")])
def test_a_list_that_is_no_text_is_refused(tmp_path, layout, name):
    make_camvid(tmp_path, train=["a"])
    make_wad(tmp_path, "a")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\xff\xfe")
    assert name in refusal(layout, tmp_path)


def test_every_camvid_value_is_its_class_and_11_is_void():
    for raw in range(2**16):
        expected = raw if raw < 11 else IGNORED if raw == 11 else UNKNOWN
        assert CAMVID.table[raw] == expected, raw


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "I", "1"])
def test_a_label_map_of_one_channel_is_read_as_its_values(tmp_path, mode):
    top = {"L": 255, "P": 255, "1": 1}.get(mode, 65535)
    values = np.random.default_rng(0).integers(0, top, (5, 7), endpoint=True)
    if mode == "P":
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette([3, 2, 1] * 256)
    elif mode == "1":
        image = Image.fromarray(values.astype(bool))
    else:
        image = Image.fromarray(values.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]))
    assert image.mode == mode
    path = tmp_path / ("label.tiff" if mode == "I" else "label.png")
    image.save(path)
    read = read_indices(path)
    assert read.dtype in (np.uint8, np.uint16)
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("values", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_a_label_map_of_several_channels_is_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "label.png")
    with pytest.raises(OSError, match="one channel"):
        read_indices(tmp_path / "label.png")


@pytest.mark.parametrize("values", [np.full((2, 2), 70_000, np.int32), np.full((2, 2), 1.5, np.float32)])
def test_a_label_map_beyond_16_bits_is_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "label.tiff")
    with pytest.raises(OSError, match="65535"):
        read_indices(tmp_path / "label.tiff")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_an_oserror(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    for read in (read_image, read_indices):
        with pytest.raises(OSError, match=r"."):
            read(tmp_path / "broken.png")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
def test_an_image_of_any_mode_is_read_as_rgb(tmp_path, mode):
    Image.new("RGB", (6, 4), (204, 204, 204)).convert(mode).save(tmp_path / "image.tiff")
    read = read_image(tmp_path / "image.tiff")
    assert read.shape == (4, 6, 3)
    assert read.dtype == np.uint8
    assert np.unique(read).tolist() == [204]


@needs("camvid")
def test_the_real_camvid_is_found_whole():
    pairs = CAMVID.find(REAL / "camvid")
    assert [sum(pair.split == split for pair in pairs) for split in ("train", "val", "test")] == [367, 101, 0]
    assert {pair.group for pair in pairs} == {"0001TP", "0006R0", "0016E5"}
    for pair in pairs[::60]:
        image, label = read_image(REAL / "camvid" / pair.image), CAMVID.read_label(REAL / "camvid" / pair.label)
        assert image.shape == (360, 480, 3)
        assert label.shape == (360, 480)
        assert label.max() <= 11
        assert UNKNOWN not in CAMVID.table[label]


@needs("formats/cityscapes")
def test_real_16_bit_instances_hold_the_class_in_their_thousands():
    found = sorted((REAL / "formats" / "cityscapes").rglob(f"*{SUFFIX}"))
    assert found
    for path in found:
        instances = read_indices(path)
        classes = read_indices(path.with_name(path.name.replace("instanceIds", "labelIds")))
        assert instances.dtype == np.uint16
        assert instances.max() > 255
        np.testing.assert_array_equal(np.where(instances < 1000, instances, instances // 1000), classes)


@needs("formats/voc2012")
def test_real_palette_labels_are_values_not_colours():
    found = sorted((REAL / "formats" / "voc2012").rglob("SegmentationClass/*.png"))
    assert found
    for path in found:
        assert set(np.unique(read_indices(path)).tolist()) <= {*range(21), 255}


@needs("formats/lyft_udacity")
def test_a_real_label_with_several_channels_is_refused():
    with pytest.raises(OSError, match="one channel"):
        read_indices(next((REAL / "formats" / "lyft_udacity").rglob("CameraSeg/*.png")))
