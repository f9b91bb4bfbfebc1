"""Ingest is run through the command line on a small WAD folder."""

import hashlib
import json
import os
import shutil
import struct
import zlib

import pandas as pd
import pytest
from PIL import Image

from segline.artifacts.manifest import COLUMNS, read_manifest
from segline.cli import main
from segline.data.pairs import open_tree


@pytest.fixture
def out(tmp_path):
    return tmp_path / "ingest"


def ingest(source, out, **settings):
    """Run ``segline ingest``; returns its exit code."""
    params = {"ingest": {"source": str(source), **settings}}
    return main(["ingest", "--params", json.dumps(params), "--out", str(out)])


def files(folder):
    """Content and time of change of every file."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def sha256(path):
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def image_of(root, number):
    return sorted((root / "train_color").iterdir())[number]


def test_the_manifest_says_what_the_files_are(wad, out, capsys):
    assert ingest(wad, out) == 0
    manifest = read_manifest(out)
    assert "12 pairs in 4 groups" in capsys.readouterr().out
    assert list(manifest.rows) == list(COLUMNS)
    expected = []
    for image in sorted((wad / "train_color").iterdir()):
        label = wad / "train_label" / f"{image.stem}_instanceIds.png"
        expected.append(
            {
                "key": image.stem,
                "image": f"train_color/{image.name}",
                "label": f"train_label/{label.name}",
                "slice_index": -1,
                "group": f"{image.stem[:6]}_5",
                "split": "",
                "image_bytes": len(image.read_bytes()),
                "label_bytes": len(label.read_bytes()),
                "image_hash": sha256(image),
                "label_hash": sha256(label),
            }
        )
    pd.testing.assert_frame_equal(manifest.rows, pd.DataFrame(expected).astype(COLUMNS))
    assert (manifest.origin.source, manifest.origin.layout) == (str(wad), "wad")
    assert manifest.origin.root == str(wad)


def test_a_second_run_changes_no_byte_and_says_so(wad, out, capsys):
    ingest(wad, out)
    before = files(out.parent)
    capsys.readouterr()
    assert ingest(wad, out) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert files(out.parent) == before


def test_a_second_run_reads_no_image(wad, out, monkeypatch):
    ingest(wad, out)
    before = read_manifest(out).rows

    def refuse(*_):
        raise AssertionError("a file was read again")

    monkeypatch.setattr("segline.files.trees.file_hash", refuse)
    assert ingest(wad, out) == 0
    pd.testing.assert_frame_equal(read_manifest(out).rows, before)


def test_a_changed_image_changes_its_row_alone(wad, out, capsys):
    ingest(wad, out)
    before = read_manifest(out)
    Image.new("RGB", (50, 60)).save(image_of(wad, 3))
    assert ingest(wad, out) == 0
    assert "nothing changed" not in capsys.readouterr().out.splitlines()[-1]
    after = read_manifest(out)
    differs = (after.rows != before.rows).any(axis=1)
    assert differs[differs].index.tolist() == [3]
    assert after.rows.loc[3, "image_hash"] == sha256(image_of(wad, 3))
    assert after.content_hash != before.content_hash


def test_one_changed_byte_of_a_label_changes_the_hash(wad, out):
    ingest(wad, out)
    before = read_manifest(out).content_hash
    path = next((wad / "train_label").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ingest(wad, out)
    assert read_manifest(out).content_hash != before


def test_a_moved_folder_has_the_same_hash(wad, out):
    ingest(wad, out)
    moved = shutil.move(wad, out.parent / "moved")
    ingest(moved, out.with_name("other"))
    assert read_manifest(out.with_name("other")).content_hash == read_manifest(out).content_hash
    ingest(moved, out)
    assert read_manifest(out).origin.root == str(moved)


@pytest.mark.parametrize("edit", ["add", "remove"])
def test_pairs_come_and_go(wad, out, edit):
    ingest(wad, out)
    before = read_manifest(out).rows
    image = image_of(wad, 5)
    label = wad / "train_label" / f"{image.stem}_instanceIds.png"
    if edit == "add":
        for path in (image, label):
            shutil.copy(path, str(path).replace("Camera_5", "Camera_6"))
    else:
        image.unlink()
        label.unlink()
    ingest(wad, out)
    after = read_manifest(out).rows
    assert set(before["key"]) ^ set(after["key"]) == {image.stem.replace("_5", "_6") if edit == "add" else image.stem}


def test_a_list_that_names_another_label_is_seen(tmp_path, out):
    root = tmp_path / "camvid"
    for folder, shade in (("train", 0), ("one", 1), ("two", 2)):
        (root / folder).mkdir(parents=True)
        Image.new("L", (4, 4), shade).save(root / folder / "0001TP_1.bmp")
        os.utime(root / folder / "0001TP_1.bmp", ns=(1, 1))
    for labels in ("one", "two"):
        (root / "train.txt").write_text(f"train/0001TP_1.bmp {labels}/0001TP_1.bmp\n")
        assert ingest(root, out, layout="camvid") == 0
        [row] = read_manifest(out).rows.to_dict("records")
        assert row["label_hash"] == sha256(root / labels / "0001TP_1.bmp")


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, 2, 0, 0, 0)),
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10**4, 10**4, 8, 2, 0, 0, 0)),
    ],
    ids=["empty", "text", "cut off", "of 10^10 px", "of 10^8 px"],
)
def test_a_broken_image_is_left_to_validate(wad, out, content, recwarn):
    image_of(wad, 0).write_bytes(content)
    assert ingest(wad, out) == 0
    row = read_manifest(out).rows.loc[0]
    assert row["image_hash"] == sha256(image_of(wad, 0))


def test_a_broken_manifest_is_written_again(wad, out):
    ingest(wad, out)
    before = read_manifest(out)
    for name in ("manifest.parquet", "checksums.parquet"):
        (out / name).write_bytes(b"broken")
    assert ingest(wad, out) == 0
    pd.testing.assert_frame_equal(read_manifest(out).rows, before.rows)


def test_a_folder_named_like_our_own_is_read_in_place(wad, out, monkeypatch):
    monkeypatch.chdir(shutil.move(wad, wad.with_name("elsewhere")).parent)
    (wad.with_name("elsewhere")).rename("files")
    assert ingest("files", out) == 0
    manifest = read_manifest(out)
    assert open_tree(manifest.origin.root, out).read(manifest.rows["image"][0])


@pytest.mark.parametrize(
    ("source", "settings", "code", "said"),
    [
        ("missing", {}, 3, "is not there"),
        ("empty", {}, 3, "is empty"),
        ("file", {}, 3, "archive"),
        ("ftp://host/data", {}, 3, "unknown kind"),
        ("synthetic", {}, 3, "is not there"),
        ("synthetic:", {"layout": "camvid"}, 3, "'wad'"),
        ("wad", {"layout": "camvid"}, 4, "camvid layout"),
        ("other", {}, 4, "wad layout"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line(wad, out, monkeypatch, capsys, source, settings, code, said):
    monkeypatch.chdir(wad.parent)
    for name in ("empty", "other/images"):
        (wad.parent / name).mkdir(parents=True)
    (wad.parent / "file").touch()
    (wad.parent / "other/images/a.jpg").touch()
    assert ingest(source, out, **settings) == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("segline ingest: ")
    assert said in line
    assert not out.exists()


@pytest.mark.parametrize("side", ["train_color", "train_label"])
def test_a_file_without_partner_makes_a_pair_that_lacks_it(wad, out, capsys, side):
    lonely = sorted((wad / side).iterdir())[2]
    lonely.unlink()
    assert ingest(wad, out) == 0
    assert "12 pairs" in capsys.readouterr().out
    row = read_manifest(out).rows.loc[2]
    part, other = ("image", "label") if side == "train_color" else ("label", "image")
    assert row[[part, f"{part}_bytes", f"{part}_hash"]].tolist() == ["", 0, ""]
    assert row[other]
    assert row[f"{other}_bytes"]


def test_a_file_that_changes_between_two_looks_is_read_again(wad, out):
    """Even if its size and time of change are the same."""
    ingest(wad, out)
    path = next((wad / "train_label").iterdir())
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = read_manifest(out).content_hash
    ingest(wad, out)
    assert read_manifest(out).content_hash != before


def test_two_images_of_one_name_are_refused(tmp_path, out, capsys):
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "1.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "train.txt").write_text("1.png 1.png\na/1.png 1.png\n")
    assert ingest(tmp_path, out, layout="camvid") == 4
    [line] = capsys.readouterr().err.splitlines()
    assert "a/1.png" in line


def test_synthetic_scenes_are_drawn_once(out, capsys):
    scenes = {"drives": 3, "frames_per_drive": 1, "height": 96, "width": 128}
    assert ingest("synthetic:", out, synthetic=scenes) == 0
    manifest = read_manifest(out)
    assert manifest.origin.root == ""
    assert open_tree(manifest.origin.root, out).where == str(out / "files")
    assert manifest.rows["group"].nunique() == 3
    before = files(out)
    assert ingest("synthetic:", out, synthetic=scenes) == 0
    assert "nothing changed" in capsys.readouterr().out.splitlines()[-1]
    after = files(out)
    assert {path: content for path, (content, _) in after.items()} == {path: was for path, (was, _) in before.items()}
    assert all(after[path] == before[path] for path in before if path.suffix in (".jpg", ".png", ".parquet"))
    assert ingest("synthetic:", out, synthetic=scenes | {"frames_per_drive": 2}) == 0
    assert len(read_manifest(out).rows) == 6
