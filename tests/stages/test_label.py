"""Label is run through the command line and compared, crop by crop, with a slow computation of its own."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from contours import distance_to_contour
from PIL import Image

from segline.artifacts.dataset import part_file
from segline.artifacts.manifest import FILE, read_manifest, write_manifest
from segline.artifacts.validation import STATISTICS as STATISTICS
from segline.artifacts.validation import VALIDATION, read_statistics, write_statistics
from segline.cli import main
from segline.config.sections import STREET_CLASSES
from segline.data.pairs import open_tree
from segline.data.reading import open_split
from segline.data.statistics import measure
from segline.errors import StageError
from segline.stages import label as stage

SPLITS = ("train", "val", "test")
CROPPED = ("train", "val_crops", "test_crops")
"""The folders with crops, if models are judged on crops."""
SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}
CLASSES = ["background", "car", "motorbicycle", "bicycle", "person", "truck", "bus", "tricycle"]
CLASS_OF = {33: "car", 36: "person", 38: "truck", 161: "car"}


@pytest.fixture
def manifest_dir(wad, tmp_path):
    """The small WAD folder, ingested and taken for whole."""
    params = json.dumps({"ingest": {"source": str(wad)}})
    assert main(["ingest", "--params", params, "--out", str(tmp_path / "ingest")]) == 0
    manifest = read_manifest(tmp_path / "ingest")
    write_validated(tmp_path / "validate", manifest)
    write_statistics(
        tmp_path / "validate", measure(manifest, open_tree(manifest.origin.root, tmp_path), pieces=tmp_path / "pieces")
    )
    VALIDATION.write_mark(tmp_path / "validate")
    return tmp_path / "ingest"


def write_validated(folder, manifest):
    """What validate leaves of a manifest, when it takes every pair for whole."""
    write_manifest(folder, manifest)
    if (folder / STATISTICS).exists():
        table = read_statistics(folder)
        write_statistics(folder, table[table["key"].isin(manifest.rows["key"])].reset_index(drop=True))
    VALIDATION.write_mark(folder)


def label(manifest_dir, out="label", seed=7, exclusions=None, on="crops", validate_on="frames", **settings):
    """Run ``segline label``; returns its exit code and the folder that it wrote."""
    split = {"method": "balanced", **SHARES}
    sections = {"label": {"sampling": "max_foreground", "crop": 16, "shard_size": 2, "split": split, **settings}}
    sections |= {"evaluate": {"on": on}, "train": {"validate_on": validate_on}}
    params = json.dumps({"seed": seed, **sections})
    folder = manifest_dir.with_name(out)
    words = [
        "--manifest",
        str(manifest_dir),
        "--validation",
        str(manifest_dir.with_name("validate")),
        "--out",
        str(folder),
    ]
    words += ["--exclusions", str(exclusions)] if exclusions else []
    return main(["label", "--params", params, *words]), folder


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of(path):
    """The class name of every pixel of a label file."""
    raw = np.array(Image.open(path))
    number = np.where(raw >= 1000, raw // 1000, raw)
    return np.vectorize(lambda value: CLASS_OF.get(int(value), "background"))(number)


def expected_crop(image_path, label_path, side, ids, background):
    """Image, class ids and corner of the fullest window nearest to the center, by counting each."""
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
def test_every_crop_equals_a_slow_computation(wad, manifest_dir, side, class_map, ids, background):
    code, folder = label(manifest_dir, crop=side, class_maps={"wad": class_map})
    assert code == 0
    found = {key: crop for split in CROPPED for key, crop in crops_in(folder / split).items()}
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
def test_the_description_says_what_the_shards_hold(manifest_dir, class_map, names, background):
    _, folder = label(manifest_dir, class_maps={"wad": class_map})
    found = json.loads((folder / "dataset.json").read_text())
    assert [entry["name"] for entry in found["classes"]] == names
    assert found["background"] == background
    assert found["crop_size"] == [16, 16]
    assert found["source_hash"] == read_manifest(manifest_dir).content_hash
    assert found["test_is_val"] is False
    for split in SPLITS:
        opened = open_split(folder, split)
        labels = [opened.take([number])[1] for number in range(len(opened))]
        assert found["pixels"][split] == [
            sum(int((ids == number).sum()) for ids in labels) for number in range(len(names))
        ]


def test_splits_share_no_drive_and_shards_hold_as_many_as_asked(manifest_dir):
    _, folder = label(manifest_dir)
    sides = [{key[:6] for key in crops_in(folder / split)} for split in CROPPED]
    assert [len(side) for side in sides] == [2, 1, 1]
    assert len(set.union(*sides)) == 4
    assert [len(np.load(path)) for path in sorted((folder / "train").glob("labels-*.npy"))] == [2, 2, 2]
    assert [len(np.load(path)) for path in sorted((folder / "val_crops").glob("images-*.npy"))] == [2, 1]
    index = pd.read_csv(folder / "train" / "index.csv")
    assert (index["group"] == index["key"].str[:6] + "_5").all()


def test_two_runs_write_the_same_bytes(manifest_dir):
    _, first = label(manifest_dir)
    _, second = label(manifest_dir, out="again")
    before = files(first)
    assert before == files(second)
    label(manifest_dir)
    assert files(first) == before


@pytest.mark.usefixtures("one_ray_session")
def test_any_number_of_workers_writes_the_same_bytes(manifest_dir):
    _, alone = label(manifest_dir)
    code, together = label(manifest_dir, out="together", workers=3)
    assert code == 0
    assert files(together) == files(alone)


@pytest.mark.parametrize("shards", [0, 1, 4, 9])
def test_a_killed_run_keeps_the_shards_that_are_whole(manifest_dir, monkeypatch, capsys, shards):
    _, undisturbed = label(manifest_dir, out="undisturbed")
    made = []

    def make_shard(shard):
        if len(made) == shards:
            # In the middle of a shard or pack: its images are there, and what says that it is whole is not.
            real(shard)
            part_file(shard.folder, shard.number).unlink()
            raise KeyboardInterrupt
        made.append(shard.number)
        return real(shard)

    real = stage.make_shard
    monkeypatch.setattr(stage, "make_shard", make_shard)
    code, folder = label(manifest_dir)
    assert code == 130
    assert not folder.exists()
    monkeypatch.setattr(stage, "make_shard", lambda shard: made.append(shard.number) or real(shard))
    capsys.readouterr()
    code, folder = label(manifest_dir)
    assert code == 0
    assert len(made) == 11
    assert ("from a run before" in capsys.readouterr().out) == (shards > 0)
    assert files(folder) == files(undisturbed)


@pytest.mark.parametrize("change", [{"seed": 8}, {"crop": 17}, {"distances": ["border"]}])
def test_shards_of_a_killed_run_with_other_parameters_are_not_taken(manifest_dir, monkeypatch, change):
    real, made = stage.make_shard, []

    def make_shard(shard):
        if made:
            raise KeyboardInterrupt
        made.append(real(shard))
        return made[0]

    monkeypatch.setattr(stage, "make_shard", make_shard)
    assert label(manifest_dir)[0] == 130
    monkeypatch.setattr(stage, "make_shard", real)
    _, folder = label(manifest_dir, **change)
    _, undisturbed = label(manifest_dir, out="undisturbed", **change)
    assert files(folder) == files(undisturbed)


def test_tiles_fill_shards_with_about_as_many_crops_as_asked(manifest_dir):
    _, folder = label(manifest_dir, sampling="tiles", crop=24, shard_size=8)
    # An image of 40 x 48 px has 2 x 2 tiles, so a shard has those of two images.
    sizes = [len(np.load(path)) for path in sorted((folder / "train").glob("labels-*.npy"))]
    assert sizes == [8, 8, 8]
    split = open_split(folder, "train")
    assert split.index["key"].value_counts().eq(4).all()
    assert set(zip(split.index["top"], split.index["left"], strict=True)) == {(0, 0), (0, 24), (16, 0), (16, 24)}


def test_distances_are_written_on_demand(manifest_dir):
    code, folder = label(manifest_dir, distances=["signed", "border"])
    assert code == 0
    _, plain = label(manifest_dir, out="other")
    for split in CROPPED:
        found, expected = open_split(folder, split), open_split(plain, split)
        positions = range(len(expected))
        maps = found.take_distances(["border", "signed"], positions)
        images, labels = found.take(positions)
        np.testing.assert_array_equal(images, expected.take(positions)[0])
        np.testing.assert_array_equal(labels, expected.take(positions)[1])
        border = np.stack([distance_to_contour(label) for label in labels])
        np.testing.assert_allclose(maps["border"][:, 0], border, rtol=2**-11)
        assert maps["signed"].shape == (len(labels), len(STREET_CLASSES), 16, 16)
        with_contour = maps["border"] < 1000
        for class_id, signed in enumerate(np.moveaxis(maps["signed"], 1, 0)):
            inside = (labels == class_id) & with_contour[:, 0]
            np.testing.assert_array_equal(signed[inside], -maps["border"][:, 0][inside])
            assert (signed[~inside] >= 0).all()
        with pytest.raises(StageError, match=r"label\.distances lacks 'touching'"):
            found.take_distances(["touching"], [0])
    assert {path.name.split("-")[0] for path in plain.rglob("*.npy")} == {"images", "labels"}


@pytest.mark.parametrize("given", [["bordr"], "border", [1], {"border": True}, ["border", None]])
def test_an_unknown_kind_of_distances_is_refused_before_any_stage_runs(manifest_dir, capsys, given):
    code, folder = label(manifest_dir, distances=given)
    assert code == 2
    assert f"label.distances: got {given!r}" in capsys.readouterr().err
    assert not folder.exists()


def test_exclusions_leave_out_images_and_ignore_boxes(manifest_dir, tmp_path, capsys):
    keys = read_manifest(manifest_dir).rows["key"].tolist()
    path = tmp_path / "exclusions.csv"
    path.write_text(f"key,top,left,height,width,reason\n{keys[2]},,,,,bad\n{keys[3]},0,0,40,48,\ngone,,,,,\n")
    code, folder = label(manifest_dir, exclusions=path)
    assert code == 0
    crops = {key: crop for split in CROPPED for key, crop in crops_in(folder / split).items()}
    assert sorted(crops) == sorted(set(keys) - {keys[2]})
    assert (crops[keys[3]][1] == 255).all()
    assert "1 images not in the data, the first is 'gone'" in capsys.readouterr().out


def test_exclusions_in_the_test_split_are_told(manifest_dir, tmp_path, capsys):
    key = next(iter(crops_in(label(manifest_dir)[1] / "test_crops")))
    path = tmp_path / "exclusions.csv"
    path.write_text(f"key,top,left,height,width\n{key},0,0,4,4\n")
    capsys.readouterr()
    label(manifest_dir, exclusions=path)
    assert f"exclusions ignore parts of 1 test images, the first is {key!r}" in capsys.readouterr().out


@pytest.mark.parametrize(("part", "workers"), [("train_color", 1), ("train_label", 1), ("train_label", 2)])
@pytest.mark.usefixtures("one_ray_session")
def test_a_file_that_changed_since_it_was_ingested_is_not_labelled(wad, manifest_dir, capsys, part, workers):
    first, other = sorted((wad / part).iterdir())[:2]
    first.write_bytes(other.read_bytes())
    code, folder = label(manifest_dir, workers=workers)
    assert code == 4
    [line] = capsys.readouterr().err.splitlines()
    assert "it has changed since it was ingested" in line
    assert sorted((wad / "train_color").iterdir())[0].stem in line
    assert not folder.exists()


def test_the_statistics_are_those_of_the_training_pairs(manifest_dir):
    _, folder = label(manifest_dir)
    assert read_statistics(folder)["key"].tolist() == list(crops_in(folder / "train"))


def test_folds_validate_on_every_pair_once(manifest_dir):
    seen = [
        key
        for fold in range(4)
        for key in crops_in(label(manifest_dir, split={"folds": 4, "fold": fold}, out=f"fold{fold}")[1] / "val_crops")
    ]
    assert sorted(seen) == read_manifest(manifest_dir).rows["key"].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "random"},
        {"crop": 17},
        {"class_maps": {"wad": MERGED[0]}},
        {"shard_size": 3},
        {"on": "frames"},
        {"frames": {"max_side": 40}},
    ],
)
def test_another_parameter_is_another_content_hash(manifest_dir, settings):
    hashes = [
        json.loads((folder / "dataset.json").read_text())["content_hash"]
        for _, folder in (label(manifest_dir), label(manifest_dir, out="other", **settings))
    ]
    assert len(set(hashes)) == 2


def test_quarantined_pairs_are_left_out(manifest_dir):
    manifest = read_manifest(manifest_dir)
    kept = manifest.rows.drop(index=[0, 7]).reset_index(drop=True)
    write_validated(manifest_dir.with_name("validate"), type(manifest)(rows=kept, origin=manifest.origin))
    _, folder = label(manifest_dir)
    assert sorted(key for split in CROPPED for key in crops_in(folder / split)) == kept["key"].tolist()


def test_a_layouts_own_split_is_kept_and_validation_stands_for_a_missing_test(manifest_dir, capsys):
    manifest = read_manifest(manifest_dir)
    rows = manifest.rows.assign(split=["train"] * 8 + ["val"] * 4)
    write_validated(manifest_dir.with_name("validate"), type(manifest)(rows=rows, origin=manifest.origin))
    _, folder = label(manifest_dir)
    assert [list(crops_in(folder / split)) for split in CROPPED] == [
        rows["key"][:8].tolist(),
        rows["key"][8:].tolist(),
        rows["key"][8:].tolist(),
    ]
    assert json.loads((folder / "dataset.json").read_text())["test_is_val"] is True
    assert "test is the validation split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"vehicle": ["car", "tram"]}, "label.class_maps.wad: unknown class 'tram'"),
        ({"vehicle": ["car"], "motor": ["car"]}, "label.class_maps.wad: names 'car' twice"),
        ({"vehicle": ["car", "car"]}, "label.class_maps.wad: names 'car' twice"),
        ({"vehicle": ["car"], "nothing": []}, "label.class_maps.wad.nothing: got no classes"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused_before_any_stage_runs(manifest_dir, capsys, wanted, said):
    code, folder = label(manifest_dir, class_maps={"wad": wanted})
    assert code == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_too_few_drives_are_one_line(manifest_dir, capsys):
    manifest = read_manifest(manifest_dir)
    rows = manifest.rows.assign(group="one")
    write_validated(manifest_dir.with_name("validate"), type(manifest)(rows=rows, origin=manifest.origin))
    code, _ = label(manifest_dir)
    assert code == 4
    [line] = capsys.readouterr().err.splitlines()
    assert "group" in line


@pytest.mark.parametrize("name", [FILE, STATISTICS])
def test_a_missing_manifest_or_statistics_is_one_line(manifest_dir, capsys, name):
    (manifest_dir.with_name("validate") / name).unlink()
    assert label(manifest_dir)[0] == 5
    [line] = capsys.readouterr().err.splitlines()
    assert name in line


def test_a_source_that_is_gone_is_one_line(wad, manifest_dir, capsys):
    shutil.rmtree(wad)
    code, folder = label(manifest_dir)
    assert code in (3, 4, 5)
    [line] = capsys.readouterr().err.splitlines()
    assert "wad" in line
    assert not folder.exists()


def test_validation_and_test_hold_the_frames_as_they_are(wad, manifest_dir):
    code, folder = label(manifest_dir, on="frames")
    assert code == 0
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["test", "train", "val"]
    merged = {name: number for number, old in enumerate(STREET_CLASSES.values()) for name in old}
    keys = []
    for name in ("val", "test"):
        split = open_split(folder, name)
        packed = b"".join(path.read_bytes() for path in sorted((folder / name).glob("*.pack")))
        assert len(list((folder / name).glob("*.pack"))) == 2
        for number, key in enumerate(split.keys(range(len(split)))):
            (image,), (ids,) = split.take([number])
            path = wad / "train_color" / f"{key}.jpg"
            np.testing.assert_allclose(image, np.asarray(Image.open(path).convert("RGB")), atol=2)
            names = names_of(wad / "train_label" / f"{key}_instanceIds.png")
            np.testing.assert_array_equal(ids, np.vectorize(merged.get)(names))
            assert path.read_bytes() in packed
            keys.append(key)
    assert not set(keys) & set(crops_in(folder / "train"))


@pytest.mark.parametrize(
    ("asked", "crops"),
    [
        ({"on": "frames"}, []),
        ({"on": "frames", "validate_on": "crops"}, ["val_crops"]),
        ({"on": "crops"}, ["val_crops", "test_crops"]),
    ],
    ids=str,
)
def test_crops_to_judge_on_are_written_if_they_are_asked_for(manifest_dir, asked, crops):
    _, folder = label(manifest_dir, **asked)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"train", "val", "test", *crops}
    _, cropped = label(manifest_dir, out="cropped")
    assert files(folder / "val") == files(cropped / "val")
    if "val_crops" in crops:
        assert files(folder / "val_crops") == files(cropped / "val_crops")


def test_a_pack_has_a_bounded_number_of_pixels(manifest_dir, monkeypatch):
    monkeypatch.setattr(stage, "PACK_PIXELS", 40 * 48 + 1)
    _, folder = label(manifest_dir, shard_size=100)
    assert len(list((folder / "val").glob("*.pack"))) == len(open_split(folder, "val")) == 3
