"""The recorder of a grid: it writes to MLflow beside the training, which a slow or absent server does not delay.

One thread owns everything that is not written yet. It is handed functions through one queue, so nothing needs a lock.
MLflow's own asynchronous logging does not do: it drops a batch that fails, creates no run and uploads no file.
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
from segline.tracking.client import Experiment, is_permanent, override_settings, short_reason
from segline.tracking.runs import end_run, get_or_create_run, log_artifacts, log_history, status_after

ARTIFACT_PATH = "model"
"""The folder of a run's artifacts that holds the files of its candidate."""
GRID = "the grid"
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0
PATIENCE_S = 60.0


@dataclass
class _End:
    """The end of a run; a part that is written is emptied."""

    status: str
    tags: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(kw_only=True)
class _Run:
    """A run and everything of it that is not written yet."""

    name: str
    key: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    id: str = ""
    last: int = 0
    records: dict[float, dict[str, float]] = field(default_factory=dict)
    end: _End | None = None
    is_rejected: bool = False

    @property
    def unwritten(self) -> str:
        """The missing parts in words; empty when everything is written."""
        count = len(self.records)
        parts = [] if self.id else ["its start"]
        parts += [f"{count} epoch{'s' if count > 1 else ''}"] if count else []
        parts += ["its end"] if self.end and self.end.status else []
        parts += ["its files"] if self.end and self.end.folder else []
        return f"{self.name} ({', '.join(parts)})" if parts else ""


class Recorder:
    """Writes the runs of a grid to MLflow beside the training; a context manager.

    No call waits for MLflow. While it is absent the records wait, and they are written when it is back. Nothing that
    this process or an earlier one wrote is written again. When the block ends, everything that waits is written, then
    the grid's own run is ended: FINISHED, KILLED when the block was interrupted, FAILED by an error. Runs that are
    still open are ended KILLED or FAILED.

    Args:
        experiment: the experiment of the runs.
        parent: the id of the grid's own run.
        patience_s: the time in seconds for which the end of the block waits for an absent MLflow.

    Raises:
        TrackingError: at the end of the block, MLflow was absent for longer than ``patience_s``, or it rejected
            something. If the block ended with an error, that one is raised, with a note.
    """

    def __init__(self, experiment: Experiment, parent: str, *, patience_s: float = PATIENCE_S) -> None:
        self._experiment = experiment
        self._parent = parent
        self._patience_s = patience_s
        self.scores: dict[str, float] = {}
        """The metrics of the grid's own run, which are written when the block ends."""
        self._open: set[str] = set()
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = Thread(target=self._work, name="recorder", daemon=True)
        # MLflow's own retries may last for longer than the patience; the thread tries again by itself.
        self._settings = override_settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES=0)
        # The thread owns everything below.
        self._runs: dict[str, _Run] = {}
        self._rejections: dict[str, str] = {}
        self._failures = 0
        self._reason = ""
        self._retry_at = 0.0
        self._deadline = math.inf
        """The end of the patience, which is finite once the block has ended."""

    def open(self, name: str, key: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Start the run of a candidate below the grid's, or continue the one that has this key.

        To open an open run changes nothing; a closed run may be opened again, and its records handed in again.
        """
        self._open.add(name)
        self._queue.put(partial(self._take_run, _Run(name=name, key=key, params=dict(params), tags=dict(tags))))

    def add(self, name: str, record: dict[str, float]) -> None:
        """Write the record of an epoch: its number is under ``epoch``, every other number becomes a metric.

        An epoch that the run has, or an earlier one, is not written again.
        """
        assert name in self._open, name
        self._queue.put(partial(self._take_record, name, dict(record)))

    def close(self, name: str, status: str, *, tags: dict[str, str] | None = None, folder: Path | None = None) -> None:
        """End a run.

        Args:
            name: the name of the open run.
            status: FINISHED, FAILED or KILLED.
            tags: tags that are written before the run ends.
            folder: a folder whose files are uploaded to ``model``; it must exist until the end of the block.
        """
        assert name in self._open, name
        self._open.remove(name)
        self._queue.put(partial(self._take_end, name, _End(status, dict(tags or {}), folder)))

    def __enter__(self) -> Self:
        self._settings.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = status_after(error)
        for name in sorted(self._open):
            self.close(name, status if error else "FAILED")
        records = {1.0: {**self.scores, "epoch": 1.0}} if self.scores else {}
        grid = _Run(name=GRID, id=self._parent, records=records, end=_End(status))
        self._queue.put(partial(self._take_run, grid))
        self._queue.put(self._leave)
        try:
            self._thread.join()
        finally:
            self._settings.__exit__(None, None, None)
        problem = self._problem()
        if problem and not error:
            raise TrackingError(problem)
        if problem and error:
            error.add_note(problem)
            _log(problem)

    def _problem(self) -> str:
        """Return in one line what is not written and why; empty when everything is written."""
        rest = ", ".join(run.unwritten for run in self._runs.values() if run.unwritten)
        parts = [f"did not answer ({self._reason}), so this is not written: {rest}"] if rest else []
        parts += [f"rejected {name} ({reason})" for name, reason in self._rejections.items()]
        safe = "the candidates are safe on disk, and the same command writes the rest"
        return f"MLflow at {self._experiment.shown_uri} {'; it '.join(parts)}; {safe}" if parts else ""

    # The methods below run in the thread.

    def _take_run(self, run: _Run) -> None:
        self._runs.setdefault(run.name, run)

    def _take_record(self, name: str, record: dict[str, float]) -> None:
        run = self._runs.get(name)
        if run and not run.is_rejected and record["epoch"] > run.last:
            run.records.setdefault(record["epoch"], record)

    def _take_end(self, name: str, end: _End) -> None:
        run = self._runs.get(name)
        if run:
            run.end = _End(end.status) if run.is_rejected else end

    def _leave(self) -> None:
        """Begin the patience: the block has ended."""
        self._deadline = monotonic() + self._patience_s
        self._retry_at = 0.0
        if self._failures > 1:
            _log(f"waiting at most {self._patience_s:g} s for MLflow at {self._experiment.shown_uri}")

    @property
    def _is_leaving(self) -> bool:
        return math.isfinite(self._deadline)

    @property
    def _is_behind(self) -> bool:
        return any(run.unwritten for run in self._runs.values())

    def _work(self) -> None:
        """Receive and write until the block has ended and everything is written, or the patience is over."""
        while self._is_behind or not self._is_leaving:
            self._receive()
            try:
                self._write_all()
            except Exception as error:
                self._reason = short_reason(error)
                if monotonic() >= self._deadline:
                    return
                self._back_off()
            else:
                self._recover()

    def _receive(self) -> None:
        """Empty the queue, and wait for more until the back-off is over; without any work wait for the first item."""
        if not self._is_behind:
            self._queue.get()()
        with suppress(Empty):
            while True:
                self._queue.get(timeout=max(0.0, self._retry_at - monotonic()))()

    def _write_all(self) -> None:
        """Write everything that waits; files, which may take long, come last, those of one run at a time."""
        runs = list(self._runs.values())
        with_files = [run for run in runs if run.end and run.end.folder]
        steps = [(run, self._write_run) for run in runs] + [(run, self._write_files) for run in with_files[:1]]
        for run, write in steps:
            try:
                write(run)
            except Exception as error:
                if not is_permanent(error):
                    raise
                self._reject(run, short_reason(error))
        for run in [run for run in self._runs.values() if run.end and not run.unwritten]:
            del self._runs[run.name]
            if not run.is_rejected:
                self._rejections.pop(run.name, None)

    def _write_run(self, run: _Run) -> None:
        if not run.id:
            run.id, run.last = get_or_create_run(
                self._experiment, run.key, run.name, run.params, run.tags, parent=self._parent
            )
        if run.records:
            run.last = log_history(self._experiment, run.id, list(run.records.values()), run.last)
            run.records = {}
        if run.end and run.end.status:
            end_run(self._experiment, run.id, run.end.status, run.end.tags)
            run.end.status = ""

    def _write_files(self, run: _Run) -> None:
        if run.end and run.end.folder:
            log_artifacts(self._experiment, run.id, run.end.folder, ARTIFACT_PATH)
            run.end.folder = None

    def _reject(self, run: _Run, reason: str) -> None:
        """Note that MLflow rejects a run: only its end is still written, if possible."""
        if run.is_rejected or not run.id:
            del self._runs[run.name]
        if not run.is_rejected:
            self._rejections[run.name] = reason
            _log(f"MLflow at {self._experiment.shown_uri} rejects {run.name} ({reason}); no more of it is written")
        run.is_rejected = True
        run.records = {}
        run.end = run.end and _End(run.end.status)

    def _back_off(self) -> None:
        """Set the time of the next attempt; the first failure may be a restart of the server, the second is logged."""
        self._failures += 1
        longest = FIRST_PAUSE_S if self._is_leaving else LONGEST_PAUSE_S
        pause = min(FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), longest)
        self._retry_at = min(monotonic() + pause, self._deadline)
        if self._failures == 2:
            then = f"waiting at most {self._patience_s:g} s" if self._is_leaving else "training goes on, records follow"
            _log(f"MLflow at {self._experiment.shown_uri} does not answer ({self._reason}); {then}")

    def _recover(self) -> None:
        """End the back-off, and begin the patience anew: everything is written."""
        if self._failures > 1:
            _log(f"MLflow at {self._experiment.shown_uri} answers again")
        self._failures = 0
        self._retry_at = 0.0
        if self._is_leaving:
            self._deadline = monotonic() + self._patience_s


def _log(text: str) -> None:
    """Print a line; a console that is gone is no reason to stop."""
    with suppress(OSError):
        log(f"train: {text}")
