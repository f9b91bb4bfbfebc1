"""The validation of a model in training. What is not finite is not judged: it ends the trial."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor

from segline.data.augment import to_device
from segline.data.split import MAX_PIXELS
from segline.data.tiles import tiles
from segline.errors import TrainingError
from segline.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy
from segline.metrics.finite import first_nonfinite
from segline.training import ddp
from segline.training.broken_batch import ADVICE, keep_batch
from segline.training.run import Items, Run, forward


@dataclass(frozen=True)
class ValidationScores:
    """The loss, the mIoU and the pixel accuracy on the validation split; all are finite."""

    loss: float
    miou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class ValidationStep:
    """The result of a batch: its mean loss, its confusion matrix (k, k), and what is not finite in it, if anything."""

    loss: float
    counts: NDArray[np.int64]
    fault: "Fault | None"


@dataclass(frozen=True)
class Fault:
    """A number that is not finite: the image's row in its batch, and whether it is a logit or the loss."""

    row: int
    what: str
    images: Items
    labels: UInt8[np.ndarray, "b h w"]


def validate(run: Run, epoch: int, folder: Path) -> ValidationScores:
    """Judge the averaged model on the validation split; each process takes some of the batches.

    Args:
        run: The run.
        epoch: The number of the epoch, for messages.
        folder: The folder of the run, in which a batch with a number that is not finite is kept.

    Raises:
        TrainingError: The loss or a logit is not finite, or the split has no labelled pixel.
    """
    run.ema_model.eval()
    ddp.broadcast_buffers(run.ema_model)
    lost, counts = 0.0, np.zeros((run.classes, run.classes), np.int64)
    for positions in list(run.val.ranges(run.settings.batch_size))[ddp.rank() :: ddp.world_size()]:
        step = eval_step(run, positions)
        if step.fault:
            _fail(run, positions, step.fault, f"in the validation of epoch {epoch}", folder)
        lost, counts = lost + len(positions) * step.loss, counts + step.counts
    sums = (
        ddp.all_reduce_sum(torch.tensor([lost, *counts.ravel()], dtype=torch.float64, device=run.device)).cpu().numpy()
    )
    counts = sums[1:].round().astype(np.int64).reshape(counts.shape)
    if not counts.any():
        raise TrainingError("the validation split has no labelled pixel, so nothing can be judged; see label.split")
    return ValidationScores(float(sums[0]) / len(run.val), float(mean_iou(counts)), float(pixel_accuracy(counts)))


@torch.inference_mode()
def eval_step(run: Run, positions: range) -> ValidationStep:
    """Return the mean loss of some items of the validation split, and their confusion matrix.

    An item that is too large for one forward pass is predicted by tiles, as evaluate does it; its loss is the mean of
    the tiles' losses by their pixels.
    """
    images, labels = run.val.take(positions)
    distances = run.val.take_distances(run.loss.distances, positions)
    loss, counts = 0.0, np.zeros((run.classes, run.classes), np.int64)
    height, width = labels.shape[1:]
    for tile in tiles((height, width), MAX_PIXELS):
        inputs = run.to_input(images[:, *tile.seen], run.device)
        logits = forward(run, run.reached(run.ema_model), inputs)[..., *tile.inner]
        part = labels[:, *tile.kept]
        target: Integer[Tensor, "b h w"] = to_device(torch.from_numpy(part), run.device)
        maps = {
            name: to_device(torch.from_numpy(values[..., *tile.kept]), run.device) for name, values in distances.items()
        }
        own = float(run.loss(logits, target, maps))
        if broken := _first_broken(run, logits, target, maps, own):
            return ValidationStep(own, counts, Fault(*broken, images, labels))
        loss += own * part.size / labels.size
        counts += confusion_matrix(part, logits.argmax(1).cpu().numpy(), run.classes).sum(0)
    return ValidationStep(loss, counts, None)


def _first_broken(
    run: Run,
    logits: Float[Tensor, "b k h w"],
    target: Integer[Tensor, "b h w"],
    distances: Mapping[str, Tensor],
    loss: float,
) -> tuple[int, str] | None:
    """Return the first image with a number that is not finite, and what it is."""
    row = first_nonfinite(logits)
    if row is not None:
        return row, "a logit"
    return None if math.isfinite(loss) else (_first_loss(run, logits, target, distances), f"the loss ({loss})")


def _first_loss(
    run: Run,
    logits: Float[Tensor, "b k h w"],
    target: Integer[Tensor, "b h w"],
    distances: Mapping[str, Tensor],
) -> int:
    """Return the first image whose own loss is not finite; the first one if only that of the batch is not."""
    for row in range(len(logits)):
        one = slice(row, row + 1)
        if not math.isfinite(run.loss(logits[one], target[one], {name: maps[one] for name, maps in distances.items()})):
            return row
    return 0


def _fail(run: Run, positions: range, fault: Fault, when: str, folder: Path) -> None:
    """Keep the batch, and end the run."""
    images, labels = run.to_input(fault.images, torch.device("cpu")), torch.from_numpy(fault.labels)
    path = keep_batch(folder, run.val, np.asarray(positions), images, labels)
    key = run.val.keys([positions[fault.row]])[0]
    raise TrainingError(f"{fault.what} of the image {key} is not finite {when}, see {path}; {ADVICE}")
