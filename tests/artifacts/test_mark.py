"""The mark of an artifact: every damage to any of its files is told in one line, and nothing else is."""

import json
import os
import zlib

import pytest
from damage import Damage, files_of

from segline import __version__
from segline.artifacts.artifact import Artifact
from segline.artifacts.manifest import MANIFEST
from segline.errors import StageError

THING = Artifact(name="thing", stage="label", format=7, code=())
FILES = {"facts.json": b"{}", "a/part-0.npy": bytes(range(256)) * 9, "b/deep/part.csv": b"x,y\n1,2\n", "empty": b""}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    THING.write_mark(folder)
    return folder


def refusal(check, *arguments, **more):
    with pytest.raises(StageError) as caught:
        check(*arguments, **more)
    [line] = str(caught.value).splitlines()
    return line


def test_the_mark_holds_format_version_sizes_and_sums(folder):
    content = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    assert (content["artifact"], content["format"], content["version"]) == ("thing", 7, __version__)
    assert content["files"] == {name: [len(content), zlib.crc32(content)] for name, content in FILES.items()}
    THING.check(folder)


@pytest.mark.parametrize("name", [*FILES, "artifact.json"])
@pytest.mark.parametrize("kind", Damage.KINDS)
def test_every_damage_names_the_file_and_the_stage(folder, name, kind):
    with Damage(folder / name, kind) as changed:
        if not changed:
            pytest.skip("an empty file stays as it is")
        line = refusal(THING.check, folder)
    assert name in line
    assert line.endswith("run `segline label` again")
    assert ("written by 0.1" in line) == (name == "artifact.json" and kind == "deleted")
    THING.check(folder)


def test_every_bit_of_the_mark_counts(folder):
    """Also that of white space, of keys and of the seal."""
    whole = (folder / "artifact.json").read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            (folder / "artifact.json").write_bytes(flipped)
            assert "artifact.json is damaged; run `segline label` again" in refusal(THING.check, folder)


def test_two_files_that_changed_places_are_seen(folder):
    (folder / "a/part-1.npy").write_bytes(FILES["a/part-0.npy"][::-1])
    THING.write_mark(folder)
    os.rename(folder / "a/part-0.npy", folder / "kept")
    os.rename(folder / "a/part-1.npy", folder / "a/part-0.npy")
    os.rename(folder / "kept", folder / "a/part-1.npy")
    assert "a/part-0.npy is damaged (CRC" in refusal(THING.check, folder)


def test_a_file_of_somebody_else_is_refused_unless_it_is_hidden(folder):
    """A reader finds shards and candidates by their names, so that one more would be read."""
    for name in (".DS_Store", "a/.nfs0001", ".ipynb_checkpoints/part.npy"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    THING.check(folder)
    (folder / "a/part-1.npy").write_bytes(b"x")
    assert refusal(THING.check, folder) == (
        f"{folder}/a/part-1.npy is not from `segline label`; move it away, or run `segline label` again"
    )


def test_a_folder_that_is_gone_is_seen_as_a_candidate_would_be(folder):
    os.rename(folder / "b", folder.parent / "elsewhere")
    assert refusal(THING.check, folder) == f"{folder}/b/deep/part.csv is missing; run `segline label` again"


def test_a_reader_of_some_folders_does_not_wait_for_others(folder):
    (folder / "a/part-0.npy").write_bytes(b"damaged")
    THING.check(folder, folders=("b",))
    THING.check(folder, folders=())
    assert "a/part-0.npy" in refusal(THING.check, folder, folders=("a", "b"))
    (folder / "facts.json").write_bytes(b"[]")
    assert "facts.json" in refusal(THING.check, folder, folders=())


@pytest.mark.parametrize("number", [1, 2, 6, 7])
def test_a_mark_without_sums_is_an_older_format_and_not_damage(folder, number):
    (folder / "artifact.json").write_text(json.dumps({"artifact": "thing", "format": number}), encoding="utf-8")
    line = refusal(THING.check, folder)
    assert f"written by an earlier segline in the older format {number}, expected 7; run `segline label` again" in line


def test_another_format_and_another_artifact_are_named(folder):
    Artifact(name="thing", stage="label", format=8, code=()).write_mark(folder)
    assert refusal(THING.check, folder) == (
        f"{folder} was written by segline {__version__} in the newer format 8, expected 7; install that version, or "
        "run `segline label` again"
    )
    Artifact(name="other", stage="train", format=7, code=()).write_mark(folder)
    assert f"{folder} holds the other, expected the thing" in refusal(THING.check, folder)


def test_a_folder_of_0_1_is_told_from_an_empty_one(tmp_path):
    assert refusal(THING.check, tmp_path) == f"{tmp_path}/artifact.json is missing; run `segline label` again"
    (tmp_path / "dataset.json").write_text("{}", encoding="utf-8")
    assert "was written by 0.1" in refusal(THING.check, tmp_path)


def test_files_that_are_links_are_read_as_dvc_leaves_them(folder, tmp_path):
    os.rename(folder / "a/part-0.npy", tmp_path / "cached")
    os.symlink(tmp_path / "cached", folder / "a/part-0.npy")
    THING.check(folder)
    (tmp_path / "cached").unlink()
    assert "a/part-0.npy is missing" in refusal(THING.check, folder)


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("segline.artifacts.mark._crc", refuse)
    assert "a/part-0.npy cannot be read (Permission denied)" in refusal(THING.check, folder)


def test_the_manifest_alone_counts_beside_copied_pictures_and_known_checksums(tmp_path):
    """The pictures have their checksums in the manifest."""
    for name in ("manifest.parquet", "checksums.parquet", "files/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    MANIFEST.write_mark(tmp_path)
    (tmp_path / "files/b.png").write_bytes(b"")
    (tmp_path / "checksums.parquet").unlink()
    MANIFEST.check(tmp_path)
    for kind in Damage.KINDS:
        with Damage(tmp_path / "manifest.parquet", kind):
            assert "manifest.parquet" in refusal(MANIFEST.check, tmp_path)
    assert [path.name for path in files_of(tmp_path)] == ["artifact.json", "a.png", "b.png", "manifest.parquet"]
