"""The display of a grid: lines where there is no terminal, a table where there is one."""

import io
import time

import pytest
from rich.console import Console

from segline.progress import GridDisplay, TrialProgress, grid_display


def shown(display):
    console = Console(file=io.StringIO(), width=100)
    console.print(display._table())
    return console.file.getvalue()


def expect(display, *names):
    for name in names:
        display.add(name, TrialProgress())


@pytest.fixture
def display():
    return GridDisplay(epochs=4)


def test_without_a_terminal_each_end_is_a_line(capsys):
    with grid_display(3) as display:
        expect(display, "one", "two")
        display.update("one", 1, 0.25)
        display.update("one", 2, 0.125)
        display.finish("one", "eliminated")
    assert capsys.readouterr().out == "train: one eliminated, validation mIoU 0.250 after 2 epochs\n"


def test_the_table_has_those_under_way_first_then_the_best(display):
    expect(display, "waits", "weak", "strong", "trains")
    for name, score in (("weak", 0.1), ("strong", 0.5), ("trains", 0.2)):
        display.update(name, 1, score)
    for name in ("weak", "strong"):
        display.finish(name, "done")
    lines = shown(display).splitlines()
    assert "2 of 4 trials" in lines[0]
    order = [word for line in lines for word in ("waits", "weak", "strong", "trains") if f" {word} " in line]
    assert order == ["trains", "strong", "weak", "waits"]
    assert "1/4" in "".join(lines)


def test_the_time_left_is_that_of_the_epochs_left_at_the_pace_so_far(display):
    expect(display, "one", "two")
    assert "time unknown" in shown(display)
    display.started = time.monotonic() - 20
    display.update("one", 1, 0.1)
    display.update("one", 2, 0.1)
    assert "0:01:00 left" in shown(display)
    display.update("one", 2, 0.1)
    assert display.epochs_seen == 2, "a record that comes again is no epoch"
    display.finish("two", "failed")
    assert "0:00:20 left" in shown(display)


def test_of_many_trials_the_first_are_shown(display):
    expect(display, *(f"t{number}" for number in range(50)))
    assert "and 30 more" in shown(display)


def test_what_was_done_before_counts_as_done_and_not_for_the_pace(display):
    display.add("finished", TrialProgress(4, 0.5, "done"))
    display.add("resumed", TrialProgress(2, 0.25))
    assert "1 of 2 trials" in shown(display)
    display.update("resumed", 1, 0.1)
    display.update("resumed", 2, 0.25)
    assert display.epochs_seen == 0
    display.started = time.monotonic() - 20
    display.update("resumed", 3, 0.125)
    assert "0:00:20 left" in shown(display)
