"""Shards are held against the plain arrays that they were written from."""

from dataclasses import replace

import numpy as np
import pytest
from shard_files import write_split

from segline.classes import LabelClass
from segline.data.edges import edge_map
from segline.data.shards import (
    Crop,
    Description,
    Split,
    join_shards,
    open_split,
    part_file,
    read_description,
    write_shard,
)
from segline.errors import StageError
from segline.outputs import write_json

SIDE = 4
DESCRIPTION = Description(
    classes=(LabelClass("sky", (1, 2, 3)), LabelClass("car", (4, 5, 6))),
    background=None,
    side=SIDE,
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
    split = Split(tmp_path)
    assert len(split) == count
    for positions in ([0], range(count), np.random.default_rng(0).integers(0, count, 20), [count - 1, 0, count - 1]):
        taken = split.take(positions)
        np.testing.assert_array_equal(taken[0], images[np.array(positions)])
        np.testing.assert_array_equal(taken[1], labels[np.array(positions)])


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 50])
def test_batches_hold_every_crop_in_order_across_shards(tmp_path, batch):
    images, labels = write(tmp_path, 7, 3)
    found = list(Split(tmp_path).batches(batch))
    assert [len(part) for part, _ in found] == [min(batch, 7 - start) for start in range(0, 7, batch)]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in found]), images)
    np.testing.assert_array_equal(np.concatenate([part for _, part in found]), labels)


def test_what_is_taken_is_a_copy_of_its_own(tmp_path):
    images, _ = write(tmp_path, 3, 3)
    Split(tmp_path).take([0])[0][:] = 0
    np.testing.assert_array_equal(Split(tmp_path).take([0])[0][0], images[0])


@pytest.mark.parametrize("key", ["0012", "1e5", "NA", "null", "True", "a,b"])
def test_keys_are_text_whatever_they_look_like(tmp_path, key):
    write(tmp_path, 2, 2, keys=[key, "other"])
    assert Split(tmp_path).index["key"].tolist() == [key, "other"]


def test_an_empty_split_has_no_batches(tmp_path):
    write(tmp_path, 0, 3)
    assert len(Split(tmp_path)) == 0
    assert list(Split(tmp_path).batches(4)) == []


def test_a_missing_split_is_one_line(tmp_path):
    with pytest.raises(StageError, match="segline label"):
        open_split(tmp_path, "train")
    write(tmp_path / "train", 2, 2)
    assert len(open_split(tmp_path, "train")) == 2


def crops_of(count, group="g"):
    return [Crop(f"{row:04d}", group, row, 2, 1.5, *pair) for row, pair in enumerate(zip(*arrays(count), strict=True))]


def join(folder, *shards):
    """Write lists of crops as shards and join them."""
    for number, crops in enumerate(shards):
        write_shard(folder, number, crops, shape=(SIDE, SIDE), edges=False)
    return join_shards(folder, len(shards))


def test_shards_of_different_length_make_one_split(tmp_path):
    crops = crops_of(9)
    pixels, _ = join(tmp_path, crops[:1], crops[1:6], crops[6:])
    split = Split(tmp_path)
    for positions in ([8, 0, 5, 6, 1], range(9)):
        images, labels = split.take(positions)
        np.testing.assert_array_equal(images, [crops[position].image for position in positions])
        np.testing.assert_array_equal(labels, [crops[position].label for position in positions])
    assert split.index.to_dict("list") == {
        name: [getattr(crop, name) for crop in crops] for name in ("key", "group", "top", "left", "scale")
    }
    labels = np.stack([crop.label for crop in crops])
    assert pixels.tolist() == [int((labels == value).sum()) for value in range(256)]
    assert not list(tmp_path.glob("part-*"))


def test_shards_are_what_numpy_itself_writes(tmp_path):
    images, labels = arrays(300)
    write_split(tmp_path, images, labels, edges=True)
    for name, values in (("images", images), ("labels", labels), ("edges", edge_map(labels))):
        found = np.load(tmp_path / f"{name}-00000.npy", mmap_mode="r")
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


def test_a_shard_without_its_part_file_is_not_whole(tmp_path):
    def broken():
        yield from crops_of(3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_shard(tmp_path, 0, broken(), shape=(SIDE, SIDE), edges=False)
    assert not part_file(tmp_path, 0).exists()
    join(tmp_path, crops_of(3))
    assert len(Split(tmp_path)) == 3


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
    write_json(tmp_path / "dataset.json", DESCRIPTION.to_dict())
    assert read_description(tmp_path) == DESCRIPTION
    assert read_description(tmp_path).names == ["sky", "car"]


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", "null", '{"classes": 1}', "\xff"])
def test_a_missing_or_broken_description_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "dataset.json").write_bytes(content.encode("latin1"))
    with pytest.raises(StageError, match=r"missing or broken; run `segline label` again"):
        read_description(tmp_path)
