"""Which file knows a source, and what becomes of the files of another."""

import json
import shutil
import subprocess
import sys

import pytest

from segline.data.pairs import open_tree
from segline.data.sources import SOURCES
from segline.errors import StageError
from segline.files.packs import Packs
from segline.files.s3 import Bucket
from segline.files.trees import Folder

SCENES = {"drives": 3, "frames_per_drive": 1, "height": 96, "width": 128}


@pytest.mark.parametrize("source", ["ftp://host/data", "s3:/bucket", "synthetic", "gs://bucket/x", "C:\\data", ":"])
def test_an_unknown_kind_is_one_line_that_lists_the_known(refused, source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = refused(source)
    assert ("unknown kind" in said and all(scheme in said for scheme in SOURCES)) or source == "synthetic"


@pytest.mark.parametrize(("root", "kind"), [("s3://bucket/x", Bucket), ("/data", Folder), ("data", Folder)])
def test_a_tree_is_found_again_by_its_root(tmp_path, root, kind):
    tree = open_tree(root, tmp_path)
    assert isinstance(tree, kind)
    assert tree.where == root
    assert open_tree("", tmp_path) == Packs(tmp_path / "files")


def test_what_a_source_does_not_need_is_not_loaded():
    code = "import sys, segline.data.sources; print(sorted({'boto3', 'botocore', 'dvc', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LIMITED = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from segline.cli import main
params = {"ingest": {"source": "synthetic:", "synthetic": json.loads(sys.argv[2])}}
sys.exit(main(["ingest", "--params", json.dumps(params), "--out", sys.argv[1]]))
"""


def test_a_full_disk_is_one_line_and_leaves_no_half_file(opening, files):
    words = [sys.executable, "-c", LIMITED, files.parent, json.dumps(SCENES)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    [line] = done.stderr.splitlines()
    assert done.returncode == 3
    assert "cannot be written (File too large)" in line
    assert not [path for path in files.rglob(".*") if path.name != ".segline"]
    assert len([path for path in opening("synthetic:", synthetic=SCENES).tree.files if path.endswith(".jpg")]) == 3


def test_scenes_are_drawn_once_and_again_for_another_recipe(opening, files):
    first = opening("synthetic:", synthetic=SCENES)
    assert (first.root, first.revision) == ("", "")
    images = [path for path in first.tree.files if path.endswith(".jpg")]
    assert len(images) == 3
    before = {path: first.tree.files[path] for path in images}
    again = opening("synthetic:", synthetic=SCENES).tree.files
    assert {path: again[path] for path in images} == before
    other = opening("synthetic:", synthetic=SCENES | {"width": 130}).tree.files
    assert all(other[path] != before[path] for path in images)


def test_scenes_are_drawn_again_when_the_code_of_the_renderer_changes(opening, monkeypatch):
    before = opening("synthetic:", synthetic=SCENES).tree.files
    monkeypatch.setattr("segline.data.sources.synthetic.code_hash", lambda packages: f"another {packages}")
    after = opening("synthetic:", synthetic=SCENES).tree.files
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before)


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [("synthetic:", {"layout": "camvid"}, "'wad'"), ("synthetic:streets", {}, "expected 'synthetic:' alone")],
)
def test_scenes_that_cannot_be_are_one_line(refused, files, source, settings, said):
    assert said in refused(source, synthetic=SCENES, **settings)
    assert not files.exists()


def test_files_of_another_kind_are_not_mixed(opening, files, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").touch()
    shutil.make_archive(str(tmp_path / "packed"), "tar", tmp_path / "source")
    opening("synthetic:", synthetic=SCENES)
    assert list(opening(tmp_path / "packed.tar").tree.files) == ["a"]
    files.with_name("files.old").mkdir()
    (files.with_name("files.old") / "of a killed run").touch()
    assert "a" not in opening("synthetic:", synthetic=SCENES).tree.files
    assert sorted(path.name for path in files.parent.iterdir()) == [".files.lock", "files"]


@pytest.mark.parametrize(
    ("source", "settings", "key"),
    [
        ("folder", {"sha256": "0" * 64}, "ingest.sha256"),
        ("s3://bucket/x", {"sha256": "0" * 64}, "ingest.sha256"),
        ("dvc://folder", {"sha256": "0" * 64}, "ingest.sha256"),
        ("synthetic:", {"sha256": "0" * 64}, "ingest.sha256"),
        ("folder", {"dvc": {"path": "data"}}, "ingest.dvc.path"),
        ("folder/a.zip", {"dvc": {"revision": "v1"}}, "ingest.dvc.revision"),
        ("https://localhost/x.zip", {"dvc": {"revision": "v1"}}, "ingest.dvc.revision"),
        ("s3://bucket/x", {"dvc": {"revision": "v1"}}, "ingest.dvc.revision"),
        ("synthetic:", {"dvc": {"path": "data"}}, "ingest.dvc.path"),
    ],
)
def test_a_setting_for_another_kind_is_one_line(refused, files, monkeypatch, tmp_path, source, settings, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.zip").touch()
    said = refused(source, **settings)
    assert said.startswith(f"{key}: ")
    assert source in said
    assert "leave it" in said
    assert not files.parent.exists()


def test_a_source_that_is_not_there_is_told_before_its_checksum(refused, tmp_path):
    assert "is not there" in refused(tmp_path / "missing.zip", sha256="0" * 64)


def test_what_was_kept_goes_when_the_source_is_read_in_place(opening, refused, files, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").touch()
    opening("synthetic:", synthetic=SCENES)
    for name in ("files.partial", "files.download", "files.old"):
        shutil.copytree(files, files.with_name(name))
    (files.parent / "manifest.parquet").touch()
    refused(tmp_path / "missing")
    assert files.is_dir()
    opening(tmp_path / "source")
    assert [path.name for path in files.parent.iterdir()] == [".files.lock"]
    for name in ("files", "files.partial", "files.download"):
        files.with_name(name).mkdir()
        (files.with_name(name) / "mine").touch()
    (files.parent / "manifest.parquet").touch()
    opening(tmp_path / "source")
    assert len(list(files.parent.rglob("mine"))) == 3
    assert (files.parent / "manifest.parquet").is_file()


@pytest.mark.parametrize("source", [".", "mine"])
def test_a_source_in_the_folder_of_packs_is_not_removed(opening, files, source):
    opening("synthetic:", synthetic=SCENES)
    (files / "mine").mkdir()
    (files / "mine/a.jpg").touch()
    assert all((files / source / path).is_file() for path in opening(files / source).tree.files)
    assert (files / "mine/a.jpg").is_file()


def test_the_single_files_of_an_earlier_version_are_replaced(opening, files):
    files.mkdir(parents=True)
    (files / ".segline").write_text("synthetic: of 0.2.0", encoding="utf-8")
    (files / "a.jpg").touch()
    (files.parent / "manifest.parquet").touch()
    tree = opening("synthetic:", synthetic=SCENES).tree
    assert "a.jpg" not in tree.files
    assert sorted(path.name for path in files.iterdir()) == [".segline", "00000.tar", "index.json"]
    assert not (files.parent / "manifest.parquet").exists()


def test_scenes_of_another_recipe_do_not_leave_the_manifest(opening, files):
    manifest = files.parent / "manifest.parquet"
    opening("synthetic:", synthetic=SCENES)
    manifest.touch()
    opening("synthetic:", synthetic=SCENES)
    assert manifest.is_file()
    opening("synthetic:", synthetic=SCENES | {"width": 130})
    assert not manifest.exists()


def test_files_of_others_are_left_alone(opening, files):
    files.mkdir(parents=True)
    (files / "mine").touch()
    with pytest.raises(StageError, match="did not put there"):
        opening("synthetic:", synthetic=SCENES)
    assert [path.name for path in files.iterdir()] == ["mine"]
