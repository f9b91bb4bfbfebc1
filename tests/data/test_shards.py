"""Shards are held against the plain arrays that they were written from."""

import numpy as np
import pandas as pd
import pytest

from segline.classes import LabelClass
from segline.data.shards import Description, Split, content_hash, open_split, read_description, write_shard
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
    pixels={"train": [1, 2], "val": [0, 0], "test": []},
    test_is_val=False,
)


def write(folder, count, size, keys=None):
    """A split of ``count`` crops in shards of ``size``; returns its plain images and labels."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    labels = rng.integers(0, 256, (count, SIDE, SIDE), np.uint8)
    for number, start in enumerate(range(0, count, size)):
        write_shard(folder, number, images[start : start + size], labels[start : start + size])
    folder.mkdir(parents=True, exist_ok=True)
    keys = keys or [f"{number:04d}" for number in range(count)]
    index = pd.DataFrame({"key": keys, "group": keys, "top": range(count), "left": 0})
    index.to_csv(folder / "index.csv", index=False)
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
    assert Split(tmp_path).index["group"].tolist() == [key, "other"]


def test_an_empty_split_has_no_batches(tmp_path):
    write(tmp_path, 0, 3)
    assert len(Split(tmp_path)) == 0
    assert list(Split(tmp_path).batches(4)) == []


def test_a_missing_split_is_one_line(tmp_path):
    with pytest.raises(StageError, match="segline label"):
        open_split(tmp_path, "train")
    write(tmp_path / "train", 2, 2)
    assert len(open_split(tmp_path, "train")) == 2


def flip_a_byte(folder):
    path = folder / "val" / "labels-00001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def swap_two_shards(folder):
    first, second, other = (folder / "val" / f"images-0000{number}.npy" for number in (0, 1, 9))
    for old, new in ((first, other), (second, first), (other, second)):
        old.rename(new)


def edit_the_index(folder):
    path = folder / "val" / "index.csv"
    path.write_text(path.read_text().replace("0001,0001", "0001,other"))


def rename_the_split(folder):
    (folder / "val").rename(folder / "train")


def make(folder):
    write(folder / "val", 6, 3)
    return folder


@pytest.mark.parametrize("edit", [flip_a_byte, swap_two_shards, edit_the_index, rename_the_split])
def test_the_hash_sees_every_change(tmp_path, edit):
    before = content_hash(make(tmp_path))
    edit(tmp_path)
    assert content_hash(tmp_path) != before


def test_the_hash_does_not_see_the_place_or_other_files(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b" / "c")
    (second / "dataset.json").write_text("{}")
    assert content_hash(first) == content_hash(second)


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
