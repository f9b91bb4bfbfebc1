"""The manifest keeps what was written, and its hash depends on the data alone."""

import hashlib
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest

from segline.artifacts.manifest import COLUMNS, FILE, Manifest, Origin, read_manifest, write_manifest
from segline.data.layouts import LAYOUTS
from segline.data.pairs import label_spec_of
from segline.errors import StageError


@pytest.fixture
def manifest():
    rows = [
        {
            "key": f"key{number}",
            "image": f"images/{number}.jpg",
            "label": f"labels/{number}.png",
            "slice_index": number - 1,
            "group": "NA" if number else "007",
            "split": "",
            "image_bytes": 2**40,
            "label_bytes": 7,
            "image_hash": f"sha256:{number:064x}",
            "label_hash": f"sha256:{number + 10:064x}",
        }
        for number in range(3)
    ]
    origin = Origin(source="/data/straße", layout="wad", root="/data/straße")
    return Manifest(rows=pd.DataFrame(rows).astype(COLUMNS), origin=origin)


def edited(manifest, column, value, row=1):
    rows = manifest.rows.copy()
    rows.loc[row, column] = value
    return replace(manifest, rows=rows)


def test_what_is_written_is_read_again(manifest, tmp_path):
    write_manifest(tmp_path, manifest)
    read = read_manifest(tmp_path)
    pd.testing.assert_frame_equal(read.rows, manifest.rows)
    assert read.origin == manifest.origin
    assert read.content_hash == manifest.content_hash
    assert label_spec_of(read.origin).names == LAYOUTS["wad"]().label_spec("").names


def test_two_writes_are_the_same_bytes_and_further_columns_are_left_out(manifest, tmp_path):
    for folder, rows in (("a", manifest.rows), ("b", manifest.rows.assign(note="x"))):
        write_manifest(tmp_path / folder, replace(manifest, rows=rows))
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


@pytest.mark.parametrize("column", ["key", "group", "split", "image_hash", "label_hash"])
def test_the_hash_sees_the_data(manifest, column):
    assert edited(manifest, column, "other").content_hash != manifest.content_hash


def test_the_hash_sees_layout_and_number_of_rows(manifest):
    hashes = {
        manifest.content_hash,
        replace(manifest, origin=replace(manifest.origin, layout="camvid")).content_hash,
        replace(manifest, origin=replace(manifest.origin, options='{"window": 3}')).content_hash,
        replace(manifest, origin=replace(manifest.origin, legend="classes: [a]")).content_hash,
        replace(manifest, rows=manifest.rows[:2]).content_hash,
        replace(manifest, rows=manifest.rows[::-1]).content_hash,
    }
    assert len(hashes) == 6


def test_the_hash_is_that_of_version_0_1(manifest):
    """It goes over the way to read the data and over a table whose second column had another name then."""
    lines = ["wad", "{}", "", "key,plane,group,split,image_hash,label_hash"]
    lines += [
        f"key{number},{number - 1},{'NA' if number else '007'},,sha256:{number:064x},sha256:{number + 10:064x}"
        for number in range(3)
    ]
    assert manifest.content_hash == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_the_hash_does_not_see_where_the_data_lie(manifest):
    moved = replace(manifest, origin=replace(manifest.origin, source="/new", root="/new", revision="git:1"))
    for column in ("image", "label"):
        moved = edited(moved, column, "elsewhere")
    assert moved.content_hash == manifest.content_hash


def test_a_missing_broken_or_foreign_manifest_is_one_line(manifest, tmp_path):
    def refusal():
        with pytest.raises(StageError) as caught:
            read_manifest(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "missing" in refusal()
    (tmp_path / FILE).write_bytes(b"no parquet")
    assert "broken" in refusal()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / FILE)
    assert "ingest" in refusal()
    write_manifest(tmp_path, manifest)
    table = pq.read_table(tmp_path / FILE)
    of_0_1 = ["plane" if name == "slice_index" else name for name in table.column_names]
    pq.write_table(table.rename_columns(of_0_1), tmp_path / FILE)
    assert "ingest" in refusal()
    write_manifest(tmp_path, replace(manifest, origin=replace(manifest.origin, layout="of the future")))
    assert "ingest" in refusal()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", ["a", None, "b"]),
        ("image", [1.5, 2.5, 3.5]),
        ("slice_index", ["0", "1", "2"]),
        ("image_bytes", [1, 2, None]),
    ],
)
def test_a_column_that_lacks_values_or_has_others_is_one_line(manifest, tmp_path, column, values):
    rows = manifest.rows.copy()
    rows[column] = pd.Series(values)
    write_manifest(tmp_path, replace(manifest, rows=rows))
    with pytest.raises(
        StageError, match=f"lacks values in the column {column}, or has others than .*run `segline ingest`"
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize("outside", ["/etc/passwd", "../label.png", "a/../../label.png", "a/..", "a\0.png"])
@pytest.mark.parametrize("column", ["image", "label"])
def test_a_path_that_is_not_below_the_root_is_refused(manifest, tmp_path, column, outside):
    write_manifest(tmp_path, edited(manifest, column, outside))
    with pytest.raises(StageError, match=r"which is not below its root; run `segline ingest` again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("inside", ["", "a..b.png", "..a/b.png", "a/b../c.png", "a\\b.png"])
def test_an_odd_path_below_the_root_is_read(manifest, tmp_path, inside):
    write_manifest(tmp_path, edited(manifest, "image", inside))
    assert read_manifest(tmp_path).rows["image"][1] == inside
