"""The line from an archive in packs ends in the same bytes as from a folder of the same files."""

import json
import shutil

import pytest

from segline.artifacts.manifest import read_manifest
from segline.cli import main

PARAMS = {
    "label": {"crop": 32, "sampling": "tiles"},
    "validate": {"min_pairs": 1, "min_side": 16, "min_sharpness": 0, "max_quarantined_share": 0.5},
}


def run(stage, source, folder, **words):
    params = json.dumps({"ingest": {"source": str(source)}, **PARAMS})
    options = [text for name, path in words.items() for text in (f"--{name}", str(folder / path))]
    return main([stage, "--params", params, *options, "--out", str(folder / stage)])


def run_line(source, folder):
    assert run("ingest", source, folder) == 0
    assert run("validate", source, folder, manifest="ingest") == 0
    assert run("label", source, folder, manifest="ingest", validation="validate") == 0
    names = ["validate/statistics.parquet", "validate/quarantine.csv", "validate/quarantine.jpg"]
    made = [path for kind in ("*.npy", "*.pack") for path in (folder / "label").rglob(kind)]
    labelled = [path.relative_to(folder).as_posix() for path in made]
    assert {path.suffix for path in made} == {".npy", ".pack"}
    return {name: (folder / name).read_bytes() for name in [*names, *labelled]}


@pytest.fixture
def archive(wad):
    (sorted((wad / "train_color").iterdir())[3]).write_bytes(b"no image")
    return shutil.make_archive(str(wad.with_name("packed")), "tar", wad)


def test_stages_read_packs_as_they_read_a_folder(wad, archive, tmp_path):
    expected = run_line(wad, tmp_path / "folder")
    assert run_line(archive, tmp_path / "packs") == expected
    assert b"train_color/170901_000000001_Camera_5.jpg: the file is not an image" in expected["validate/quarantine.csv"]
    assert sorted(path.name for path in (tmp_path / "packs/ingest/files").iterdir()) == [
        ".segline",
        "00000.tar",
        "index.json",
    ]
    hashes = {read_manifest(tmp_path / name / "ingest").content_hash for name in ("folder", "packs")}
    assert len(hashes) == 1


def test_a_damaged_byte_is_told_with_the_sources_name(archive, tmp_path, capsys):
    assert run("ingest", archive, tmp_path) == 0
    index = json.loads((tmp_path / "ingest/files/index.json").read_text(encoding="utf-8"))
    name = sorted(index["files"])[0]
    pack, offset, size, _ = index["files"][name]
    content = bytearray((tmp_path / "ingest/files" / pack).read_bytes())
    content[offset + size // 2] ^= 1
    (tmp_path / "ingest/files" / pack).write_bytes(content)
    assert run("validate", archive, tmp_path, manifest="ingest") == 0
    assert f"{name}: it is damaged: remove" in capsys.readouterr().out
    assert run("ingest", archive, tmp_path) == 3
    assert f"{name} cannot be read (it is damaged: remove" in capsys.readouterr().err


def test_a_damaged_index_is_one_line(archive, tmp_path, capsys):
    assert run("ingest", archive, tmp_path) == 0
    index = tmp_path / "ingest/files/index.json"
    index.write_text(index.read_text(encoding="utf-8").replace("train_color", "train_colour", 1), encoding="utf-8")
    assert run("validate", archive, tmp_path, manifest="ingest") == 5
    [line] = capsys.readouterr().err.splitlines()
    assert "index.json is damaged" in line
    assert "run `segline ingest` again" in line
