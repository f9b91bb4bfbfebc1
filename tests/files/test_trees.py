"""Trees are held against what Python itself finds in the folder."""

import hashlib
import os
import threading
import time

import pytest

from segline.errors import SourceError
from segline.files.trees import Checked, File, Folder, prefetch

NAMES = ["a/b/c.png", "a/ü ñ.jpg", "b.txt", "z/1.png", "z/10.png", "z/2.png"]


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_every_file_is_listed_in_order_with_its_size(root):
    files = Folder(root).files
    assert list(files) == sorted(NAMES)
    assert {name: file.size for name, file in files.items()} == {name: len(name.encode()) for name in NAMES}


def test_hidden_files_are_left_out(root):
    (root / ".git").mkdir()
    for name in (".git/config", "a/.x.tmp"):
        (root / name).touch()
    assert list(Folder(root).files) == sorted(NAMES)


def test_content_head_and_checksum_are_those_of_the_file(root):
    tree = Folder(root)
    assert tree.read("b.txt") == b"b.txt"
    assert (tree.head("b.txt", 2), tree.head("b.txt", 99)) == (b"b.", b"b.txt")
    assert tree.checksum("b.txt") == f"sha256:{hashlib.sha256(b'b.txt').hexdigest()}"
    with pytest.raises(OSError, match="No such file"):
        tree.read("missing")


def test_a_stamp_changes_with_the_content_even_if_size_and_time_do_not(root):
    before = Folder(root).files["b.txt"]
    stat = (root / "b.txt").stat()
    (root / "b.txt").write_text("B.txt")
    os.utime(root / "b.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = Folder(root).files["b.txt"]
    assert after.size == before.size
    assert after.stamp != before.stamp


def test_links_are_followed_and_those_in_a_circle_are_not(root):
    other = root.with_name(f"{root.name}-other")
    (other / "in").mkdir(parents=True)
    (other / "in" / "x.png").touch()
    (root / "link").symlink_to(other)
    (root / "up").symlink_to(root)
    (root / "a" / "b" / "back").symlink_to(root / "a")
    (other / "round").symlink_to(root)
    (root / "nowhere").symlink_to(root / "missing")
    assert list(Folder(root).files) == sorted([*NAMES, "link/in/x.png"])


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(SourceError, match="cannot be listed"):
        assert Folder(tmp_path / "missing").files


def test_a_checked_tree_gives_no_file_that_has_changed(root):
    tree = Folder(root)
    checked = Checked(tree, {"b.txt": tree.checksum("b.txt")})
    assert checked.read("b.txt") == b"b.txt"
    assert (checked.where, checked.files, checked.head("b.txt", 1)) == (tree.where, tree.files, b"b")
    for name in ("b.txt", "z/1.png"):
        (root / name).write_text("other")
    assert checked.read("z/1.png") == b"other"
    with pytest.raises(OSError, match="it has changed since it was ingested"):
        checked.read("b.txt")
    with prefetch(checked, ["b.txt"]) as ahead, pytest.raises(OSError, match="it has changed"):
        ahead.read("b.txt")


class Slow:
    """A tree that takes its time, and says what was read by whom."""

    where = "slow"
    files = {name: File(1, "") for name in "abcdef"}

    def __init__(self):
        self.read_by = []

    def read(self, path, checksum=""):
        time.sleep(0.02)
        if path == "e":
            raise OSError("broken")
        self.read_by.append((path, threading.current_thread()))
        return path.encode()

    def head(self, path, size):
        return path.encode()[:size]

    def checksum(self, path):
        return path


def test_files_read_ahead_are_the_same_and_read_once_each():
    slow = Slow()
    with prefetch(slow, list("abcdcf")) as tree:
        assert [tree.read(path) for path in "abcd"] == [b"a", b"b", b"c", b"d"]
        assert tree.read("c") == b"c"
        assert tree.read("f") == b"f"
        assert (tree.where, tree.files, tree.head("ab", 1), tree.checksum("a")) == ("slow", Slow.files, b"a", "a")
    assert sorted(path for path, _ in slow.read_by) == list("abccdf")
    assert {path for path, thread in slow.read_by if thread is threading.current_thread()} == {"c"}


def test_reading_ahead_gives_way_to_another_order_and_hands_errors_on():
    with prefetch(Slow(), list("abe")) as tree:
        assert tree.read("d") == b"d"
        assert tree.read("a") == b"a"
        assert tree.read("b") == b"b"
        with pytest.raises(OSError, match="broken"):
            tree.read("e")


def test_no_more_than_the_depth_is_held():
    slow = Slow()
    with prefetch(slow, list("abcdf"), depth=2) as tree:
        tree.read("a")
        time.sleep(0.2)
        assert len(slow.read_by) <= 2
