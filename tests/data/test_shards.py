"""Shards are held against the plain arrays that they were written from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from shard_files import write_split

from segline.artifacts.dataset import (
    DATASET,
    DatasetInfo,
    part_file,
    read_dataset_info,
    write_dataset_info,
)
from segline.classes import LabelClass
from segline.data.parts import join_parts
from segline.data.reading import open_split
from segline.data.shards import Crop, Crops, write_shard
from segline.errors import StageError
from segline.files.atomic import write_json

SIDE = 4
DESCRIPTION = DatasetInfo(
    classes=(LabelClass("sky", (1, 2, 3)), LabelClass("car", (4, 5, 6))),
    background=None,
    crop_size=(SIDE, SIDE + 1),
    content_hash="c",
    source="/data",
    source_hash="s",
    source_revision="git:1",
    pixels={"train": [1, 2], "val": [0, 0], "test": []},
    test_is_val=False,
)


def arrays(count):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    return images, rng.integers(0, 256, (count, SIDE, SIDE), np.uint8)


def write(folder, count, size, keys=None):
    """A split of ``count`` crops in shards of ``size``; returns its plain images and labels."""
    images, labels = arrays(count)
    write_split(folder, images, labels, size=size, keys=keys)
    return images, labels


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 3), (6, 3), (7, 100), (25, 2)])
def test_crops_are_those_of_the_plain_arrays(tmp_path, count, size):
    images, labels = write(tmp_path, count, size)
    split = Crops(tmp_path)
    assert len(split) == count
    for positions in ([0], range(count), np.random.default_rng(0).integers(0, count, 20), [count - 1, 0, count - 1]):
        taken = split.take(positions)
        np.testing.assert_array_equal(taken[0], images[np.array(positions)])
        np.testing.assert_array_equal(taken[1], labels[np.array(positions)])


def test_the_index_says_which_classes_a_crop_holds(tmp_path):
    images, labels = arrays(7)
    labels[3], labels[5] = 255, np.where(labels[5] < 128, 254, 255)
    write_split(tmp_path, images, labels, size=3)
    presence = Crops(tmp_path).class_presence()
    assert presence.shape == (7, 255)
    for row, label in zip(presence, labels, strict=True):
        assert np.flatnonzero(row).tolist() == [each for each in np.unique(label) if each != 255]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 50])
def test_batches_hold_every_crop_in_order_across_shards(tmp_path, batch):
    images, labels = write(tmp_path, 7, 3)
    found = list(Crops(tmp_path).batches(batch))
    assert [len(part) for part, _ in found] == [min(batch, 7 - start) for start in range(0, 7, batch)]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in found]), images)
    np.testing.assert_array_equal(np.concatenate([part for _, part in found]), labels)


def test_what_is_taken_is_a_copy_of_its_own(tmp_path):
    images, _ = write(tmp_path, 3, 3)
    Crops(tmp_path).take([0])[0][:] = 0
    np.testing.assert_array_equal(Crops(tmp_path).take([0])[0][0], images[0])


@pytest.mark.parametrize("key", ["0012", "1e5", "NA", "null", "True", "a,b"])
def test_keys_are_text_whatever_they_look_like(tmp_path, key):
    write(tmp_path, 2, 2, keys=[key, "other"])
    assert Crops(tmp_path).index["key"].tolist() == [key, "other"]


def test_an_empty_split_has_no_batches(tmp_path):
    write(tmp_path, 0, 3)
    assert len(Crops(tmp_path)) == 0
    assert list(Crops(tmp_path).batches(4)) == []


def test_a_missing_split_is_one_line(tmp_path):
    with pytest.raises(StageError, match="segline label"):
        open_split(tmp_path, "train")
    write(tmp_path / "train", 2, 2)
    assert len(open_split(tmp_path, "train")) == 2


def maps(count):
    rng = np.random.default_rng(count)
    shapes = {"border": (count, 1, SIDE, SIDE), "signed": (count, 3, SIDE, SIDE)}
    return {name: rng.normal(0, 100, shape).astype(np.float16) for name, shape in shapes.items()}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_distances_are_those_of_the_plain_arrays(tmp_path, size):
    distances = maps(7)
    write_split(tmp_path, *arrays(7), size=size, distances=distances)
    split = open_split(tmp_path.parent, tmp_path.name)
    for positions in ([0], range(7), np.array([6, 0, 6, 2])):
        found = split.take_distances(["signed", "border"], positions)
        assert list(found) == ["signed", "border"]
        for name, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, distances[name][np.array(positions)])
    assert list(split.take_distances(["border"], [0])) == ["border"]
    assert split.take_distances([], [0]) == {}


def test_ranges_are_the_positions_of_the_batches(tmp_path):
    write(tmp_path, 7, 3)
    split = Crops(tmp_path)
    assert [list(positions) for positions in split.ranges(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    for positions, (images, labels) in zip(split.ranges(3), split.batches(3), strict=True):
        np.testing.assert_array_equal(split.take(positions)[0], images)
        np.testing.assert_array_equal(split.take(positions)[1], labels)


def test_distances_that_label_did_not_make_are_one_line(tmp_path):
    write_split(tmp_path, *arrays(2), distances={"border": maps(2)["border"]})
    with pytest.raises(StageError, match=r"label\.distances lacks 'signed'; add it and run `segline label` again"):
        Crops(tmp_path).take_distances(["border", "signed"], [0])


@pytest.mark.parametrize("name", ["images-00001.npy", "labels-00000.npy", "border-00001.npy", "signed-00000.npy"])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY"])
def test_a_split_that_lacks_a_shard_is_not_whole(tmp_path, name, content):
    write_split(tmp_path, *arrays(5), size=3, distances=maps(5))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match="run `segline label` again"):
        open_split(tmp_path.parent, tmp_path.name)


def test_the_hash_sees_every_change_of_distances(tmp_path):
    distances = maps(4)
    other = {**distances, "border": distances["border"] + np.float16(1)}
    variants = ({}, {"border": distances["border"]}, distances, other)
    hashes = [
        write_split(tmp_path / str(number), *arrays(4), distances=given)[1] for number, given in enumerate(variants)
    ]
    assert len(set(hashes)) == 4


def crops_of(count, group="g"):
    return [
        Crop(f"{row:04d}", group, row, 2, 1.5, image=image, label=label)
        for row, (image, label) in enumerate(zip(*arrays(count), strict=True))
    ]


def join(folder, *shards):
    """Write lists of crops as shards and join them."""
    for number, crops in enumerate(shards):
        write_shard(folder, number, crops, shape=(SIDE, SIDE))
    return join_parts(folder, len(shards))


def test_shards_of_different_length_make_one_split(tmp_path):
    crops = crops_of(9)
    pixels, _ = join(tmp_path, crops[:1], crops[1:6], crops[6:])
    split = Crops(tmp_path)
    for positions in ([8, 0, 5, 6, 1], range(9)):
        images, labels = split.take(positions)
        np.testing.assert_array_equal(images, [crops[position].image for position in positions])
        np.testing.assert_array_equal(labels, [crops[position].label for position in positions])
    assert split.index.drop(columns="classes").to_dict("list") == {
        name: [getattr(crop, name) for crop in crops] for name in ("key", "group", "top", "left", "scale")
    }
    labels = np.stack([crop.label for crop in crops])
    assert pixels.tolist() == [int((labels == value).sum()) for value in range(256)]
    assert not list(tmp_path.glob("part-*"))


def test_shards_are_what_numpy_itself_writes(tmp_path):
    images, labels = arrays(300)
    distances = maps(300)
    write_split(tmp_path, images, labels, distances=distances)
    for name, values in {"images": images, "labels": labels, **distances}.items():
        found = np.load(tmp_path / f"{name}-00000.npy", mmap_mode="r")
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


def test_a_shard_without_its_part_file_is_not_whole(tmp_path):
    def broken():
        yield from crops_of(3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_shard(tmp_path, 0, broken(), shape=(SIDE, SIDE))
    assert not part_file(tmp_path, 0).exists()
    join(tmp_path, crops_of(3))
    assert len(Crops(tmp_path)) == 3


def test_the_hash_sees_every_change_and_not_the_place(tmp_path):
    crops = crops_of(6)
    brighter = [*crops[:-1], replace(crops[-1], image=crops[-1].image ^ 1)]
    other = [*crops[:-1], replace(crops[-1], label=crops[-1].label ^ 1)]
    variants = [
        (crops[:3], crops[3:]),
        (crops[3:], crops[:3]),
        (crops,),
        (brighter[:3], brighter[3:]),
        (other[:3], other[3:]),
        (crops_of(6, "h")[:3], crops[3:]),
    ]
    hashes = [join(tmp_path / f"{number}", *shards)[1] for number, shards in enumerate(variants)]
    assert len(set(hashes)) == len(variants)
    assert join(tmp_path / "elsewhere", *variants[0])[1] == hashes[0]


def test_a_description_is_read_as_it_was_written(tmp_path):
    write_dataset_info(tmp_path, DESCRIPTION)
    assert read_dataset_info(tmp_path) == DESCRIPTION
    assert read_dataset_info(tmp_path).names == ["sky", "car"]


@pytest.mark.parametrize("key", ["colour", "color"])
def test_the_description_may_have_either_spelling_of_color(tmp_path, key):
    DATASET.write_mark(tmp_path)
    written = json.loads(json.dumps(DESCRIPTION.to_dict()))
    assert written["classes"] == [{"name": "sky", "colour": [1, 2, 3]}, {"name": "car", "colour": [4, 5, 6]}]
    written["classes"] = [{"name": entry["name"], key: entry["colour"]} for entry in written["classes"]]
    write_json(tmp_path / "dataset.json", written)
    assert read_dataset_info(tmp_path) == DESCRIPTION


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", "null", '{"classes": 1}', "\xff"])
def test_a_missing_or_broken_description_is_one_line(tmp_path, content):
    DATASET.write_mark(tmp_path)
    if content is not None:
        (tmp_path / "dataset.json").write_bytes(content.encode("latin1"))
    with pytest.raises(StageError, match=r"missing or broken; run `segline label` again"):
        read_dataset_info(tmp_path)
