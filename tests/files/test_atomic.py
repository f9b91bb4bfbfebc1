"""Outputs are whole or not there, also when their writer is killed; real processes are killed here."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segline.errors import BusyError, StageError
from segline.files import atomic, locks
from segline.files.atomic import write_file, write_json, write_text, writing

HOLDER = """
import sys, time
from pathlib import Path
from segline.files.atomic import write_text, writing

with writing(Path(sys.argv[1]), fingerprint="same") as work:
    write_text(work / "piece", "of the killed one")
    (work / "sub").mkdir(exist_ok=True)
    (work / "sub" / ".torn.1.tmp").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
REWRITER = """
import sys
from itertools import count
from pathlib import Path
from segline.files.atomic import write_text, writing

for number in count():
    with writing(Path(sys.argv[1])) as work:
        for name in "abcd":
            write_text(work / name, str(number))
    if number == 0:
        print("writing", flush=True)
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "line" / "stage"


def start(script, out):
    """A process that has begun to write ``out``."""
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != atomic.MARK
    }


def write(out, fingerprint="", **files):
    with writing(out, fingerprint=fingerprint) as work:
        for name, text in files.items():
            write_text(work / name, text)


def test_a_whole_folder_takes_its_name(out):
    with writing(out) as work:
        write_text(work / "sub" / "file", "text")
        assert not out.exists()
    assert contents(out) == {"sub/file": "text"}
    assert {path.name for path in out.parent.iterdir()} <= {out.name, f".{out.name}.lock"}


def test_an_existing_folder_is_replaced_not_mixed(out):
    write(out, old="1", both="1")
    write(out, both="2")
    assert contents(out) == {"both": "2"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"file": "old"}])
def test_an_exception_leaves_the_folder_as_it_was(out, error, before):
    if before:
        write(out, **before)

    def fail():
        with writing(out) as work:
            write_text(work / "file", "new")
            raise error

    with pytest.raises(error):
        fail()
    assert out.exists() == bool(before)
    assert contents(out) == before
    write(out, file="third")
    assert contents(out) == {"file": "third"}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [("same", "same", True), ("same", "other", False), ("same", "", False), ("", "", False)],
)
def test_pieces_of_an_unfinished_run_are_kept_for_the_same_fingerprint_alone(out, first, second, kept):
    def fail():
        with writing(out, fingerprint=first) as work:
            write_text(work / "piece", "1")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    with writing(out, fingerprint=second) as work:
        assert (work / "piece").exists() == kept
    assert contents(out) == ({"piece": "1"} if kept else {})


def test_a_finished_run_leaves_no_pieces_to_the_next(out):
    write(out, fingerprint="same", piece="1")
    write(out, fingerprint="same")
    assert contents(out) == {}


def test_a_killed_writer_leaves_the_old_folder_and_its_finished_pieces(out):
    write(out, file="old")
    kill(start(HOLDER, out))
    assert contents(out) == {"file": "old"}
    with writing(out, fingerprint="same") as work:
        assert contents(work) == {"piece": "of the killed one"}
    assert contents(out) == {"piece": "of the killed one"}


def test_a_writer_killed_at_any_moment_never_leaves_half_a_folder(out):
    delays = random.Random(0)
    for _ in range(6):
        process = start(REWRITER, out)
        time.sleep(delays.uniform(0, 0.05))
        kill(process)
        if out.exists():
            found = contents(out)
            assert sorted(found) == ["a", "b", "c", "d"]
            assert len(set(found.values())) == 1
    write(out, e="last")
    assert contents(out) == {"e": "last"}


def test_a_second_writer_is_refused_until_the_first_is_killed(out, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.05)
    process = start(HOLDER, out)
    try:
        with pytest.raises(BusyError, match="is being written by another segline") as caught:
            write(out)
        assert caught.value.exit_code == 75
        assert "\n" not in str(caught.value)
    finally:
        kill(process)
    write(out, file="mine")
    assert contents(out) == {"file": "mine"}


def test_what_segline_did_not_write_is_never_replaced(out):
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match="did not write"):
        write(out, file="new")
    assert contents(out) == {"thesis.txt": "years of work"}


def test_a_link_to_a_folder_stays_a_link(out, tmp_path):
    out.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(out)
    for text in ("first", "second"):
        write(link, file=text)
        assert contents(out) == {"file": text}
    assert link.is_symlink()


def test_writers_of_different_folders_do_not_wait(out, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0)
    with writing(out), writing(out.with_name("other")):
        pass


def test_what_must_not_be_replaced_is_refused(out, monkeypatch):
    """A file, and a folder with the one that is worked in: the new folder would take its place."""
    (out / "sub").mkdir(parents=True)
    (out / "file").write_text("precious")
    monkeypatch.chdir(out / "sub")
    for path in (out / "file", out, out / "sub", Path(), Path("..")):
        with pytest.raises(StageError) as caught:
            write(path, file="new")
        assert "\n" not in str(caught.value)
    assert contents(out) == {"file": "precious"}


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert contents(tmp_path) == {"new/file": "old"}
    write_text(path, "new")
    assert contents(tmp_path) == {"new/file": "new"}


def test_json_is_canonical_and_holds_no_nan(tmp_path):
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    write_json(one, {"b": [1.5, math.nan, (math.nan, "nan")], "a": {"y": None, "x": math.nan}})
    write_json(two, {"a": {"x": math.nan, "y": None}, "b": (1.5, math.nan, [math.nan, "nan"])})
    assert one.read_bytes() == two.read_bytes()
    assert one.read_text().endswith("}\n")

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(one.read_text(), parse_constant=refuse) == {
        "a": {"x": None, "y": None},
        "b": [1.5, None, [None, "nan"]],
    }
