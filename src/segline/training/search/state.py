"""The state of a search that is under way: its trials, and those that failed or were replaced."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segline.artifacts.candidates import TRIAL, read_history, read_trial_params
from segline.config.params import Params
from segline.progress import GridDisplay, log
from segline.tracking import provenance
from segline.tracking.recorder import Recorder
from segline.tracking.tags import ELIMINATED, ERROR
from segline.training.checkpoints import STOP, CheckpointStore
from segline.training.search.decisions import Decisions
from segline.training.trial import Trial, TrialConfig, TrialInputs


@dataclass(kw_only=True)
class TrialRuns:
    """The MLflow runs of the trials, each a child of the grid's run.

    Attributes:
        recorder: The recorder that writes them beside the training.
        key: The fingerprint of the grid.
        tags: The tags of every run.
        is_closed: Whether a run is closed, by the name of each trial whose run was opened.
    """

    recorder: Recorder
    key: str
    tags: dict[str, str]
    is_closed: dict[str, bool] = field(default_factory=dict)

    def add(self, trial: Trial, epochs: Sequence[dict[str, float]]) -> None:
        """Record epochs of a trial; those that the run has already are not written again."""
        if trial.name not in self.is_closed:
            key = provenance.key(self.key, trial.name)
            self.recorder.open(trial.name, key, read_trial_params(trial.folder), self.tags)
            self.is_closed[trial.name] = False
        for epoch in [] if self.is_closed[trial.name] else epochs:
            self.recorder.add(trial.name, epoch)

    def close(self, trial: Trial, error: str) -> None:
        """Record the epochs that are on disk and how the trial ended; ``error`` is empty unless it failed."""
        if self.is_closed.get(trial.name) or not (trial.folder / TRIAL).is_file():
            return
        self.add(trial, read_history(trial.folder))
        if error:
            self.recorder.close(trial.name, "FAILED", tags={ERROR: error})
        else:
            tags = {ELIMINATED: "yes"} if trial.is_eliminated else {}
            folder = trial.folder if trial.is_finished else None
            self.recorder.close(trial.name, "FINISHED", tags=tags, folder=folder)
        self.is_closed[trial.name] = True


@dataclass(kw_only=True)
class SearchState:
    """A search that is under way.

    Attributes:
        params: The parameters.
        inputs: The files that the trials read.
        work: The folder of all trials.
        store: The bucket that keeps a copy of their files.
        runs: Their runs in MLflow.
        display: The table of the trials.
        trials: The trials by name.
        failed: The reasons of those that failed, by name.
        replaced: The names of those that a child has replaced.
    """

    params: Params
    inputs: TrialInputs
    work: Path
    store: CheckpointStore
    runs: TrialRuns
    display: GridDisplay
    trials: dict[str, Trial] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)

    @property
    def is_stopping(self) -> bool:
        """Whether the trials were told to save themselves and end."""
        return (self.work / STOP).exists()

    @property
    def decisions(self) -> Decisions:
        """The decisions so far."""
        return Decisions(self.work, self.store)

    def add_trial(self, config: TrialConfig, until: int) -> Trial:
        """Return the trial of a config, to be trained until an epoch, and keep it under its name."""
        folder = (self.work / config.name).resolve()
        trial = Trial(config=config, inputs=self.inputs, folder=folder, until=until, store=self.store)
        self.trials[config.name] = trial
        return trial

    def score(self, trial: Trial) -> float:
        """Return the best score of a trial so far; a trial that failed is the worst."""
        return -1.0 if trial.name in self.failed else trial.best_score

    def status(self, trial: Trial) -> str:
        """Return how a trial ended, for the leaderboard."""
        if trial.name in self.failed:
            return "failed"
        return "finished" if trial.is_finished else "eliminated"

    def record_end(self, trial: Trial) -> None:
        """Close the MLflow run of a trial."""
        self.runs.close(trial, self.failed.get(trial.name, ""))

    def record_failure(self, trial: Trial, reason: str) -> None:
        """Note the reason for which a trial failed, and show it."""
        self.failed[trial.name] = reason.removeprefix(f"{trial.name}: ")
        self.display.finish(trial.name, "failed", self.failed[trial.name])

    def eliminate(self, trial: Trial) -> None:
        """Stop a trial for good."""
        if not trial.is_eliminated:
            trial.eliminate()
            self.display.finish(trial.name, "eliminated")
        self.record_end(trial)

    def record_epoch(self, record: dict[str, Any]) -> None:
        """Record an epoch of a trial in MLflow and in the display."""
        trial = self.trials[record["trial"]]
        if not (trial.folder / TRIAL).is_file():
            self.store.fetch(self.work, trial.name, whole=False)
        if record.get("note"):
            log(f"train: {trial.name}: {record['note']}")
        self.runs.add(trial, [record["metrics"]])
        self.display.update(trial.name, record["epoch"], record["val_miou"])
