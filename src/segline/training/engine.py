"""One training run: plain loops over epochs and steps, resumable after every step.

Nothing random outlives a step: the order of the crops follows from the seed and the number of the epoch, augmentation
and dropout from the seed and the number of the step. So the model, its averaged weights, the optimizer, the history and
the position in the epoch are the whole state, and a resumed run ends with the same bits as an undisturbed one.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from segline.errors import StoppedError, TrainingError
from segline.training import ddp
from segline.training.broken_batch import ADVICE, keep_batch
from segline.training.fine_tuning import train_mode
from segline.training.run import Epoch, EpochState, Run, total_loss
from segline.training.saved_run import restore_run, save_run
from segline.training.step import Batch, load, load_ahead, train_step
from segline.training.validation import eval_step, validate


def fit(run: Run, folder: Path, *, until: int | None = None) -> Iterator[Epoch]:
    """Train to the last epoch, yielding each epoch once it is saved; continues from ``folder``.

    ``folder/weights.safetensors`` holds the weights of the epoch with the best validation mIoU.

    Args:
        run: A new run; the checkpoint in ``folder`` is loaded into it.
        folder: The folder of this run alone.
        until: The epoch to end at for now.

    Raises:
        TrainingError: The loss, a logit or a weight is no longer a finite number, and the batch is saved; or ``folder``
            is not shared.
        StoppedError: ``run.stop`` returned true; everything is saved.
    """
    restore_run(run, folder)
    if not ddp.are_same([len(run.history), run.epoch_state.step]):
        raise TrainingError(f"the workers see different files in {folder}; it must be a folder that all nodes share")
    yield from run.history
    while not is_finished(run) and len(run.history) < (until or run.settings.epochs):
        number = len(run.history) + 1
        train_loss = _train_epoch(run, number, folder)
        scores = validate(run, number, folder)
        record = Epoch(
            epoch=number,
            learning_rate=run.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            val_loss=scores.loss,
            val_miou=scores.miou,
            val_pixel_accuracy=scores.pixel_accuracy,
        )
        best = max((earlier.val_miou for earlier in run.history), default=-1.0)
        run.history.append(record)
        run.epoch_state = EpochState(seconds=run.epoch_state.seconds)
        save_run(run, folder, is_best=record.val_miou > best or number == 1)
        yield record


def estimate_epoch_seconds(run: Run, *, steps: int = 3) -> float:
    """Estimate how long an epoch takes, validation included, from a few steps after one that warms up.

    The validation is tried with the batch that has the most pixels, on which the peak of the memory depends.
    """
    train_mode(run.model, run.settings.fine_tuning)
    order = run.order.epoch(1)
    took = []
    for step in range(1 + steps):
        began = time.monotonic()
        losses = train_step(run, load(run, order, step % run.steps_per_epoch), step)
        float(losses[-1])
        took.append(time.monotonic() - began)
    began = time.monotonic()
    positions = max(run.val.ranges(run.settings.batch_size), key=run.val.pixels)
    eval_step(run, positions)
    validation = (time.monotonic() - began) * run.val.pixels(range(len(run.val))) / run.val.pixels(positions)
    return run.steps_per_epoch * sum(took[1:]) / steps + validation


def try_step(run: Run) -> None:
    """Make one step of training, and one of validation with its largest item, to see whether they work."""
    train_mode(run.model, run.settings.fine_tuning)
    losses = train_step(run, load(run, np.arange(len(run.train)), 0), 0)
    float(losses[-1])
    largest = max(range(len(run.val)), key=lambda position: run.val.pixels([position]))
    eval_step(run, range(largest, largest + 1))


def is_finished(run: Run) -> bool:
    """Return whether a run has ended: by epochs, steps, time or patience."""
    settings, done = run.settings, len(run.history)
    scores = [record.val_miou for record in run.history]
    waited = done - 1 - scores.index(max(scores)) if done else 0
    return (
        done * run.steps_per_epoch >= run.steps
        or (settings.max_minutes > 0 and run.time_fraction >= 1)
        or 0 < settings.early_stopping_patience <= waited
    )


@dataclass
class _LossSum:
    """The sum over the images of their steps' losses; each is read while the next step runs: a GPU never waits."""

    run: Run
    folder: Path
    last: tuple[int, list[Batch], list[Tensor]] | None = None

    def add(self, step: int, batches: list[Batch], losses: list[Tensor]) -> None:
        self.settle()
        self.last = step, batches, losses

    def settle(self) -> None:
        """Read the losses of the last step."""
        if self.last is None:
            return
        (step, batches, losses), self.last = self.last, None
        for batch, loss in zip(batches, losses, strict=True):
            value = float(loss)
            if not math.isfinite(value):
                self._fail(batch, value, step)
            self.run.epoch_state.loss += sum(part.size for part in batches) * value

    def _fail(self, batch: Batch, value: float, step: int) -> None:
        path = keep_batch(self.folder, self.run.train, batch.positions, batch.images, batch.labels)
        raise TrainingError(f"the loss became {value} at step {step}, see {path}; {ADVICE}")


def _train_epoch(run: Run, number: int, folder: Path) -> float:
    """Train the rest of an epoch; return the mean loss of its images."""
    train_mode(run.model, run.settings.fine_tuning)
    order = run.order.epoch(number)
    before = (number - 1) * run.steps_per_epoch
    end = min(run.steps_per_epoch, run.steps - before)
    losses, saved = _LossSum(run, folder), time.monotonic()
    began = saved - run.epoch_state.seconds
    for index, batches in load_ahead(run, order, range(run.epoch_state.step, end)):
        losses.add(before + index, batches, train_step(run, batches, before + index))
        now = time.monotonic()
        run.epoch_state.step = index + 1
        stopped, due, run.epoch_state.seconds = ddp.all_reduce_max([run.stop(), _is_due(run, now - saved), now - began])
        if stopped or due:
            losses.settle()
            save_run(run, folder)
            saved = now
        if stopped:
            raise StoppedError(f"stopped in epoch {number} and saved; the same command continues")
        if run.time_fraction >= 1:
            break
    losses.settle()
    images = min(len(order), run.epoch_state.step * run.images_per_step)
    return total_loss(run) / images


def _is_due(run: Run, seconds: float) -> bool:
    return seconds > 60 * run.settings.checkpoint_minutes > 0
