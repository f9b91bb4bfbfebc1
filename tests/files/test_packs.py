"""Packs are plain tars, of which any file is read by its offset, and damage is told by the file's own name."""

import hashlib
import io
import pickle
import subprocess
from concurrent.futures import ProcessPoolExecutor

import pytest

from segline.errors import StageError
from segline.files import pack_writer
from segline.files.pack_writer import packing
from segline.files.packs import Packs

CONTENTS = {f"images/{number:03d}.jpg": bytes([number]) * (number * 37) for number in range(60)} | {
    "ü/日本 a.txt": b"",
    "long/" + "x" * 180 + "/" + "y" * 120: b"long",
    "z.png": bytes(range(256)) * 80,
}


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_writer, "PACK_BYTES", 40_000)
    return write(tmp_path / "packed")


def write(folder, contents=CONTENTS):
    folder.mkdir()
    with packing(folder) as packs:
        for path, content in contents.items():
            packs.add(path, len(content), io.BytesIO(content))
    return folder


def tars(folder):
    return sorted(folder.glob("*.tar"))


def read(tree, path):
    return tree.read(path)


def test_every_file_is_read_as_it_was_written(packed):
    tree = Packs(packed)
    assert list(tree.files) == sorted(CONTENTS)
    for path, content in CONTENTS.items():
        assert tree.read(path) == content
        assert tree.head(path, 10) == content[:10]
        assert tree.files[path].size == len(content)
        assert tree.checksum(path) == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert 1 < len(tars(packed)) < 10
    assert all(pack.stat().st_size < 40_000 + 512 * 50 for pack in tars(packed))


def test_tar_gets_the_same_files_out(packed, tmp_path):
    (tmp_path / "out").mkdir()
    for pack in tars(packed):
        subprocess.run(["tar", "-xf", pack, "-C", tmp_path / "out"], check=True)
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == CONTENTS


def test_equal_files_give_equal_bytes(packed, tmp_path):
    again = write(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in packed.iterdir()
    }


def test_several_processes_read_at_once(packed):
    tree = Packs(packed)
    assert len(tree.files) == len(CONTENTS)
    assert len(pickle.dumps(tree)) < 1000  # no index travels with it
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(read, [tree] * len(CONTENTS), CONTENTS)) == list(CONTENTS.values())


def test_no_other_byte_of_a_pack_is_needed(packed):
    """All bytes but those of one file are others, and still it is read."""
    tree = Packs(packed)
    [first, *_] = tars(packed)
    whole = first.read_bytes()
    begin = whole.index(CONTENTS["images/020.jpg"])
    end = begin + len(CONTENTS["images/020.jpg"])
    first.write_bytes(bytes(~byte & 255 for byte in whole[:begin]) + whole[begin:end] + bytes(len(whole) - end))
    assert tree.read("images/020.jpg") == CONTENTS["images/020.jpg"]
    with pytest.raises(OSError, match=r"it is damaged: remove .*packed and ingest again") as caught:
        tree.read("images/019.jpg")
    assert caught.value.filename == "images/019.jpg"


def test_another_checksum_and_another_name_are_told(packed):
    with pytest.raises(OSError, match="has changed since it was ingested"):
        Packs(packed).read("z.png", "sha256:0")
    with pytest.raises(FileNotFoundError, match="not among the files"):
        Packs(packed).read("z.jpg")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"files": {}}', '{"files": {"a": ["../x", 0, 1, 2]}, "packs": {}}']
)
def test_a_broken_index_is_one_line(packed, content):
    (packed / "index.json").write_text(content, encoding="utf-8")
    with pytest.raises(StageError, match=r"index.json is missing or broken; run `segline ingest` again"):
        Packs(packed).read("z.png")


@pytest.mark.parametrize("change", ["cut", "removed"])
def test_a_pack_that_is_not_whole_is_one_line(packed, change):
    pack = tars(packed)[1]
    if change == "cut":
        pack.write_bytes(pack.read_bytes()[:-1])
    else:
        pack.unlink()
    with pytest.raises(
        StageError, match=r"00001.tar is missing or damaged \(expected \d+ bytes\); run `segline ingest`"
    ):
        Packs(packed).read("z.png")


def test_a_copy_has_no_bytes_of_its_own(tmp_path):
    (tmp_path / "packed").mkdir()
    with packing(tmp_path / "packed") as packs:
        packs.add("a", 3, io.BytesIO(b"abc"))
        packs.add_copy("b/c", "a")
    tree = Packs(tmp_path / "packed")
    assert (tree.read("a"), tree.read("b/c")) == (b"abc", b"abc")
    assert tars(tmp_path / "packed")[0].read_bytes().count(b"abc") == 1


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b", "a"]])
def test_a_file_that_is_also_a_folder_is_refused(tmp_path, paths):
    with pytest.raises(NotADirectoryError):
        write(tmp_path / "packed", dict.fromkeys(paths, b"1"))
    assert list((tmp_path / "packed").iterdir()) == []


def test_a_short_file_leaves_no_pack(tmp_path):
    with pytest.raises(EOFError, match="'a' is said to have 2 bytes"), packing(tmp_path) as packs:
        packs.add("a", 2, io.BytesIO(b"1"))
    assert list(tmp_path.iterdir()) == []
