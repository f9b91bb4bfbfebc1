"""Locks keep other processes out, and end with the process that holds them."""

import signal
import subprocess
import sys
import time
from multiprocessing import get_context

import pytest

from segline.errors import BusyError
from segline.files import locks
from segline.files.locks import machine_lock, output_lock

HOLDER = """
import sys, time
from pathlib import Path
from segline.files import locks

with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def holding():
    """``holding(kind, path)`` starts a process that holds a lock."""
    processes = []

    def start(kind, path):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, kind, str(path)], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout.readline() == b"locked\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_an_output_is_locked_until_its_holder_is_killed(holding, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.05)
    process = holding("output_lock", tmp_path / "out")
    with pytest.raises(BusyError) as caught, output_lock(tmp_path / "out"):
        pass
    [line] = str(caught.value).splitlines()
    assert line == f"{tmp_path / 'out'} is being written by another segline; wait for it or stop it, then run again"
    with output_lock(tmp_path / "another"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with output_lock(tmp_path / "out"):
        pass


def append_twice(path):
    with machine_lock(path), path.open("a") as stream:
        stream.write("begin\n")
        stream.flush()
        time.sleep(0.005)  # Without the lock another process would write in between.
        stream.write("end\n")


def test_processes_wait_for_each_other(tmp_path):
    path = tmp_path / "deep" / "log"
    with get_context("spawn").Pool(3) as pool:
        pool.map(append_twice, [path] * 60, chunksize=1)
    assert path.read_text() == "begin\nend\n" * 60
    assert sorted(file.name for file in path.parent.iterdir()) == ["log"]


def test_a_lock_ends_with_an_error(holding, tmp_path):
    with pytest.raises(KeyError), machine_lock(tmp_path / "x"):
        raise KeyError
    with machine_lock(tmp_path / "x"):
        pass
    holding("machine_lock", tmp_path / "x")
