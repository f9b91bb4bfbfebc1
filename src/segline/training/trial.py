"""A trial: one training of the grid, what it reads, and what it has left on disk so far. It needs no torch."""

from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

from segline.artifacts.bundle import FILE as BUNDLE
from segline.artifacts.candidates import CHECKPOINT, ELIMINATED, PREVIOUS, WEIGHTS, read_history
from segline.config.components import ComponentSpec
from segline.config.sections import Train
from segline.files.atomic import write_text
from segline.progress import TrialProgress
from segline.training.checkpoints import CheckpointStore, Origins


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """An architecture with a loss, the settings and the seed of its training.

    Attributes:
        name: The trial's name, such as ``unet-dice``, ``unet-dice.2`` for its twin, ``unet-dice-draw3``,
            ``unet-dice-draw3-seed8``, or ``unet-dice-draw3-child2`` for a child that takes the place of the third draw.
        model: The architecture.
        loss: The terms of a weighted sum.
        settings: The settings of the training, including the sampled ones.
        seed: The seed of every random choice.
        sampled: The sampled values by hyperparameter.
        parent: The trial whose weights a child continues with; empty for any other trial.
    """

    name: str
    model: ComponentSpec
    loss: tuple[ComponentSpec, ...]
    settings: Train
    seed: int
    sampled: dict[str, Any] = field(default_factory=dict)
    parent: str = ""


@dataclass(frozen=True)
class Cost:
    """The cost of a trial.

    Attributes:
        epoch: The seconds of an epoch, validation included.
        memory: The peak memory in bytes, of the process or of the GPU.
        parameters: The number of parameters of the network.
    """

    epoch: float
    memory: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Init:
    """The bundle that the trials start from.

    Attributes:
        address: The address that the parameters give.
        source: The address with the version that it stood for.
        sha256: The hash of the bundle.
        folder: The bundle on this machine; beside each member's weights there is its history, and its checkpoint if
            it has one.
    """

    address: str
    source: str
    sha256: str
    folder: Path

    def __str__(self) -> str:
        version = "" if self.source == self.address else f" = version {self.source.rpartition('/')[2]}"
        return f"init: {self.address}{version}"

    def fetch(self, store: CheckpointStore) -> None:
        """Copy the files to this node from the bucket, if they are not there."""
        prepared = self.folder.parent
        store.fetch(prepared.parent, f"{prepared.name}/{self.folder.name}", exactly=True)


@dataclass(frozen=True, kw_only=True)
class TrialInputs:
    """The files that all trials of a grid read.

    Attributes:
        dataset_dir: The folder that the stage label wrote.
        prepared_dir: The folder of what losses and models prepared, one folder each.
        validation: The folder of the data set that trials are validated on.
        encoders: The files of encoder weights, by the address that the parameters give.
        init: The bundle that the trials start from; None for none.
        origins: The addresses from which another node copies the data and the encoder weights.
    """

    dataset_dir: Path
    prepared_dir: Path
    validation: str = "val"
    encoders: dict[str, Path] = field(default_factory=dict)
    init: Init | None = None
    origins: Origins = field(default_factory=Origins)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A training that runs in a process of its own, up to an epoch at which the search looks at it.

    Attributes:
        config: The architecture, the loss and the settings.
        inputs: The files that it reads.
        folder: The folder that it writes.
        until: The epoch at which it ends for now.
        store: The bucket that keeps a copy of its files.
    """

    config: TrialConfig
    inputs: TrialInputs
    folder: Path
    until: int
    store: CheckpointStore

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.config.name

    @property
    def is_finished(self) -> bool:
        """Whether the candidate is complete: its description is written last."""
        return (self.folder / BUNDLE).is_file()

    @property
    def is_eliminated(self) -> bool:
        """Whether the scheduler has stopped the trial."""
        return (self.folder / ELIMINATED).is_file()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train for now."""
        return self.is_finished or self.is_eliminated or len(read_history(self.folder)) >= self.until

    @property
    def best_score(self) -> float:
        """The best validation mIoU up to the epoch ``until``; -1 before the first epoch."""
        return max((_score(epoch) for epoch in read_history(self.folder)[: self.until]), default=-1.0)

    @property
    def last_score(self) -> float:
        """The validation mIoU of the epoch ``until``."""
        return _score(read_history(self.folder)[self.until - 1])

    @property
    def standing(self) -> TrialProgress:
        """The trial's state, epochs and best score for the display."""
        state = "done" if self.is_finished else "eliminated" if self.is_eliminated else "waiting"
        history = read_history(self.folder)
        return TrialProgress(len(history), max((epoch["val_miou"] for epoch in history), default=nan), state)

    def eliminate(self) -> None:
        """Mark the trial as stopped by the scheduler."""
        write_text(self.folder / ELIMINATED, "")
        self.store.upload(self.folder, (ELIMINATED,))
        self.delete_checkpoints()

    def delete_checkpoints(self) -> None:
        """Remove the files that only a continued training needs."""
        for name in (CHECKPOINT, PREVIOUS, WEIGHTS):
            (self.folder / name).unlink(missing_ok=True)


def _score(epoch: dict[str, float]) -> float:
    """Return the validation mIoU of an epoch; what is no number is worse than any."""
    return epoch["val_miou"] if isfinite(epoch["val_miou"]) else -1.0
