"""The progress of long tasks: bars and tables on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from segline.redaction import redact

MAX_ROWS = 20
"""The most trials that the table shows: those in training, then the best."""


def log(text: str) -> None:
    """Print a line immediately, also into a pipe, without the secrets in it."""
    print(redact(text), flush=True)


def plain_console(*, width: int | None = None, stderr: bool = False) -> Console:
    """Return a console that prints names as they are: ``[red]`` is no color, and ``:car:`` no picture."""
    return Console(width=width, stderr=stderr, markup=False, emoji=False)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of ``total`` steps on a terminal; yield the function that advances it by a number of steps."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(description, total=total)

        def advance(steps: int) -> None:
            progress.advance(task, steps)

        yield advance


@dataclass
class TrialProgress:
    """The progress of a trial: its last epoch, its best validation mIoU, and its state."""

    epoch: int = 0
    best: float = float("nan")
    state: str = "waiting"


@dataclass
class GridDisplay:
    """The progress of a grid's trials: a table on a terminal, else a line when a trial ends."""

    epochs: int
    """The number of epochs of a trial."""
    trials: dict[str, TrialProgress] = field(default_factory=dict)
    """Name of each trial to its progress."""
    live: Live | None = None
    """The table on the terminal."""
    started: float = field(default_factory=time.monotonic)
    """The time at which the display started."""
    epochs_seen: int = 0
    """The number of epochs that ended since then."""

    def add(self, name: str, progress: TrialProgress) -> None:
        """Add a trial with the progress that it made in an earlier run."""
        self.trials.setdefault(name, progress)
        self._redraw()

    def update(self, name: str, epoch: int, score: float) -> None:
        """Record the end of an epoch of a trial, and its validation mIoU."""
        trial = self.trials[name]
        self.epochs_seen += epoch > trial.epoch
        trial.epoch, trial.state = max(trial.epoch, epoch), "training"
        trial.best = score if trial.best != trial.best else max(trial.best, score)
        self._redraw()

    def finish(self, name: str, state: str, reason: str = "") -> None:
        """Record the end of a trial, and log it: ``state`` is done, eliminated or failed, which has a reason."""
        trial = self.trials[name]
        trial.state = state
        why = f": {reason}" if reason else ""
        log(f"train: {name} {state}, validation mIoU {trial.best:.3f} after {trial.epoch} epochs{why}")
        self._redraw()

    def _redraw(self) -> None:
        if self.live:
            self.live.update(self._table())

    def _table(self) -> Table:
        done = sum(trial.state not in ("waiting", "training") for trial in self.trials.values())
        table = Table(title=f"{done} of {len(self.trials)} trials, {self._time_left()} left")
        for heading in ("trial", "state", "epoch", "best mIoU"):
            table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
        ranked = sorted(self.trials.items(), key=lambda item: _rank(item[1]))
        for name, trial in ranked[:MAX_ROWS]:
            best = "" if trial.best != trial.best else f"{trial.best:.3f}"
            table.add_row(name, trial.state, f"{trial.epoch}/{self.epochs}", best)
        if len(ranked) > MAX_ROWS:
            table.caption = f"and {len(ranked) - MAX_ROWS} more"
        return table

    def _time_left(self) -> str:
        """Return the time left, as h:mm:ss, if all open trials run to their last epoch at the pace so far."""
        open_epochs = sum(
            self.epochs - trial.epoch for trial in self.trials.values() if trial.state in ("waiting", "training")
        )
        if not self.epochs_seen:
            return "time unknown"
        seconds = round((time.monotonic() - self.started) / self.epochs_seen * open_epochs)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _rank(trial: TrialProgress) -> tuple[bool, float]:
    """Return the sort key of a trial: those in training come first, then the best."""
    return trial.state != "training", 0.0 if trial.best != trial.best else -trial.best


@contextmanager
def grid_display(epochs: int) -> Iterator[GridDisplay]:
    """Show the progress of a grid's trials, each of so many epochs, until the block ends."""
    display = GridDisplay(epochs)
    if not sys.stderr.isatty():
        yield display
        return
    with Live(console=plain_console(stderr=True), transient=True, refresh_per_second=2) as display.live:
        yield display
