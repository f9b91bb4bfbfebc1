"""One training run: plain loops over epochs and steps, resumable after every step.

Nothing random outlives a step: the order of the crops follows from the seed and the number of the epoch, augmentation
and dropout from the seed and the number of the step. So the model, its averaged weights, the optimizer, the history and
the position in the epoch are the whole state, and a resumed run ends with the same bits as an undisturbed one.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from segline.artifacts.candidates import CHECKPOINT, WEIGHTS
from segline.config.sections import Train
from segline.data.augment import augment, generate_parameters, normalize, to_device, to_unit
from segline.data.shards import Split
from segline.errors import StoppedError, TrainingError
from segline.files.atomic import write_file
from segline.losses import WeightedSum
from segline.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy
from segline.training import ddp
from segline.training.schedules import learning_rate

BROKEN_BATCH = "broken-batch.npz"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The results of an epoch; the losses are means over images, the learning rate is that of the last step."""

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_miou: float
    val_pixel_accuracy: float


@dataclass
class EpochState:
    """The position of a run in its epoch, the sum of its losses there, and the seconds it has trained in all."""

    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Run:
    """A model in training with everything that its next step depends on."""

    model: nn.Module
    loss: WeightedSum
    train: Split
    val: Split
    classes: int
    settings: Train
    seed: int
    device: torch.device
    stop: Callable[[], bool] = lambda: False
    """A function that is called after every step; when it returns true, the run saves itself and ends."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.model = ddp.convert_sync_batchnorm(self.model, self.device)
        self.loss.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), weight_decay=settings.weight_decay, eps=settings.epsilon, fused=True
        )
        self.ema_model = copy.deepcopy(self.model) if settings.ema_decay else self.model
        network = ddp.wrap_ddp(self.model, self.device)
        self.network = cast(nn.Module, torch.compile(network)) if settings.compile else network
        self.history: list[Epoch] = []
        self.epoch_state = EpochState()
        self.bf16 = runs_in_bf16(settings.precision, self.device)

    @property
    def images_per_step(self) -> int:
        """The number of images in a step of the optimizer."""
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in an epoch; the last batch may be smaller."""
        return -(-len(self.train) // self.images_per_step)

    @property
    def steps(self) -> int:
        """The number of steps of the whole training, unless time or patience end it before."""
        whole = self.settings.epochs * self.steps_per_epoch
        return min(whole, self.settings.max_steps or whole)

    @property
    def time_fraction(self) -> float:
        """The fraction of the allowed time that has passed."""
        return self.epoch_state.seconds / 60 / self.settings.max_minutes if self.settings.max_minutes else 0.0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of a forward pass that belong to this process, on the training device."""

    positions: NDArray[np.integer]
    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]
    rows: slice
    size: int
    """The number of images of the pass in all processes."""
    counted: int
    """The number of images of this process that count."""
    weight: float
    """The factor of their mean loss in the loss of the step."""


def runs_in_bf16(precision: str, device: torch.device) -> bool:
    """Return whether ``train.precision`` means bf16 on a device."""
    return computes_bf16(device) if precision == "auto" else precision == "bf16"


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16; without them it is many times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def fit(run: Run, folder: Path, *, until: int | None = None) -> Iterator[Epoch]:
    """Train to the last epoch, yielding each epoch once it is saved; continues from ``folder``.

    ``folder/weights.safetensors`` holds the weights of the epoch with the best validation mIoU.

    Args:
        run: A new run; the checkpoint in ``folder`` is loaded into it.
        folder: The folder of this run alone.
        until: The epoch to end at for now.

    Raises:
        TrainingError: The loss is no longer a finite number, and the batch is saved; or ``folder`` is not shared.
        StoppedError: ``run.stop`` returned true; everything is saved.
    """
    _restore(run, folder)
    if not ddp.are_same([len(run.history), run.epoch_state.step]):
        raise TrainingError(f"the workers see different files in {folder}; it must be a folder that all nodes share")
    yield from run.history
    while not is_finished(run) and len(run.history) < (until or run.settings.epochs):
        number = len(run.history) + 1
        train_loss = _train_epoch(run, number, folder)
        val_loss, val_miou, val_pixel_accuracy = _validate(run)
        record = Epoch(
            epoch=number,
            learning_rate=run.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            val_loss=val_loss,
            val_miou=val_miou,
            val_pixel_accuracy=val_pixel_accuracy,
        )
        best = max((earlier.val_miou for earlier in run.history), default=-1.0)
        run.history.append(record)
        run.epoch_state = EpochState(seconds=run.epoch_state.seconds)
        _save(run, folder, is_best=record.val_miou > best or number == 1)
        yield record


def estimate_epoch_seconds(run: Run, *, steps: int = 3) -> float:
    """Estimate how long an epoch takes, validation included, from a few steps after one that warms up."""
    run.model.train()
    order = np.arange(len(run.train))
    took = []
    for step in range(1 + steps):
        began = time.monotonic()
        losses = _train_step(run, _load(run, order, step % run.steps_per_epoch), step)
        float(losses[-1])
        took.append(time.monotonic() - began)
    began = time.monotonic()
    positions = range(min(len(run.val), run.settings.batch_size))
    _eval_step(run, positions)
    validation = (time.monotonic() - began) * len(run.val) / len(positions)
    return run.steps_per_epoch * sum(took[1:]) / steps + validation


def try_step(run: Run) -> None:
    """Make one step of training and one of validation, whose results are of no use, to see whether they work."""
    run.model.train()
    losses = _train_step(run, _load(run, np.arange(len(run.train)), 0), 0)
    float(losses[-1])
    _eval_step(run, range(1))


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
    """The sum of the losses of steps; each is read while the next step is under way, so that a GPU never waits."""

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
                _dump_nonfinite(batch, value, step, self.folder)
            self.run.epoch_state.loss += batch.counted * value


def _train_epoch(run: Run, number: int, folder: Path) -> float:
    """Train the rest of an epoch; return the mean loss of its images."""
    run.model.train()
    order = np.random.default_rng([run.seed, number]).permutation(len(run.train))
    before = (number - 1) * run.steps_per_epoch
    end = min(run.steps_per_epoch, run.steps - before)
    losses, saved = _LossSum(run, folder), time.monotonic()
    began = saved - run.epoch_state.seconds
    for index, batches in _loaded(run, order, range(run.epoch_state.step, end)):
        losses.add(before + index, batches, _train_step(run, batches, before + index))
        now = time.monotonic()
        run.epoch_state.step = index + 1
        stopped, due, run.epoch_state.seconds = ddp.all_reduce_max([run.stop(), _is_due(run, now - saved), now - began])
        if stopped or due:
            losses.settle()
            _save(run, folder)
            saved = now
        if stopped:
            raise StoppedError(f"stopped in epoch {number} and saved; the same command continues")
        if run.time_fraction >= 1:
            break
    losses.settle()
    images = min(len(order), run.epoch_state.step * run.images_per_step)
    return _total_loss(run) / images


def _total_loss(run: Run) -> float:
    """Return the sum over the images of the epoch so far, in all processes."""
    return float(ddp.all_reduce_sum(torch.tensor(run.epoch_state.loss, dtype=torch.float64, device=run.device)))


def _is_due(run: Run, seconds: float) -> bool:
    return seconds > 60 * run.settings.checkpoint_minutes > 0


def _loaded(run: Run, order: NDArray[np.integer], steps: range) -> Iterator[tuple[int, list[Batch]]]:
    """Yield the batches of each step, while a thread reads those of the next one."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_load, run, order, steps.start) if steps else None
        for index in steps:
            assert ahead is not None
            batches = ahead.result()
            ahead = reader.submit(_load, run, order, index + 1) if index + 1 < steps.stop else None
            yield index, batches


def _load(run: Run, order: NDArray[np.integer], step: int) -> list[Batch]:
    """Return the batches of a step, each with the rows of this process."""
    chosen = order[step * run.images_per_step : (step + 1) * run.images_per_step]
    size = run.settings.batch_size
    return [_read(run, chosen[start : start + size], len(chosen)) for start in range(0, len(chosen), size)]


def _read(run: Run, chosen: NDArray[np.integer], in_step: int) -> Batch:
    rows, weight = ddp.rows(len(chosen))
    positions = chosen[rows]
    images, labels = run.train.take(positions)
    return Batch(
        positions=positions,
        images=to_unit(images, run.device),
        labels=to_device(torch.from_numpy(labels), run.device),
        distances=_distances(run, run.train, positions),
        rows=rows,
        size=len(chosen),
        counted=len(positions) if weight else 0,
        weight=weight * len(chosen) / in_step,
    )


def _distances(run: Run, split: Split, positions: Sequence[int] | NDArray[np.integer]) -> dict[str, Tensor]:
    """Return the distance maps that the loss needs, on the training device."""
    maps = split.take_distances(run.loss.distances, positions)
    return {name: to_device(torch.from_numpy(values), run.device) for name, values in maps.items()}


def _train_step(run: Run, batches: list[Batch], step: int) -> list[Tensor]:
    """Make one step of the optimizer; return the mean loss of each batch."""
    rate = learning_rate(run.settings, step, run.steps, time_fraction=run.time_fraction)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.zero_grad(set_to_none=True)
    # All processes draw the same augmentation; each has a seed of its own for dropout.
    generator = torch.Generator().manual_seed(derive_seed(run.seed, step))
    torch.manual_seed(derive_seed(run.seed, step, 1 + ddp.rank()))
    losses = [_forward_backward(run, batch, generator, is_last=batch is batches[-1]) for batch in batches]
    if run.settings.max_grad_norm:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.settings.max_grad_norm)
    run.optimizer.step()
    if run.settings.ema_decay:
        _update_ema(run, step)
    return losses


def derive_seed(*numbers: int) -> int:
    """Derive a seed from numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _forward_backward(run: Run, batch: Batch, generator: torch.Generator, *, is_last: bool) -> Tensor:
    """Run forward and backward; the gradients are averaged over the processes in the last pass of a step."""
    amounts = generate_parameters(batch.size, run.settings.augment, generator).take(batch.rows).to(run.device)
    inputs, target, distances = augment(batch.images, batch.labels, amounts, batch.distances)
    with ddp.no_sync(run.network, enabled=not is_last):
        loss: Tensor = run.loss(_forward(run, run.network, normalize(inputs)), target, distances)
        torch.autograd.backward(loss * batch.weight)
    return loss.detach()


@torch.no_grad()
def _update_ema(run: Run, step: int) -> None:
    """Move the averaged weights and statistics towards the trained ones, faster in the first steps."""
    decay = min(run.settings.ema_decay, (1 + step) / (10 + step))
    for mean, value in zip(run.ema_model.state_dict().values(), run.model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _forward(
    run: Run, network: Callable[[Tensor], Tensor], inputs: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b k h w"]:
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
        logits = network(inputs.contiguous(memory_format=torch.channels_last))
    return logits.float()


def _validate(run: Run) -> tuple[float, float, float]:
    """Return loss, mIoU and pixel accuracy on the validation split; each process takes some of the batches."""
    run.ema_model.eval()
    ddp.broadcast_buffers(run.ema_model)
    lost, counts = 0.0, np.zeros((run.classes, run.classes), np.int64)
    for positions in list(run.val.ranges(run.settings.batch_size))[ddp.rank() :: ddp.world_size()]:
        loss, found = _eval_step(run, positions)
        lost, counts = lost + len(positions) * loss, counts + found
    sums = (
        ddp.all_reduce_sum(torch.tensor([lost, *counts.ravel()], dtype=torch.float64, device=run.device)).cpu().numpy()
    )
    counts = sums[1:].round().astype(np.int64).reshape(counts.shape)
    return float(sums[0]) / len(run.val), float(mean_iou(counts)), float(pixel_accuracy(counts))


@torch.inference_mode()
def _eval_step(run: Run, positions: range) -> tuple[float, NDArray[np.int64]]:
    """Return the mean loss of some crops of the validation split, and their confusion matrix."""
    images, labels = run.val.take(positions)
    logits = _forward(run, run.ema_model, normalize(to_unit(images, run.device)))
    target: Integer[Tensor, "b h w"] = to_device(torch.from_numpy(labels), run.device)
    loss = float(run.loss(logits, target, _distances(run, run.val, positions)))
    return loss, confusion_matrix(labels, logits.argmax(1).cpu().numpy(), run.classes).sum(0)


def _dump_nonfinite(batch: Batch, value: float, step: int, folder: Path) -> None:
    """Save the batch whose loss is not finite, and end the run."""
    path = folder / BROKEN_BATCH
    content: dict[str, Any] = {"positions": batch.positions}
    content |= {"images": batch.images.permute(0, 2, 3, 1).cpu().numpy(), "labels": batch.labels.cpu().numpy()}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **content)

    write_file(path, save)
    raise TrainingError(
        f"the loss became {value} at step {step}, see {path}; lower train.learning_rate or set train.max_grad_norm"
    )


def _save(run: Run, folder: Path, *, is_best: bool = False) -> None:
    """Save the best weights first: a kill in between repeats the epoch and does not lose them."""
    loss = _total_loss(run)
    if ddp.rank() == 0:
        if is_best:
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
        write_file(folder / CHECKPOINT, lambda path: _write_checkpoint(content, path))
    ddp.barrier()


def _write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Save with PyTorch, which hides the reason why a file cannot be written behind an error of its own."""
    try:
        with path.open("wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _restore(run: Run, folder: Path) -> None:
    path = folder / CHECKPOINT
    if not path.is_file():
        return
    content = torch.load(path, map_location=run.device, weights_only=True)
    run.model.load_state_dict(content["model"])
    if run.settings.ema_decay:
        run.ema_model.load_state_dict(content["ema_model"] or content["model"])
    run.optimizer.load_state_dict(content["optimizer"])
    # A child continues with other settings than those that its parent's optimizer was saved with.
    for group in run.optimizer.param_groups:
        group.update(weight_decay=run.settings.weight_decay, eps=run.settings.epsilon)
    run.history = [Epoch(**record) for record in content["history"]]
    run.epoch_state = EpochState(**content["epoch_state"])
    if ddp.rank():
        run.epoch_state.loss = 0.0
    run.bf16 = content["bf16"]
