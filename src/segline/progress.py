"""Progress of long work: bars and tables on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SHOWN = 20
"""Trials in a table at most: those under way, then the best."""


def log(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show ``what`` as a bar of ``total`` steps; yields the function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(what, total=total)

        def advance(steps: int) -> None:
            shown.advance(task, steps)

        yield advance


@dataclass
class Standing:
    """A trial in the display."""

    epoch: int = 0
    best: float = float("nan")
    state: str = "waiting"


@dataclass
class GridDisplay:
    """The trials of a grid: a table that is redrawn on a terminal, a line for each end otherwise."""

    epochs: int
    trials: dict[str, Standing] = field(default_factory=dict)
    live: Live | None = None
    began: float = field(default_factory=time.monotonic)
    seen: int = 0
    """Epochs that came while the display was there."""

    def expect(self, name: str, standing: Standing) -> None:
        """A trial that is to run, and what it had come to before."""
        self.trials.setdefault(name, standing)
        self._redraw()

    def update(self, name: str, epoch: int, score: float) -> None:
        """An epoch of a trial, and its validation mIoU."""
        entry = self.trials[name]
        self.seen += epoch > entry.epoch
        entry.epoch, entry.state = max(entry.epoch, epoch), "training"
        entry.best = score if entry.best != entry.best else max(entry.best, score)
        self._redraw()

    def finish(self, name: str, state: str) -> None:
        """A trial has ended: done, eliminated or failed."""
        entry = self.trials[name]
        entry.state = state
        log(f"train: {name} {state}, validation mIoU {entry.best:.3f} after {entry.epoch} epochs")
        self._redraw()

    def _redraw(self) -> None:
        if self.live:
            self.live.update(self._table())

    def _table(self) -> Table:
        done = sum(entry.state not in ("waiting", "training") for entry in self.trials.values())
        table = Table(title=f"{done} of {len(self.trials)} trials, {self._left()} left")
        for heading in ("trial", "state", "epoch", "best mIoU"):
            table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
        ranked = sorted(self.trials.items(), key=lambda item: (item[1].state != "training", -_or_zero(item[1].best)))
        for name, entry in ranked[:SHOWN]:
            best = "" if entry.best != entry.best else f"{entry.best:.3f}"
            table.add_row(name, entry.state, f"{entry.epoch}/{self.epochs}", best)
        if len(ranked) > SHOWN:
            table.caption = f"and {len(ranked) - SHOWN} more"
        return table

    def _left(self) -> str:
        """The time left if none of the trials that are known ends before its last epoch."""
        open_epochs = sum(
            self.epochs - entry.epoch for entry in self.trials.values() if entry.state in ("waiting", "training")
        )
        if not self.seen:
            return "time unknown"
        seconds = round((time.monotonic() - self.began) / self.seen * open_epochs)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _or_zero(value: float) -> float:
    return 0.0 if value != value else value


@contextmanager
def watching_grid(epochs: int) -> Iterator[GridDisplay]:
    """Show the trials of a grid, each of so many epochs."""
    display = GridDisplay(epochs)
    if not sys.stderr.isatty():
        yield display
        return
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=2) as display.live:
        yield display
