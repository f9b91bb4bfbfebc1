"""Names from elsewhere never lead out of the folder that is meant for them."""

import json

import pytest
from raw_s3 import raw_s3
from servers import forget_client, serving

from segline.cli import main
from segline.errors import SourceError
from segline.files.paths import name_problem, safe_path
from segline.files.transfer import download, upload
from segline.training.checkpoints import CheckpointStore

GOOD = ["a", "a/b.png", "ü/日本 1.txt", "..a/b..", "a:b/c", "...", "100% #1?&+.txt", "-", "~"]
BAD = [
    "",
    "/a",
    "//a",
    "a//b",
    "a/",
    "..",
    "a/../b",
    "../a",
    "a/..",
    ".",
    "./a",
    "a/./b",
    "a\\b",
    "..\\a",
    "C:",
    "c:/a",
    "a\0b",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_is_a_path_below_the_folder(name, tmp_path):
    assert safe_path(tmp_path, name, "here") == tmp_path / name


@pytest.mark.parametrize("name", BAD)
def test_any_other_name_is_refused_in_a_line(name, tmp_path):
    assert name_problem(name)
    with pytest.raises(SourceError) as caught:
        safe_path(tmp_path, name, "s3://lab")
    [line] = str(caught.value).splitlines()
    assert line.startswith("s3://lab: ")
    assert repr(name) in line


def test_a_link_in_the_folder_leads_nowhere_else(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "real").mkdir(parents=True)
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "inner").symlink_to(tmp_path / "in" / "real")
    (tmp_path / "in" / "file").symlink_to(tmp_path / "elsewhere" / "file")
    (tmp_path / "in" / "ring").symlink_to(tmp_path / "in" / "ring")
    assert safe_path(tmp_path / "in", "inner/a", "here")
    for name in ("out/a", "file", "out"):
        with pytest.raises(SourceError, match="through a link"):
            safe_path(tmp_path / "in", name, "here")


@pytest.fixture
def kept(s3, monkeypatch, tmp_path):
    """The objects of a server that keeps every key."""
    objects = {}
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    with serving(raw_s3(objects)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        forget_client()
        yield objects
    forget_client()


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


ESCAPES = ["lab3/{out}", "lab3//{out}", "lab3/a//b", "lab3/../../../{out}", "lab3/unet/..//x", "lab3/a\\..\\b"]


@pytest.mark.parametrize("key", ESCAPES[1:])
def test_a_download_writes_nothing_outside_of_its_folder(kept, tmp_path, key):
    kept |= {"lab3/good": b"1", key.format(out=str(tmp_path / "evil").lstrip("/")): b"2"}
    with pytest.raises(SourceError) as caught:
        download("s3://bucket/lab3")
    [line] = str(caught.value).splitlines()
    assert "the name" in line
    assert not (tmp_path / "evil").exists()
    assert not [name for name in files_below(tmp_path / "cache") if name.endswith(("evil", "/b", "/x"))]


@pytest.mark.parametrize("key", ESCAPES[1:3])
def test_the_mirror_of_checkpoints_writes_nothing_outside_of_its_folder(kept, tmp_path, key):
    kept |= {"lab3/unet/trial.json": b"{}", key.format(out=f"{tmp_path}/evil/x".lstrip("/")): b"2"}
    for trial in ("", "unet"):
        kept[f"lab3/unet/{key.removeprefix('lab3/').format(out=f'{tmp_path}/evil/x'.lstrip('/'))}"] = b"3"
        with pytest.raises(SourceError, match="the name"):
            CheckpointStore("s3://bucket/lab3").fetch(tmp_path / "work", trial)
    assert not (tmp_path / "evil").exists()


def test_the_markers_of_folders_are_skipped(kept, tmp_path):
    kept |= {"lab3/": b"", "lab3/a/": b"", "lab3/a/b": b"1", "lab3//": b""}
    assert files_below(download("s3://bucket/lab3")) == ["a/b"]


def test_a_command_ends_with_one_line(kept, tmp_path, capsys):
    kept |= {f"lab3/{tmp_path}/evil": b"1"}
    words = ["validate", "--params", "{}", "--manifest", "s3://bucket/lab3", "--out", str(tmp_path / "out")]
    assert main(words) == SourceError.exit_code
    [line] = capsys.readouterr().err.splitlines()
    assert "leads out of the folder" in line
    assert not (tmp_path / "evil").exists()


def test_what_a_stage_wrote_comes_back(kept, tmp_path):
    (tmp_path / "written" / "x").mkdir(parents=True)
    (tmp_path / "written" / "x" / "ü y").write_bytes(b"1")
    upload(tmp_path / "written", "s3://bucket/lab3")
    assert json.dumps(sorted(kept)) == json.dumps(["lab3/.segline", "lab3/x/ü y"])
    assert files_below(download("s3://bucket/lab3")) == [".segline", "x/ü y"]
