"""The cache belongs to one user: others can neither guess it, nor read it, nor put something there beforehand."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from segline.files.cache import cache_dir


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home and a folder for temporary files of the test's own."""
    for name in ("SEGLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "home"
    os.environ.pop("SEGLINE_CACHE", None)


def mode(path):
    return path.stat().st_mode & 0o777


def test_it_is_in_the_home_and_closed_to_others(home):
    assert cache_dir() == home / ".cache" / "segline"
    assert mode(cache_dir()) == 0o700
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_the_variables_go_first(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "segline"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == home / ".cache" / "segline"
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "given"))
    assert cache_dir() == tmp_path / "given"


def test_a_folder_that_others_may_write_is_closed_to_them(home):
    (home / ".cache" / "segline").mkdir(parents=True)
    (home / ".cache" / "segline").chmod(0o777)
    assert mode(cache_dir()) == 0o700


def test_a_link_and_a_file_are_not_followed(home, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (home / ".cache").mkdir(parents=True)
    (home / ".cache" / "segline").symlink_to(tmp_path / "elsewhere")
    private = Path(tempfile.gettempdir(), f"segline-{os.geteuid()}")
    assert cache_dir() == private
    assert mode(private) == 0o700
    private.rmdir()
    private.touch()
    fresh = cache_dir()
    assert fresh.parent == private.parent
    assert fresh != private
    assert mode(fresh) == 0o700
    assert cache_dir() == fresh
    child = "from segline.files.cache import cache_dir; print(cache_dir())"
    said = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout
    assert said == f"{fresh}\n"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_not_used(home):
    theirs = home / ".cache" / "segline"
    theirs.mkdir(parents=True)
    os.chown(theirs, 12345, 12345)
    assert cache_dir() != theirs
    assert theirs.stat().st_uid == 12345


@pytest.mark.parametrize("name", ["/proc/no-home", "/dev/null"])
def test_without_a_home_it_is_a_private_folder(home, monkeypatch, name):
    monkeypatch.setenv("HOME", name)
    assert cache_dir() == Path(tempfile.gettempdir(), f"segline-{os.geteuid()}")
    assert mode(cache_dir()) == 0o700
