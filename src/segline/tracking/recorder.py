"""What a grid leaves in MLflow, written beside the training: a server that is slow or away delays nothing.

One thread owns all that is not written yet. Whatever is handed in is a function that the thread calls; it comes
through one queue, so that nothing needs a lock.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

from segline.errors import TrackingError
from segline.progress import log
from segline.tracking import runs as tracking
from segline.tracking.runs import Tracker

PLACE = "model"
"""Where a run keeps the files of its candidate."""
GRID = "the grid"
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0
PATIENCE_S = 60.0


@dataclass
class _End:
    """How a run ended; a part that is written is emptied."""

    status: str
    tags: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None


@dataclass
class _Run:
    """A run and what is not written of it."""

    name: str
    key: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    id: str = ""
    last: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    end: _End | None = None
    refused: bool = False

    @property
    def newest(self) -> float:
        """The last epoch that is written or waits."""
        return self.records[-1]["epoch"] if self.records else self.last

    @property
    def unwritten(self) -> str:
        """What is still to write, in words; empty when that is nothing."""
        count = len(self.records)
        parts = [] if self.id else ["its begin"]
        parts += [f"{count} epoch{'s' if count > 1 else ''}"] if count else []
        parts += ["its end"] if self.end and self.end.status else []
        parts += ["its files"] if self.end and self.end.folder else []
        return f"{self.name} ({', '.join(parts)})" if parts else ""

    @property
    def done(self) -> bool:
        """Whether it is closed and nothing more is to come."""
        return self.end is not None and not self.unwritten


class Recorder:
    """Writes the runs of a grid to MLflow beside the training; a context manager.

    No call waits for MLflow. While it is away what is handed in waits, and is written when it is back. Whatever was
    written before, by this process or an earlier one, is not written again. When the block ends, all that waits is
    written, then the grid's own run is closed: FINISHED, KILLED when the block was interrupted, FAILED by an error.
    Runs that are still open are closed KILLED or FAILED.

    Args:
        tracker: where to write.
        parent: the id of the grid's own run.
        patience_s: how long the end of the block waits for an MLflow that is away.

    Raises:
        TrackingError: at the end of the block, MLflow was away for longer than ``patience_s``, or it refused
            something. If the block ended with an error, that one is raised, with a note.
    """

    def __init__(self, tracker: Tracker, parent: str, *, patience_s: float = PATIENCE_S) -> None:
        self._tracker = tracker
        self._parent = parent
        self._patience_s = patience_s
        self.scores: dict[str, float] = {}
        """The metrics of the grid's own run, which are written when the block ends."""
        self._open: set[str] = set()
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = Thread(target=self._work, name="recorder", daemon=True)
        # MLflow's own retries last for longer than patience may; the thread tries again by itself.
        self._settings = tracking.settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES=0)
        # From here on what the thread owns.
        self._runs: dict[str, _Run] = {}
        self._refusals: dict[str, str] = {}
        self._failures = 0
        self._reason = ""
        self._retry_at = 0.0
        self._leaving = False
        self._deadline = math.inf

    def open(self, name: str, key: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Begin the run of a candidate, a child of the grid's, or go on with the one that has this key.

        To open what is open changes nothing; what was closed may be opened again, and its records handed in again.
        """
        self._open.add(name)
        self._queue.put(partial(self._take_run, _Run(name, key, dict(params), dict(tags))))

    def add(self, name: str, record: dict[str, float]) -> None:
        """Write an epoch's record: its number is under ``epoch``, every other number becomes a metric.

        An epoch that the run has, or one before it, is not written again.
        """
        assert name in self._open, name
        self._queue.put(partial(self._take_record, name, dict(record)))

    def close(
        self,
        name: str,
        status: str,
        *,
        tags: dict[str, str] | None = None,
        scores: dict[str, float] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Close a run.

        Args:
            name: as it was opened.
            status: FINISHED, FAILED or KILLED.
            tags: written before the run is closed.
            scores: final metrics.
            folder: its files are kept with the run, under ``model``; it has to stay until the end of the block.
        """
        assert name in self._open, name
        self._open.remove(name)
        self._queue.put(partial(self._take_end, name, _End(status, dict(tags or {}), dict(scores or {}), folder)))

    def __enter__(self) -> Self:
        self._settings.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bad = "KILLED" if isinstance(error, tracking.INTERRUPTS) else "FAILED"
        for name in sorted(self._open):
            self.close(name, bad)
        grid = _Run(GRID, id=self._parent, end=_End(bad if error else "FINISHED", scores=dict(self.scores)))
        self._queue.put(partial(self._take_run, grid))
        self._queue.put(self._take_leave)
        try:
            self._thread.join()
        finally:
            self._settings.__exit__(None, None, None)
        self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        """Raise what MLflow did not take; beside another error it is only told."""
        problem = self._problem()
        if problem and error:
            error.add_note(problem)
            _say(problem)
        elif problem:
            raise TrackingError(problem)

    def _problem(self) -> str:
        """What was not written and why, in one line; empty when all was."""
        rest = ", ".join(run.unwritten for run in self._runs.values() if run.unwritten)
        parts = [f"did not answer ({self._reason}), so this is not written: {rest}"] if rest else []
        parts += [f"refused {name} ({reason})" for name, reason in self._refusals.items()]
        safe = "the candidates are safe on disk, and the same command writes the rest"
        return f"MLflow at {self._tracker.shown} {'; it '.join(parts)}; {safe}" if parts else ""

    # What follows runs in the thread.

    def _take_run(self, run: _Run) -> None:
        self._runs.setdefault(run.name, run)

    def _take_record(self, name: str, record: dict[str, float]) -> None:
        run = self._runs.get(name)
        if run and not run.refused and record["epoch"] > run.newest:
            run.records.append(record)

    def _take_end(self, name: str, end: _End) -> None:
        run = self._runs.get(name)
        if run:
            run.end = _End(end.status) if run.refused else end

    def _take_leave(self) -> None:
        self._leaving = True
        self._deadline = monotonic() + self._patience_s
        self._retry_at = 0.0
        if self._failures > 1:
            _say(f"waiting at most {self._patience_s:g} s for MLflow at {self._tracker.shown}")

    def _work(self) -> None:
        """Take and write until the block is left and nothing is to write, or patience is over."""
        while self._waits() or not self._leaving:
            self._receive()
            try:
                self._write_all()
            except Exception as error:
                if monotonic() >= self._deadline:
                    self._reason = tracking.reason_of(error)
                    return
                self._pause(tracking.reason_of(error))
            else:
                self._go_on()

    def _waits(self) -> bool:
        return any(run.unwritten for run in self._runs.values())

    def _receive(self) -> None:
        """Take what was handed in: for as long as a pause lasts, or until there is something to write."""
        if not self._waits():
            self._queue.get()()
        with suppress(Empty):
            while True:
                self._queue.get(timeout=max(0.0, self._retry_at - monotonic()))()

    def _write_all(self) -> None:
        """Write what waits; of the files, which may take long, one run's at a time and after all else."""
        for run in list(self._runs.values()):
            self._attempt(run, self._write_run)
        with_files = [run for run in self._runs.values() if run.end and run.end.folder]
        for run in with_files[:1]:
            self._attempt(run, self._write_files)
        for run in [run for run in self._runs.values() if run.done]:
            del self._runs[run.name]
            if not run.refused:
                self._refusals.pop(run.name, None)

    def _attempt(self, run: _Run, write: Callable[[_Run], None]) -> None:
        try:
            write(run)
        except Exception as error:
            if not tracking.refused(error):
                raise
            self._give_up(run, tracking.reason_of(error))

    def _write_run(self, run: _Run) -> None:
        if not run.id:
            run.id, run.last = self._tracker.resume(run.key, run.name, run.params, run.tags, self._parent)
        if run.records:
            run.last = self._tracker.log_history(run.id, run.records, run.last)
            run.records = []
        if run.end and run.end.status:
            self._tracker.finish(run.id, run.end.status, run.end.tags, run.end.scores)
            run.end.status = ""

    def _write_files(self, run: _Run) -> None:
        if run.end and run.end.folder:
            self._tracker.keep(run.id, run.end.folder, PLACE)
            run.end.folder = None

    def _give_up(self, run: _Run, reason: str) -> None:
        """Of a run that MLflow refuses, only its end is still written, if that can be."""
        if run.refused or not run.id:
            del self._runs[run.name]
        if not run.refused:
            self._refusals[run.name] = reason
            _say(f"MLflow at {self._tracker.shown} refuses {run.name} ({reason}); no more of it is written")
        run.refused = True
        run.records = []
        run.end = run.end and _End(run.end.status)

    def _pause(self, reason: str) -> None:
        """Try again later; one failure may be a restart of the server, the second one is told."""
        self._failures += 1
        self._reason = reason
        longest = FIRST_PAUSE_S if self._leaving else LONGEST_PAUSE_S
        pause = min(FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), longest)
        self._retry_at = min(monotonic() + pause, self._deadline)
        if self._failures == 2:
            then = f"waiting at most {self._patience_s:g} s" if self._leaving else "training goes on, records follow"
            _say(f"MLflow at {self._tracker.shown} does not answer ({reason}); {then}")

    def _go_on(self) -> None:
        """All was written; patience begins anew."""
        if self._failures > 1:
            _say(f"MLflow at {self._tracker.shown} answers again")
        self._failures = 0
        self._retry_at = 0.0
        if self._leaving:
            self._deadline = monotonic() + self._patience_s


def _say(text: str) -> None:
    """A console that is gone is no reason to stop."""
    with suppress(OSError):
        log(f"train: {text}")
