"""One training run: plain loops over epochs and batches, resumable after every epoch.

Nothing random outlives an epoch: the order of the crops and their augmentation follow from the seed and the
number of the epoch. So model, optimiser and history are the whole state, and a resumed run ends with the same
bits as an undisturbed one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from segline.data.augment import augment, normalise, to_unit
from segline.data.shards import Split
from segline.errors import TrainingError
from segline.losses import WeightedSum
from segline.metrics.confusion import confusion, mean_iou, pixel_accuracy
from segline.outputs import write_file
from segline.params import Train

CHECKPOINT = "last.pt"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; the losses are means over images."""

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_miou: float
    val_pixel_accuracy: float


@dataclass
class Run:
    """A model in training with all that its next epoch depends on."""

    model: nn.Module
    loss: WeightedSum
    train: Split
    val: Split
    classes: int
    settings: Train
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.loss.to(self.device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), weight_decay=self.settings.weight_decay, fused=True)
        self.history: list[Epoch] = []
        self.bf16 = runs_in_bf16(self.settings.precision, self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; the last batch may be smaller."""
        return -(-len(self.train) // self.settings.batch_size)


def runs_in_bf16(precision: str, device: torch.device) -> bool:
    """What ``train.precision`` comes to on a device."""
    return computes_bf16(device) if precision == "auto" else precision == "bf16"


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16; without them it is many times slower than single precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def fit(run: Run, folder: Path) -> Iterator[Epoch]:
    """Train to the last epoch, yielding each epoch once it is saved; continues from ``folder``.

    ``folder/weights.safetensors`` holds the weights of the epoch with the best validation mIoU.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    _resume(run, folder)
    yield from run.history
    for number in range(len(run.history) + 1, run.settings.epochs + 1):
        train_loss = _train_epoch(run, number)
        record = Epoch(number, _rate(run, number * run.steps_per_epoch - 1), train_loss, *_validate(run))
        best = max((earlier.val_miou for earlier in run.history), default=-1.0)
        run.history.append(record)
        _save(run, folder, is_best=record.val_miou > best or number == 1)
        yield record


def _train_epoch(run: Run, number: int) -> float:
    run.model.train()
    order = np.random.default_rng([run.seed, number]).permutation(len(run.train))
    generator = torch.Generator().manual_seed(run.seed * 1_000_003 + number)
    total, size = 0.0, run.settings.batch_size
    for index, start in enumerate(range(0, len(order), size)):
        chosen = order[start : start + size]
        images, labels = run.train.take(chosen)
        distances = _distances(run, run.train, chosen)
        step = (number - 1) * run.steps_per_epoch + index
        total += len(chosen) * _step(run, images, labels, distances, generator, step)
    return total / len(order)


def _distances(run: Run, split: Split, positions: Sequence[int] | NDArray[np.integer]) -> dict[str, Tensor]:
    """The maps that the loss needs, on the training device."""
    maps = split.take_distances(run.loss.distances, positions)
    return {name: torch.from_numpy(values).to(run.device) for name, values in maps.items()}


def _step(
    run: Run, images: Any, labels: Any, distances: dict[str, Tensor], generator: torch.Generator, step: int
) -> float:
    """One optimiser step; returns the loss of the batch."""
    inputs, target, distances = augment(
        to_unit(images, run.device),
        torch.from_numpy(labels).to(run.device),
        distances=distances,
        **asdict(run.settings.augment),
        generator=generator,
    )
    for group in run.optimiser.param_groups:
        group["lr"] = _rate(run, step)
    loss = run.loss(_forward(run, normalise(inputs)), target, distances)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(f"the loss became {value} at step {step}; lower train.learning_rate")
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    run.optimiser.step()
    return value


def _forward(run: Run, inputs: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
        logits = run.model(inputs.contiguous(memory_format=torch.channels_last))
    return logits.float()


@torch.inference_mode()
def _validate(run: Run) -> tuple[float, float, float]:
    """Loss, mIoU and pixel accuracy on the validation split."""
    run.model.eval()
    total, counts = 0.0, np.zeros((run.classes, run.classes), np.int64)
    for positions in run.val.ranges(run.settings.batch_size):
        images, labels = run.val.take(positions)
        logits = _forward(run, normalise(to_unit(images, run.device)))
        target: Integer[Tensor, "b h w"] = torch.from_numpy(labels).to(run.device)
        total += len(images) * float(run.loss(logits, target, _distances(run, run.val, positions)))
        counts += confusion(labels, logits.argmax(1).cpu().numpy(), run.classes).sum(0)
    return total / len(run.val), float(mean_iou(counts)), float(pixel_accuracy(counts))


def _rate(run: Run, step: int) -> float:
    """The learning rate of a step: a linear rise, then a half cosine down to zero."""
    total = run.settings.epochs * run.steps_per_epoch
    rising = max(1, round(run.settings.warmup * total))
    peak = run.settings.learning_rate
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _save(run: Run, folder: Path, *, is_best: bool) -> None:
    """The best weights first: a kill in between repeats the epoch, it does not lose them."""
    state = run.model.state_dict()
    if is_best:
        weights = {name: value.contiguous() for name, value in state.items()}
        write_file(folder / WEIGHTS, lambda path: save_file(weights, path))
    history = [asdict(record) for record in run.history]
    content = {"model": state, "optimiser": run.optimiser.state_dict(), "history": history, "bf16": run.bf16}
    write_file(folder / CHECKPOINT, lambda path: torch.save(content, path))


def _resume(run: Run, folder: Path) -> None:
    path = folder / CHECKPOINT
    if not path.is_file():
        return
    content = torch.load(path, map_location=run.device, weights_only=True)
    run.model.load_state_dict(content["model"])
    run.optimiser.load_state_dict(content["optimiser"])
    run.bf16 = content["bf16"]
    run.history = [Epoch(**record) for record in content["history"]]
