"""The synthetic streets: files, labels and repeatability, on a set of 12 small frames."""

import csv
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from streets import write_streets

HEIGHT, WIDTH, DRIVES, FRAMES = 96, 128, 3, 4
CLASSES = {33, 34, 35, 36, 38, 39, 40}
GROUPS = {161, 162, 163, 164, 166, 167, 168}
Digests = dict[str, str]


def write(folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "drives": DRIVES,
        "frames_per_drive": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "missing_label_share": 0.25,
        "seed": 5,
    }
    write_streets(folder, **(settings | changes))
    return folder


def digests(folder: Path) -> Digests:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def labels(folder: Path) -> dict[str, NDArray[np.uint16]]:
    """Label maps by the name of their image."""
    return {
        f"train_color/{path.name.removesuffix('_instanceIds.png')}.jpg": np.asarray(Image.open(path))
        for path in sorted(folder.glob("train_label/*.png"))
    }


def missing(folder: Path) -> list[dict[str, str]]:
    with (folder / "missing_labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same streets with no label left out."""
    return write(tmp_path_factory.mktemp("complete"), missing_label_share=0.0)


def test_every_frame_has_an_rgb_jpeg_and_a_16_bit_label_of_the_size_asked_for(streets: Path) -> None:
    images, maps = sorted(streets.glob("train_color/*")), sorted(streets.glob("train_label/*"))
    assert len(images) == len(maps) == DRIVES * FRAMES
    for image, label in zip(images, maps, strict=True):
        assert label.name == f"{image.stem}_instanceIds.png"
        with Image.open(image) as picture, Image.open(label) as values:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
            assert (values.format, values.mode, values.size) == ("PNG", "I;16", (WIDTH, HEIGHT))


def test_labels_hold_instances_groups_and_the_two_backgrounds_only(streets: Path) -> None:
    for label in labels(streets).values():
        for value in np.unique(label).tolist():
            assert value // 1000 in CLASSES or value in GROUPS | {0, 255}


def test_every_frame_has_objects_but_is_mostly_background(complete: Path) -> None:
    shares = [float((label >= 1000).mean()) for label in labels(complete).values()]
    assert min(shares) > 0.0
    assert max(shares) < 0.6
    assert 0.03 < float(np.mean(shares)) < 0.25


def test_lists_name_every_frame_of_a_drive_in_the_order_of_time(streets: Path) -> None:
    lists = sorted(streets.glob("train_video_list/*_image_list_train.txt"))
    assert len(lists) == DRIVES
    named = [[line.split("\t") for line in path.read_text().splitlines()] for path in lists]
    for frames in named:
        assert len(frames) == FRAMES
        assert frames == sorted(frames)
        assert len({(Path(image).name[:6], image[-5]) for image, _ in frames}) == 1  # one date, one camera
        assert all((streets / name).is_file() for pair in frames for name in pair)
    assert len({image for frames in named for image, _ in frames}) == DRIVES * FRAMES


def test_consecutive_frames_differ(streets: Path) -> None:
    images = [np.asarray(Image.open(path)).astype(int) for path in sorted(streets.glob("train_color/*"))]
    assert all(np.abs(a - b).mean() > 2.0 for a, b in pairwise(images))


def test_left_out_objects_are_listed_and_nothing_else_is_changed(streets: Path, complete: Path) -> None:
    rows = missing(streets)
    assert len(rows) == round(0.25 * DRIVES * FRAMES)
    assert missing(complete) == []
    incomplete = labels(streets)
    for row in rows:
        value = int(row["value"])
        assert int(row["class_id"]) == value // 1000
        full = labels(complete)[row["image"]]
        assert int(row["pixels"]) == (full == value).sum() >= 12
        np.testing.assert_array_equal(incomplete.pop(row["image"]), np.where(full == value, 0, full))
    for image, label in incomplete.items():
        np.testing.assert_array_equal(label, labels(complete)[image])
    for path in streets.glob("train_color/*"):
        assert path.read_bytes() == (complete / "train_color" / path.name).read_bytes()


def test_two_workers_write_what_one_writes(streets: Path, tmp_path: Path) -> None:
    assert digests(write(tmp_path, workers=2)) == digests(streets)


def test_another_seed_gives_other_streets(streets: Path, tmp_path: Path) -> None:
    other = digests(write(tmp_path, drives=1, seed=6))
    assert not set(other.values()) & set(digests(streets).values())


@pytest.mark.parametrize("lose", [lambda name: "label" in name, lambda name: "color" in name, lambda name: True])
def test_a_run_that_was_cut_off_is_completed(streets: Path, tmp_path: Path, lose: Callable[[str], bool]) -> None:
    write(tmp_path)
    for index, name in enumerate(digests(tmp_path)):
        if lose(name) and index % 5 == 0:
            (tmp_path / name).unlink()
    write(tmp_path)
    assert digests(tmp_path) == digests(streets)


def test_frames_that_are_there_are_not_made_again(streets: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in streets.glob("train_*/*.[jp][pn]g")}
    write(streets)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_advances_by_one_after_each_frame(tmp_path: Path, workers: int) -> None:
    steps: list[int] = []
    write(tmp_path, drives=1, frames_per_drive=3, workers=workers, progress=steps.append)
    assert steps == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drives": 0}, "drives=0"),
        ({"frames_per_drive": 0}, "frames_per_drive=0"),
        ({"workers": 0}, "workers=0"),
        ({"height": 95}, "95 x 128"),
        ({"width": 4000}, "96 x 4000"),
        ({"missing_label_share": 1.5}, r"1\.5"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []
