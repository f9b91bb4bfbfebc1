"""A run on disk: its checkpoint with all that its next step depends on, and the weights of its best epoch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from segline.artifacts.candidates import CHECKPOINT, WEIGHTS
from segline.errors import TrainingError
from segline.files.atomic import write_file
from segline.training import ddp
from segline.training.broken_batch import ADVICE
from segline.training.fine_tuning import parameter_groups
from segline.training.last_checkpoint import is_whole, keep_previous, replace_damaged
from segline.training.run import Epoch, EpochState, Run, total_loss


def save_run(run: Run, folder: Path, *, is_best: bool = False) -> None:
    """Save the best weights first: a kill in between repeats the epoch and does not lose them."""
    loss = total_loss(run)
    if ddp.rank() == 0:
        if is_best:
            _refuse_nonfinite_weights(run)
            weights = {name: value.contiguous() for name, value in run.ema_model.state_dict().items()}
            write_file(folder / WEIGHTS, lambda path: path.write_bytes(save(weights)))
        content = {
            "model": run.model.state_dict(),
            "ema_model": run.ema_model.state_dict() if run.settings.ema_decay else {},
            "optimizer": run.optimizer.state_dict(),
            "history": [asdict(record) for record in run.history],
            "epoch_state": asdict(run.epoch_state) | {"loss": loss},
            "bf16": run.bf16,
        }
        keep_previous(folder)
        write_file(folder / CHECKPOINT, lambda path: _write_checkpoint(content, path))
    ddp.barrier()


def _refuse_nonfinite_weights(run: Run) -> None:
    """Raise a TrainingError if a weight or a statistic of the model that would be kept is not finite."""
    for name, value in run.ema_model.state_dict().items():
        if not bool(value.isfinite().all()):
            raise TrainingError(f"{name} of the model is not finite in epoch {len(run.history)}; {ADVICE}")


def _write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Save with PyTorch, which hides the reason why a file cannot be written behind an error of its own."""
    try:
        with path.open("wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def is_readable(path: Path) -> bool:
    """Return whether a checkpoint is whole and PyTorch reads it, whose reader is stricter about some headers."""
    if not is_whole(path):
        return False
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # the reader meets any bytes, and raises any type
        return False
    return True


def restore_run(run: Run, folder: Path) -> None:
    """Load the last checkpoint in a folder into a run, or the one before it; ``run.note`` says so."""
    if ddp.rank() == 0:
        run.note = replace_damaged(folder, is_readable)
    ddp.barrier()
    path = folder / CHECKPOINT
    if not path.is_file():
        if run.needs_checkpoint:
            raise TrainingError(
                f"{path} is damaged or missing, and a trial that goes on with another training cannot start anew; "
                "raise train.search.max_failed to go on without it"
            )
        return
    content = torch.load(path, map_location=run.device, weights_only=True)
    run.model.load_state_dict(content["model"])
    if run.settings.ema_decay:
        run.ema_model.load_state_dict(content["ema_model"] or content["model"])
    try:
        run.optimizer.load_state_dict(content["optimizer"])
    except ValueError:
        raise TrainingError(f"{path} was trained with another train.fine_tuning; set it as it was") from None
    # A child continues with other settings than those that its parent's optimizer was saved with.
    for group, own in zip(run.optimizer.param_groups, parameter_groups(run.model, run.settings), strict=True):
        group.update(weight_decay=own["weight_decay"], factor=own["factor"], eps=run.settings.epsilon)
    run.history = [Epoch(**record) for record in content["history"]]
    run.epoch_state = EpochState(**content["epoch_state"])
    if ddp.rank():
        run.epoch_state.loss = 0.0
    run.bf16 = content["bf16"]
