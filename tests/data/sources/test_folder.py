"""Folders of this machine, also those with traps in them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from servers import git

from segline.data.pairs import open_tree
from segline.errors import SourceError
from segline.files.trees import Folder


@pytest.fixture
def source(tmp_path, contents):
    root = tmp_path / "source"
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_folder_is_read_in_place(source, contents, opening, holds, files):
    opened = opening(source)
    assert holds(opened.tree) == contents
    assert (opened.root, opened.revision) == (str(source), "")
    assert holds(open_tree(opened.root, files.parent)) == contents
    assert not files.parent.exists()


def test_a_relative_folder_stays_relative(source, opening, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert opening("source").root == "source"
    monkeypatch.chdir(source)
    assert opening(".").root == "."


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing", "is not there"),
        ("source/plain.txt/x", "is not there"),
        ("empty", "is empty"),
        ("hidden", "is empty"),
        ("pipe", "is neither a folder nor a file"),
        ("loop", "is not there"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("", "unknown kind"),
    ],
)
def test_what_cannot_be_used_is_one_line(source, refused, monkeypatch, path, said):
    monkeypatch.chdir(source.parent)
    Path("empty/folder").mkdir(parents=True)
    Path("hidden").mkdir()
    Path("hidden/.file").touch()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    assert said in refused(path)


def test_links_are_followed_but_never_for_ever(source, contents, opening, holds, tmp_path):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "file").write_bytes(b"beside")
    for name, target in {
        "itself": "itself",
        "ring": "ring2",
        "ring2": "ring",
        "up": ".",
        "top": "/",
        "x/up": "../..",
        "x/nothing": "nothing",
        "x/through a file": "../plain.txt/file",
        "beside": "../beside",
        "file": "plain.txt",
    }.items():
        (source / name).symlink_to(target)
    (tmp_path / "beside" / "back").symlink_to(source)
    expected = contents | {"beside/file": b"beside", "file": contents["plain.txt"]}
    assert holds(opening(source).tree) == expected


def test_two_folders_that_lead_to_each_other_end(tmp_path):
    for one, other in ("ab", "ba"):
        (tmp_path / one).mkdir()
        (tmp_path / one / "file").touch()
        (tmp_path / one / "link").symlink_to(f"../{other}")
    assert list(Folder(tmp_path).files) == ["a/file", "a/link/file", "b/file", "b/link/file"]


def test_a_name_that_is_not_utf8_is_one_line(source, refused):
    os.mkdir(os.fsencode(source) + b"/sub\xff")
    said = refused(source)
    assert "UTF-8" in said
    assert said.isascii()


AS_NOBODY = """
import json, os, sys
from pathlib import Path
from segline.config.loader import load
from segline.data.sources import open_source
from segline.errors import SourceError
# The code itself may lie where nobody may read.
settings = [load(json.dumps({"ingest": {"source": source}})).ingest for source in sys.argv[1:]]
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for wanted in settings:
    try:
        tree = open_source(wanted, 0, Path("files")).tree
        for path in tree.files:
            try:
                tree.checksum(path)
            except OSError as error:
                print(path, error.strerror)
    except SourceError as error:
        print(error)
"""


def test_without_permission_it_is_one_line(tmp_path):
    if os.getuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):
            if folder == Path(tempfile.gettempdir()):
                break
            folder.chmod(0o755)
    shut = []
    for name, path in (("one", "one/sub"), ("two", "two/sub/file"), ("three", "three")):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").touch()
        (tmp_path / path).chmod(0)
        shut.append(tmp_path / path)
    words = [sys.executable, "-c", AS_NOBODY, *(tmp_path / name for name in ("one", "two", "three"))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/")
    for path in shut:
        path.chmod(0o755)
    of_folder, of_file, of_root = done.stdout.splitlines()
    assert of_folder == f"{tmp_path}/one/sub cannot be listed (Permission denied); fix it or remove it"
    assert of_file == "sub/file Permission denied"
    assert of_root == f"{tmp_path}/three cannot be listed (Permission denied); fix it or remove it"


@pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")
def test_a_folder_that_dvc_tracks_has_its_revision(source, opening, monkeypatch):
    from dvc.repo import Repo

    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(source.parent / "cache"))
    git("init", "--quiet", cwd=source.parent)
    with Repo.init(str(source.parent)) as repo:
        repo.add(str(source))
    revision = opening(source).revision
    assert revision.startswith("dvc:")
    assert revision.removeprefix("dvc:") in source.with_name("source.dvc").read_text()
    assert opening(f"{source}/").revision == revision
    source.with_name("source.dvc").write_text("not: dvc's")
    assert opening(source).revision == ""


def test_the_error_names_the_folder_that_was_looked_from(refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert f"(looked from {tmp_path})" in refused("nothing")


def test_a_folder_that_vanishes_is_one_line(source):
    tree = Folder(source / "vanished")
    with pytest.raises(SourceError, match="cannot be listed"):
        assert tree.files
