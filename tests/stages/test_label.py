"""Label is run through the command line and compared, crop by crop, with a slow computation of its own."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segline.cli import main
from segline.data.manifest import NAME, read_manifest, write_manifest

SPLITS = ("train", "val", "test")
SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}
CLASSES = ["background", "car", "motorbicycle", "bicycle", "person", "truck", "bus", "tricycle"]
CLASS_OF = {33: "car", 36: "person", 38: "truck", 161: "car"}


@pytest.fixture
def ingested(wad, tmp_path):
    """The small WAD folder, ingested and taken for whole."""
    params = json.dumps({"ingest": {"source": str(wad)}})
    assert main(["ingest", "--params", params, "--out", str(tmp_path / "ingest")]) == 0
    write_manifest(tmp_path / "validate", read_manifest(tmp_path / "ingest"))
    return tmp_path / "ingest"


def label(ingested, out="label", seed=7, **settings):
    """Run ``segline label``; returns its exit code and the folder that it wrote."""
    params = json.dumps({"seed": seed, "label": {"crop": 16, "shard_size": 2, "split": SHARES, **settings}})
    folder = ingested.with_name(out)
    words = ["--ingested", str(ingested), "--validated", str(ingested.with_name("validate")), "--out", str(folder)]
    return main(["label", "--params", params, *words]), folder


def names_of(path):
    """The class name of every pixel of a label file."""
    raw = np.array(Image.open(path))
    number = np.where(raw >= 1000, raw // 1000, raw)
    return np.vectorize(lambda value: CLASS_OF.get(int(value), "background"))(number)


def expected_crop(image_path, label_path, side, ids, background):
    """Image, class ids and corner of the fullest window nearest to the centre, by looking at each."""
    label = np.vectorize(lambda name: ids.get(name, 255))(names_of(label_path))
    image = np.array(Image.open(image_path).convert("RGB"))
    height, width = label.shape
    foreground = (label != 255) & (label != background)
    corners = [(top, left) for top in range(max(height - side, 0) + 1) for left in range(max(width - side, 0) + 1)]
    slack = (height - min(side, height), width - min(side, width))
    top, left = max(
        corners,
        key=lambda at: (
            foreground[at[0] : at[0] + side, at[1] : at[1] + side].sum(),
            -((2 * at[0] - slack[0]) ** 2) - (2 * at[1] - slack[1]) ** 2,
        ),
    )
    whole_image, whole_label = np.zeros((side, side, 3), np.uint8), np.full((side, side), 255, np.uint8)
    seen = label[top : top + side, left : left + side]
    whole_label[: seen.shape[0], : seen.shape[1]] = seen
    whole_image[: seen.shape[0], : seen.shape[1]] = image[top : top + side, left : left + side]
    return whole_image, whole_label, (top, left)


def crops_in(folder):
    """Key -> image, label and corner of the crops of one split."""
    index = pd.read_csv(folder / "index.csv", dtype=str)
    images, labels = (
        np.concatenate([np.load(path) for path in sorted(folder.glob(f"{kind}-*.npy"))])
        for kind in ("images", "labels")
    )
    assert len(index) == len(images) == len(labels)
    return {
        row.key: (image, label, (int(row.top), int(row.left)))
        for row, image, label in zip(index.itertuples(), images, labels, strict=True)
    }


KEPT = ({}, {name: number for number, name in enumerate(CLASSES)}, 0)
MERGED = ({"vehicle": ["car", "truck"], "human": ["person"]}, {"car": 0, "truck": 0, "person": 1}, None)
REST = ({"human": ["person"], "rest": ["background", "truck"]}, {"person": 0, "background": 1, "truck": 1}, 1)


@pytest.mark.parametrize(("class_map", "ids", "background"), [KEPT, MERGED, REST], ids=["kept", "merged", "rest"])
@pytest.mark.parametrize("side", [16, 44, 64])
def test_every_crop_equals_a_slow_computation(wad, ingested, side, class_map, ids, background):
    code, folder = label(ingested, crop=side, class_maps={"wad": class_map})
    assert code == 0
    found = {key: crop for split in SPLITS for key, crop in crops_in(folder / split).items()}
    assert sorted(found) == sorted(path.stem for path in (wad / "train_color").iterdir())
    for key, (image, ids_found, corner) in found.items():
        expected = expected_crop(
            wad / "train_color" / f"{key}.jpg",
            wad / "train_label" / f"{key}_instanceIds.png",
            side,
            ids,
            background,
        )
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(ids_found, expected[1])
        assert corner == expected[2]


@pytest.mark.parametrize(
    ("class_map", "names", "background"),
    [({}, CLASSES, 0), (MERGED[0], ["vehicle", "human"], None), (REST[0], ["human", "rest"], 1)],
)
def test_the_description_says_what_the_shards_hold(ingested, class_map, names, background):
    _, folder = label(ingested, class_maps={"wad": class_map})
    found = json.loads((folder / "dataset.json").read_text())
    assert [entry["name"] for entry in found["classes"]] == names
    assert found["background"] == background
    assert found["side"] == 16
    assert found["source_hash"] == read_manifest(ingested).content_hash
    assert found["test_is_val"] is False
    for split in SPLITS:
        labels = [crop[1] for crop in crops_in(folder / split).values()]
        assert found["pixels"][split] == [
            sum(int((ids == number).sum()) for ids in labels) for number in range(len(names))
        ]


def test_splits_share_no_drive_and_shards_hold_as_many_as_asked(ingested):
    _, folder = label(ingested)
    sides = [{key[:6] for key in crops_in(folder / split)} for split in SPLITS]
    assert [len(side) for side in sides] == [2, 1, 1]
    assert len(set.union(*sides)) == 4
    assert [len(np.load(path)) for path in sorted((folder / "train").glob("labels-*.npy"))] == [2, 2, 2]
    assert [len(np.load(path)) for path in sorted((folder / "val").glob("images-*.npy"))] == [2, 1]
    index = pd.read_csv(folder / "train" / "index.csv")
    assert (index["group"] == index["key"].str[:6] + "_5").all()


def test_two_runs_write_the_same_bytes(ingested):
    _, first = label(ingested)
    _, second = label(ingested, out="again")
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (first, second)
    ]
    assert contents[0] == contents[1]
    before = contents[0]
    label(ingested)
    assert {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("settings", [{"seed": 8}, {"crop": 17}, {"class_maps": {"wad": MERGED[0]}}, {"shard_size": 3}])
def test_another_parameter_is_another_content_hash(ingested, settings):
    hashes = [
        json.loads((folder / "dataset.json").read_text())["content_hash"]
        for _, folder in (label(ingested), label(ingested, out="other", **settings))
    ]
    assert len(set(hashes)) == 2


def test_quarantined_pairs_are_left_out(ingested):
    manifest = read_manifest(ingested)
    kept = manifest.rows.drop(index=[0, 7]).reset_index(drop=True)
    write_manifest(ingested.with_name("validate"), type(manifest)(rows=kept, origin=manifest.origin))
    _, folder = label(ingested)
    assert sorted(key for split in SPLITS for key in crops_in(folder / split)) == kept["key"].tolist()


def test_a_layouts_own_split_is_kept_and_validation_stands_for_a_missing_test(ingested, capsys):
    manifest = read_manifest(ingested)
    rows = manifest.rows.assign(split=["train"] * 8 + ["val"] * 4)
    write_manifest(ingested.with_name("validate"), type(manifest)(rows=rows, origin=manifest.origin))
    _, folder = label(ingested)
    assert [list(crops_in(folder / split)) for split in SPLITS] == [
        rows["key"][:8].tolist(),
        rows["key"][8:].tolist(),
        rows["key"][8:].tolist(),
    ]
    assert json.loads((folder / "dataset.json").read_text())["test_is_val"] is True
    assert "test is the validation split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"class_maps": {"wad": {"vehicle": ["car", "tram"]}}}, "'tram'"),
        ({"class_maps": {"wad": {"vehicle": ["car"], "motor": ["car"]}}}, "'car'"),
        ({"class_maps": {"wad": {"vehicle": ["car", "car"]}}}, "'car'"),
        ({"class_maps": {"wad": {"vehicle": ["car"], "nothing": []}}}, "'nothing'"),
    ],
)
def test_a_class_map_that_does_not_fit_is_one_line(ingested, capsys, settings, said):
    code, folder = label(ingested, **settings)
    assert code == 4
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("segline label: ")
    assert said in line
    assert not folder.exists()


def test_too_few_drives_are_one_line(ingested, capsys):
    manifest = read_manifest(ingested)
    rows = manifest.rows.assign(group="one")
    write_manifest(ingested.with_name("validate"), type(manifest)(rows=rows, origin=manifest.origin))
    code, _ = label(ingested)
    assert code == 4
    [line] = capsys.readouterr().err.splitlines()
    assert "group" in line


def test_a_missing_manifest_is_one_line(ingested, capsys):
    (ingested.with_name("validate") / NAME).unlink()
    assert label(ingested)[0] == 5
    [line] = capsys.readouterr().err.splitlines()
    assert "manifest.parquet" in line


def test_a_source_that_is_gone_is_one_line(wad, ingested, capsys):
    shutil.rmtree(wad)
    code, folder = label(ingested)
    assert code in (3, 4, 5)
    [line] = capsys.readouterr().err.splitlines()
    assert "wad" in line
    assert not folder.exists()
