"""A bucket as the source of ``segline ingest``."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from servers import Refuse

from segline.artifacts.manifest import read_manifest
from segline.cli import main
from segline.data.pairs import layout_of, open_tree


@pytest.fixture
def wad(tmp_path):
    """Key -> bytes of a few pairs of the wad layout, with names that are not easy."""
    found = {}
    for number in range(12):
        stem = f"17090{number % 4}_{number:09d} ü_Camera_5"
        for path, shade in ((f"train_color/{stem}.jpg", (number, 0, 0)), (f"train_label/{stem}_instanceIds.png", 0)):
            Image.new("RGB" if shade else "L", (8, 6), shade).save(tmp_path / f"one{path[-4:]}")
            found[f"data set/{path}"] = (tmp_path / f"one{path[-4:]}").read_bytes()
    return found


def ingest(source, out):
    return main(["ingest", "--params", json.dumps({"ingest": {"source": source}}), "--out", str(out)])


def test_a_bucket_is_read_in_place(bucket, wad, tmp_path, capsys, s3):
    name = bucket(wad)
    url, out = f"s3://{name}/data set", tmp_path / "out"
    assert ingest(url, out) == 0
    manifest = read_manifest(out)
    assert "12 pairs in 4 groups" in capsys.readouterr().out
    assert (manifest.origin.root, manifest.origin.source, manifest.origin.revision) == (url, url, "")
    assert {path.name for path in out.rglob("*")} >= {"artifact.json", "checksums.parquet", "manifest.parquet"}
    assert {path.suffix for path in out.rglob("*")} == {".json", ".parquet"}
    assert not [path for method, path, _ in s3.asked if method == "GET" and path.endswith((".jpg", ".png"))]
    tree = open_tree(manifest.origin.root, out)
    for image in manifest.rows["image"]:
        assert tree.read(image) == wad[f"data set/{image}"]
    pixels = layout_of(manifest.origin).read_image(tree, manifest.rows["image"][0], -1)
    assert np.asarray(pixels).shape == (6, 8, 3)


def test_a_second_run_says_that_nothing_changed_and_a_changed_object_changes_its_row(bucket, wad, tmp_path, capsys):
    name = bucket(wad)
    url, out = f"s3://{name}/data set/", tmp_path / "out"
    ingest(url, out)
    before = read_manifest(out)
    assert ingest(url, out) == 0
    assert "nothing changed" in capsys.readouterr().out.splitlines()[-1]
    bucket({min(wad): os.urandom(len(wad[min(wad)]))}, name)
    assert ingest(url, out) == 0
    after = read_manifest(out)
    differs = (after.rows != before.rows).any(axis=1)
    assert differs[differs].index.tolist() == [0]
    assert after.content_hash != before.content_hash


@pytest.mark.parametrize(
    ("prefix", "fault", "said"),
    [("nothing", None, "holds no objects"), ("data set", Refuse(403, "AccessDenied"), "access denied")],
)
def test_what_cannot_be_used_is_one_line(bucket, wad, tmp_path, capsys, s3, prefix, fault, said):
    name = bucket({min(wad): b"1"})
    s3.faults = [fault]
    assert ingest(f"s3://{name}/{prefix}", tmp_path / "out") == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("segline ingest: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_bucket_without_a_name_is_one_line(capsys, tmp_path):
    assert ingest("s3://", tmp_path / "out") == 3
    [line] = capsys.readouterr().err.splitlines()
    assert "s3://bucket/prefix" in line
