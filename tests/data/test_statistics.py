"""The statistics of a pair beside plain loops, and how pairs stand to one another beside a comparison of all."""

import io
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from segline.artifacts.manifest import COLUMNS, Manifest, Origin
from segline.artifacts.validation import STATISTICS_COLUMNS, read_statistics, write_statistics
from segline.classes import IGNORED, LabelClass
from segline.data import statistics
from segline.data.layouts import LAYOUTS, UNKNOWN, LabelSpec
from segline.data.layouts.layout import build_lut
from segline.data.pairs import layout_of
from segline.data.statistics import (
    find_duplicates,
    measure,
    nearest_phashes,
    of_image,
    of_label,
    phash,
    reduction,
    sharpness,
)
from segline.errors import StageError
from segline.files.trees import Folder

CLASSES = tuple(LabelClass(name, (0, 0, 0)) for name in ("ground", "car", "person"))
LABEL_SPEC = LabelSpec(CLASSES, 0, build_lut([(0, 0), (7, 1), (40_000, 2), (9, 1), (255, IGNORED)]))


def noise(seed=0, size=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def street(seed=0, size=(300, 400)):
    """Smooth shades, which look alike at any size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def grey_levels(image):
    return [[round((299 * r + 587 * g + 114 * b) / 1000) for r, g, b in row] for row in image.tolist()]


def test_light_and_sharpness_agree_with_plain_loops():
    image = noise()
    found = of_image(image)
    grey = grey_levels(image)
    levels = [level for row in grey for level in row]
    mean = sum(levels) / len(levels)
    assert found["brightness"] == pytest.approx(mean, abs=0.1)
    assert found["contrast"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in levels) / len(levels)), abs=0.1)
    edges = [
        grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] + grey[y][x + 1] - 4 * grey[y][x]
        for y in range(1, len(grey) - 1)
        for x in range(1, len(grey[0]) - 1)
    ]
    assert found["sharpness"] == pytest.approx(np.var(edges), rel=1e-2)
    assert sharpness(np.array(grey, np.uint8)) == pytest.approx(np.var(edges))


def test_the_look_agrees_with_a_plain_cosine_transform():
    small = noise(1, (32, 32))[..., 0].astype(int)
    wanted = [
        sum(
            small[y, x] * math.cos(math.pi * u * (2 * y + 1) / 64) * math.cos(math.pi * v * (2 * x + 1) / 64)
            for y in range(32)
            for x in range(32)
        )
        for u in range(8)
        for v in range(8)
    ]
    median = (sorted(wanted)[31] + sorted(wanted)[32]) / 2
    bits = "".join("1" if value > median else "0" for value in wanted)
    assert f"{phash(Image.fromarray(small.astype(np.uint8))):064b}" == bits


def saved(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return np.asarray(Image.open(stream))


def bits_between(one, other):
    return (int(of_image(one)["phash"], 16) ^ int(of_image(other)["phash"], 16)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_copies_look_alike_and_others_do_not(seed):
    image = Image.fromarray(street(seed))
    copies = {
        "compressed": saved(image, quality=40),
        "smaller": np.asarray(image.resize((200, 150))),
        "brighter": np.asarray(image.point(lambda level: min(255, level + 10))),
        "blurred": np.asarray(image.filter(ImageFilter.GaussianBlur(2))),
    }
    assert {name: bits_between(street(seed), copy) > 4 for name, copy in copies.items()} == dict.fromkeys(copies, False)
    assert bits_between(street(seed), street(seed + 10)) > 12


def test_a_blurred_image_is_less_sharp():
    """The lower the value, the more blurred is the image."""
    sharp = Image.fromarray(noise(0, (300, 400)))
    values = [of_image(np.asarray(sharp.filter(ImageFilter.GaussianBlur(radius))))["sharpness"] for radius in (0, 1, 3)]
    assert values == sorted(values, reverse=True)
    assert of_image(np.full((30, 30, 3), 80, np.uint8)) == {
        "brightness": 80,
        "contrast": 0,
        "sharpness": 0,
        "phash": "",
    }


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (700, 1), (256, 256), (257, 3000)])
def test_any_size_has_statistics(size):
    found = of_image(noise(0, size))
    assert all(np.isfinite(found[name]) for name in ("brightness", "contrast", "sharpness"))


def test_large_images_are_measured_at_the_fixed_size():
    image = noise(3, (256, 384))
    halves = image.astype(float).reshape(128, 2, 192, 2, 3).mean((1, 3)) @ [0.299, 0.587, 0.114]
    found = of_image(image)
    assert found["brightness"] == pytest.approx(halves.mean(), abs=0.6)  # Pillow rounds up, once for each axis
    assert found["contrast"] == pytest.approx(halves.std(), rel=0.02)


@pytest.mark.parametrize(
    ("shortest", "expected"), [(100, 1), (255, 1), (256, 2), (511, 2), (512, 4), (1024, 8), (9000, 8)]
)
def test_an_image_is_reduced_as_far_as_the_fixed_size_allows(shortest, expected):
    assert reduction(shortest, statistics.SIDE) == expected


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("values", [(0, 7, 9, 255, 5, 250), (7,), (255,), (0, 7), (5,)], ids=str)
@pytest.mark.parametrize("runs", [1, 13])
def test_pixels_are_counted_one_by_one(kind, values, runs):
    large = (*values, 40_000, 41_000) if kind == np.uint16 else values
    raw = np.repeat(np.random.default_rng(0).choice(np.array(large, kind), (20, 30 // runs)), runs, axis=1)
    found = of_label(raw, LABEL_SPEC)
    classes = Counter(int(LABEL_SPEC.lut[value]) for value in raw.ravel().tolist())
    assert found["class_pixels"] == [classes[number] for number in range(3)]
    assert found["labelled_pixels"] == sum(found["class_pixels"])
    assert found["ignored_pixels"] == classes[IGNORED]
    unknown = sorted({value for value in raw.ravel().tolist() if LABEL_SPEC.lut[value] == UNKNOWN})
    assert found["unknown_values"] == ", ".join(map(str, unknown))
    assert (found["label_height"], found["label_width"]) == raw.shape
    labelled = found["labelled_pixels"]
    assert found["foreground_share"] == ((classes[1] + classes[2]) / labelled if labelled else None)


def test_without_background_every_class_is_foreground():
    assert of_label(np.array([[0, 7]]), replace(LABEL_SPEC, background=None))["foreground_share"] == 1


def test_only_the_first_unknown_values_are_listed():
    assert of_label(np.arange(100, 110)[None], LABEL_SPEC)["unknown_values"] == "100, 101, 102, 103, 104 and 5 more"


def manifest_of(root):
    tree = Folder(root)
    pairs = LAYOUTS["wad"]().find(tree)
    facts = {"image_bytes": 1, "label_bytes": 1, "image_hash": "", "label_hash": ""}
    rows = pd.DataFrame([vars(pair) | facts for pair in pairs], columns=list(COLUMNS)).astype(COLUMNS)
    return Manifest(rows, Origin(source=str(root), layout="wad")), tree


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "wad"
    for folder in ("train_color", "train_label"):
        (root / folder).mkdir(parents=True)
    for number in range(10):
        name = f"170908_{number:09d}_Camera_5"
        Image.fromarray(noise(number)).save(root / "train_color" / f"{name}.jpg")
        label = np.full((40, 48), 33_000 + number, np.uint16)
        Image.fromarray(label).save(root / "train_label" / f"{name}_instanceIds.png")
    (root / "train_color" / "170908_000000003_Camera_5.jpg").write_bytes(b"")
    (root / "train_label" / "170908_000000004_Camera_5_instanceIds.png").unlink()
    return manifest_of(root)


def test_a_row_has_what_can_be_known_and_misses_the_rest(data, tmp_path):
    table = measure(*data, pieces=tmp_path / "pieces").set_index("key")
    broken, half, whole = (table.loc[f"170908_{number:09d}_Camera_5"] for number in (3, 4, 5))
    assert (broken["image_error"], broken["label_error"], broken["mode"]) == ("the file is empty", "", "")
    assert pd.isna(broken["height"])
    assert broken["labelled_pixels"] == 40 * 48
    assert (half["image_error"], half["label_error"], half["height"]) == ("", "", 40)
    assert pd.isna(half["labelled_pixels"])
    assert (whole["height"], whole["width"], whole["mode"], whole["bits"], whole["orientation"]) == (
        40,
        48,
        "RGB",
        8,
        1,
    )
    assert json.loads(whole["classes"])[1] == "car"
    assert list(whole["class_pixels"]) == [0, 40 * 48, 0, 0, 0, 0, 0, 0]


def test_neither_threads_nor_pieces_show_in_the_rows(data, tmp_path, monkeypatch):
    whole = measure(*data, pieces=tmp_path / "whole")
    pool = statistics.ThreadPoolExecutor
    monkeypatch.setattr(statistics, "ThreadPoolExecutor", lambda: pool(1))
    monkeypatch.setattr(statistics, "PIECE", 3)
    seen = []
    pd.testing.assert_frame_equal(measure(*data, pieces=tmp_path / "parts", progress=seen.append), whole)
    assert sum(seen) == 10


def test_a_run_that_is_killed_continues_but_looks_again_where_a_file_was_bad(data, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "PIECE", 2)
    whole, examine = measure(*data, pieces=tmp_path / "whole"), statistics.examine
    looked = []

    def counted(pair, *rest):
        looked.append(pair["key"])
        if len(looked) == 8:
            raise KeyboardInterrupt
        return examine(pair, *rest)

    monkeypatch.setattr(statistics, "examine", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(*data, pieces=tmp_path / "parts")
    looked[:] = ["before"] * 8
    pd.testing.assert_frame_equal(measure(*data, pieces=tmp_path / "parts"), whole)
    assert [key[7:16] for key in looked[8:]] == [f"{number:09d}" for number in (2, 3, 6, 7, 8, 9)]


def test_no_pairs_are_a_table_without_rows(data, tmp_path):
    manifest, tree = data
    table = measure(replace(manifest, rows=manifest.rows.iloc[:0]), tree, pieces=tmp_path / "pieces")
    assert (len(table), list(table)) == (0, list(STATISTICS_COLUMNS))
    rows = pd.concat([manifest.rows.iloc[:0], table.drop(columns="key")], axis=1)
    assert len(find_duplicates(rows, distance=4)) == 0


def test_a_layout_that_reads_for_itself_needs_no_header(data, tmp_path):
    manifest, tree = data

    def read(tree, path, slice_index, *, box=None, reduce=1):
        return noise(slice_index, (30, 20))

    layout = replace(
        layout_of(manifest.origin),
        read_image=read,
        read_label=lambda tree, path, slice_index: np.full((30, 20), slice_index),
    )
    row = statistics.examine({"key": "a", "image": "v", "label": "w", "slice_index": 7}, layout, LABEL_SPEC, tree)
    assert (row["height"], row["width"], row["mode"], row["class_pixels"]) == (30, 20, "", [0, 600, 0])
    assert row["phash"] == of_image(noise(7, (30, 20)))["phash"]


def test_statistics_are_read_as_they_were_written(data, tmp_path):
    table = measure(*data, pieces=tmp_path / "pieces")
    write_statistics(tmp_path, table)
    pd.testing.assert_frame_equal(read_statistics(tmp_path), table)
    of_0_1 = table.rename(columns={"sharpness": "blur", "phash": "looks"})
    of_0_1.to_parquet(tmp_path / "statistics.parquet", index=False)
    pd.testing.assert_frame_equal(read_statistics(tmp_path), table)


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_missing_statistics_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "statistics.parquet").write_bytes(content)
    with pytest.raises(StageError, match=r"statistics\.parquet is missing or broken; run `segline validate` again"):
        read_statistics(tmp_path)


def test_statistics_of_another_kind_are_refused(tmp_path):
    pd.DataFrame({"key": ["a"]}).to_parquet(tmp_path / "statistics.parquet")
    with pytest.raises(StageError, match="missing or broken"):
        read_statistics(tmp_path)


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_look_alikes_are_those_that_a_comparison_of_all_finds(distance):
    rng = np.random.default_rng(distance)
    hashes = np.repeat(rng.integers(0, 2**63, 40, dtype=np.uint64), 5)
    for bit in range(6):
        hashes ^= rng.integers(0, 2, 200, dtype=np.uint64) << np.uint64(7 * bit)
    side, file, counted = rng.integers(0, 3, 200), rng.integers(0, 150, 200), rng.random(200) < 0.9
    expected = []
    for one in range(200):
        others = [
            (bits, other)
            for other in range(200)
            if side[one] != side[other]
            and file[one] != file[other]
            and counted[one]
            and counted[other]
            and (bits := (int(hashes[one]) ^ int(hashes[other])).bit_count()) <= distance
        ]
        expected.append(min(others, default=(0, -1))[1])
    assert nearest_phashes(hashes, [side, file], counted, distance).tolist() == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("seed", range(20))
def test_many_images_of_few_looks_find_the_first_that_differs_in_every_label(seed):
    rng = np.random.default_rng(seed)
    hashes = rng.choice(np.array([0, 1, 3, 2**40], np.uint64), 150)
    labels = [rng.integers(0, size, 150) for size in (2, 3, 4)[: 1 + seed % 3]]
    labels[0][:100] = 0  # so that the first of a look seldom differs
    expected = []
    for one in range(150):
        bits = [(int(hashes[one]) ^ int(phash)).bit_count() for phash in hashes]
        apart = [all(label[one] != label[other] for label in labels) for other in range(150)]
        near = [(bits[other], other) for other in range(150) if apart[other] and bits[other] <= 1]
        expected.append(min(near, default=(0, -1))[1])
    assert nearest_phashes(hashes, labels, np.ones(150, bool), 1).tolist() == expected


def test_thousands_of_images_of_one_look_are_compared_with_few(monkeypatch):
    """Two hundred million pairs are alike here, of which two times five are looked at for each image."""
    hashes = np.repeat(np.array([5, 2**40], np.uint64), 10_000)
    seen = []
    divmod_of = np.divmod
    monkeypatch.setattr(np, "divmod", lambda found, width: (seen.append(len(found)), divmod_of(found, width))[1])
    side, file = np.arange(20_000) % 100, np.arange(20_000)
    nearest = nearest_phashes(hashes, [side, file], np.ones(20_000, bool), 4)
    assert nearest[[0, 1, 10_000, 10_001]].tolist() == [1, 0, 10_001, 10_000]
    assert sum(seen) <= 20_000 * 2 * 5


def rows_of(*rows):
    """A table from (key, image hash, label hash, phash, group, split) with every other column in order."""
    table = pd.DataFrame(rows, columns=["key", "image_hash", "label_hash", "phash", "group", "split"])
    return table.assign(
        image="i" + table["key"], label="l" + table["key"], slice_index=-1, image_error="", label_error=""
    )


def related(table, column, distance=2):
    found = find_duplicates(table, distance=distance)[column]
    return {key: text for key, text in zip(table["key"], found, strict=True) if text}


def test_of_equal_pairs_one_is_kept_first_that_of_the_test_split():
    table = rows_of(
        ("a", "1", "1", "", "g", "train"),
        ("b", "1", "1", "", "g", "test"),
        ("c", "1", "1", "", "g", "val"),
        ("d", "2", "1", "", "g", "train"),
    )
    assert related(table, "duplicate_of") == {"a": "b", "c": "b"}
    assert related(table.assign(split=""), "duplicate_of") == {"b": "a", "c": "a"}
    assert related(table.assign(slice_index=[0, 0, 1, 0]), "duplicate_of") == {"a": "b"}


def test_one_image_with_two_label_maps_is_a_conflict_of_all():
    table = rows_of(("a", "1", "1", "", "g", ""), ("b", "1", "2", "", "g", ""), ("c", "1", "1", "", "g", ""))
    assert related(table, "conflicts_with") == {"a": "b", "b": "a", "c": "a"}
    assert related(table, "duplicate_of") == {}


@pytest.mark.parametrize("change", [{"image_error": "broken"}, {"label_error": "broken"}, {"label": ""}, {"image": ""}])
def test_broken_and_half_pairs_are_nobodys_duplicate(change):
    table = rows_of(("a", "1", "1", "ff", "g", "train"), ("b", "1", "1", "ff", "h", "val"))
    for column, value in change.items():
        table.loc[1, column] = value
    assert not find_duplicates(table, distance=2)[["duplicate_of", "conflicts_with", "looks_like"]].any(axis=None)


def test_look_alikes_count_across_splits_or_else_across_groups():
    table = rows_of(
        ("a", "1", "1", "ff00", "g", "train"),
        ("b", "2", "2", "ff01", "g", "train"),
        ("c", "3", "3", "ff03", "h", "train"),
        ("d", "4", "4", "ff07", "h", "val"),
        ("e", "5", "5", "", "h", "val"),
    )
    assert related(table, "looks_like") == {"b": "d of val", "c": "d of val", "d": "c of train"}
    assert related(table.assign(split=""), "looks_like") == {"a": "c of h", "b": "c of h", "c": "b of g", "d": "b of g"}
    assert related(table.assign(split="", group="g"), "looks_like") == {}


def test_a_group_in_several_splits_is_told():
    table = rows_of(
        ("a", "1", "1", "", "g", "train"),
        ("b", "2", "2", "", "g", "val"),
        ("c", "3", "3", "", "g", "test"),
        ("d", "4", "4", "", "h", "val"),
        ("e", "5", "5", "", "i", ""),
    )
    assert related(table, "other_splits") == {"a": "test, val", "b": "test, train", "c": "train, val"}
