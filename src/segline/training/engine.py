"""One training run: plain loops over epochs and steps, resumable after every step.

Nothing random outlives a step: the order of the crops follows from the seed and the number of the epoch, augmentation
and dropout from the seed and the number of the step. So model, averaged weights, optimiser, history and the place in
the epoch are the whole state, and a resumed run ends with the same bits as an undisturbed one.
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

from segline.config.sections import Train
from segline.data.augment import augment, generate_parameters, normalize, to_device, to_unit
from segline.data.shards import Split
from segline.errors import StoppedError, TrainingError
from segline.files.atomic import write_file
from segline.losses import WeightedSum
from segline.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy
from segline.training import ddp as workers
from segline.training.schedules import learning_rate

CHECKPOINT = "last.pt"
WEIGHTS = "weights.safetensors"
BROKEN_BATCH = "broken-batch.npz"


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; the losses are means over images, the learning rate is that of its last step."""

    epoch: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_miou: float
    val_pixel_accuracy: float


@dataclass
class Place:
    """Where in an epoch a run is, and how long it has trained."""

    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass
class Run:
    """A model in training with all that its next step depends on."""

    model: nn.Module
    loss: WeightedSum
    train: Split
    val: Split
    classes: int
    settings: Train
    seed: int
    device: torch.device
    stop: Callable[[], bool] = lambda: False
    """Asked after every step; the run then saves itself and ends."""

    def __post_init__(self) -> None:
        settings = self.settings
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.model = workers.convert_sync_batchnorm(self.model, self.device)
        self.loss.to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), weight_decay=settings.weight_decay, eps=settings.epsilon, fused=True
        )
        self.judged = copy.deepcopy(self.model) if settings.ema_decay else self.model
        network = workers.wrap_ddp(self.model, self.device)
        self.network = cast(nn.Module, torch.compile(network)) if settings.compile else network
        self.history: list[Epoch] = []
        self.place = Place()
        self.bf16 = runs_in_bf16(settings.precision, self.device)

    @property
    def images_per_step(self) -> int:
        """Images between two steps of the optimiser."""
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; the last batch may be smaller."""
        return -(-len(self.train) // self.images_per_step)

    @property
    def steps(self) -> int:
        """Of the whole training, if time and patience allow."""
        whole = self.settings.epochs * self.steps_per_epoch
        return min(whole, self.settings.max_steps or whole)

    @property
    def spent(self) -> float:
        """The share of the allowed time that is over."""
        return self.place.seconds / 60 / self.settings.max_minutes if self.settings.max_minutes else 0.0


@dataclass(frozen=True)
class Batch:
    """The rows of a forward pass that are this process's, on the training device."""

    positions: NDArray[np.integer]
    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]
    rows: slice
    of: int
    """Images of the pass in all processes."""
    counted: int
    """Images of this process that count."""
    share: float
    """Factor of their mean loss in that of the step."""


def runs_in_bf16(precision: str, device: torch.device) -> bool:
    """What ``train.precision`` comes to on a device."""
    return computes_bf16(device) if precision == "auto" else precision == "bf16"


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16; without them it is many times slower than single precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def fit(run: Run, folder: Path, *, until: int | None = None) -> Iterator[Epoch]:
    """Train to the last epoch, yielding each epoch once it is saved; continues from ``folder``.

    ``folder/weights.safetensors`` holds the weights of the epoch with the best validation mIoU.

    Args:
        run: a fresh one; what ``folder`` holds is loaded into it.
        folder: of this run alone.
        until: the epoch to end at, for now.

    Raises:
        TrainingError: the loss is no longer a finite number, and the batch is saved; or ``folder`` is not shared.
        StoppedError: ``run.stop`` said so; everything is saved.
    """
    _restore(run, folder)
    if not workers.are_same([len(run.history), run.place.step]):
        raise TrainingError(f"the workers see different files in {folder}; it has to be a folder that all nodes share")
    yield from run.history
    while not is_over(run) and len(run.history) < (until or run.settings.epochs):
        number = len(run.history) + 1
        train_loss = _train_epoch(run, number, folder)
        record = Epoch(number, run.optimiser.param_groups[0]["lr"], train_loss, *_validate(run))
        best = max((earlier.val_miou for earlier in run.history), default=-1.0)
        run.history.append(record)
        run.place = Place(seconds=run.place.seconds)
        _save(run, folder, is_best=record.val_miou > best or number == 1)
        yield record


def seconds_of_epoch(run: Run, *, steps: int = 3) -> float:
    """How long an epoch takes, validation included, judged by a few steps after one that warms up."""
    run.model.train()
    order = np.arange(len(run.train))
    took = []
    for step in range(1 + steps):
        began = time.monotonic()
        losses = _step(run, _load(run, order, step % run.steps_per_epoch), step)
        float(losses[-1])
        took.append(time.monotonic() - began)
    began = time.monotonic()
    positions = range(min(len(run.val), run.settings.batch_size))
    _judge(run, positions)
    validation = (time.monotonic() - began) * len(run.val) / len(positions)
    return run.steps_per_epoch * sum(took[1:]) / steps + validation


def is_over(run: Run) -> bool:
    """Whether a run has come to its end: by epochs, steps, time or patience."""
    settings, done = run.settings, len(run.history)
    scores = [record.val_miou for record in run.history]
    waited = done - 1 - scores.index(max(scores)) if done else 0
    return (
        done * run.steps_per_epoch >= run.steps
        or (settings.max_minutes > 0 and run.spent >= 1)
        or 0 < settings.early_stopping_patience <= waited
    )


@dataclass
class _Losses:
    """Adds up the losses of steps, each looked at when the next is under way: a GPU works meanwhile."""

    run: Run
    folder: Path
    last: tuple[int, list[Batch], list[Tensor]] | None = None

    def add(self, step: int, batches: list[Batch], losses: list[Tensor]) -> None:
        self.settle()
        self.last = step, batches, losses

    def settle(self) -> None:
        """Look at the last step's."""
        if self.last is None:
            return
        (step, batches, losses), self.last = self.last, None
        for batch, loss in zip(batches, losses, strict=True):
            value = float(loss)
            if not math.isfinite(value):
                _give_up(batch, value, step, self.folder)
            self.run.place.loss += batch.counted * value


def _train_epoch(run: Run, number: int, folder: Path) -> float:
    """The rest of an epoch; returns the mean loss of its images."""
    run.model.train()
    order = np.random.default_rng([run.seed, number]).permutation(len(run.train))
    before = (number - 1) * run.steps_per_epoch
    end = min(run.steps_per_epoch, run.steps - before)
    losses, saved = _Losses(run, folder), time.monotonic()
    began = saved - run.place.seconds
    for index, batches in _loaded(run, order, range(run.place.step, end)):
        losses.add(before + index, batches, _step(run, batches, before + index))
        now = time.monotonic()
        run.place.step = index + 1
        stopped, due, run.place.seconds = workers.all_reduce_max([run.stop(), _is_due(run, now - saved), now - began])
        if stopped or due:
            losses.settle()
            _save(run, folder)
            saved = now
        if stopped:
            raise StoppedError(f"stopped in epoch {number} and saved; the same command continues")
        if run.spent >= 1:
            break
    losses.settle()
    images = min(len(order), run.place.step * run.images_per_step)
    return _total_loss(run) / images


def _total_loss(run: Run) -> float:
    """Of the images of the epoch so far, in all processes."""
    return float(workers.total(torch.tensor(run.place.loss, dtype=torch.float64, device=run.device)))


def _is_due(run: Run, seconds: float) -> bool:
    return seconds > 60 * run.settings.checkpoint_minutes > 0


def _loaded(run: Run, order: NDArray[np.integer], steps: range) -> Iterator[tuple[int, list[Batch]]]:
    """The batches of each step; a thread reads those of the next step meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_load, run, order, steps.start) if steps else None
        for index in steps:
            assert ahead is not None
            batches = ahead.result()
            ahead = reader.submit(_load, run, order, index + 1) if index + 1 < steps.stop else None
            yield index, batches


def _load(run: Run, order: NDArray[np.integer], step: int) -> list[Batch]:
    """The batches of a step, this process's rows of each."""
    chosen = order[step * run.images_per_step : (step + 1) * run.images_per_step]
    size = run.settings.batch_size
    return [_read(run, chosen[start : start + size], len(chosen)) for start in range(0, len(chosen), size)]


def _read(run: Run, chosen: NDArray[np.integer], of: int) -> Batch:
    rows, weight = workers.rows(len(chosen))
    positions = chosen[rows]
    images, labels = run.train.take(positions)
    return Batch(
        positions=positions,
        images=to_unit(images, run.device),
        labels=to_device(torch.from_numpy(labels), run.device),
        distances=_distances(run, run.train, positions),
        rows=rows,
        of=len(chosen),
        counted=len(positions) if weight else 0,
        share=weight * len(chosen) / of,
    )


def _distances(run: Run, split: Split, positions: Sequence[int] | NDArray[np.integer]) -> dict[str, Tensor]:
    """The maps that the loss needs, on the training device."""
    maps = split.take_distances(run.loss.distances, positions)
    return {name: to_device(torch.from_numpy(values), run.device) for name, values in maps.items()}


def _step(run: Run, batches: list[Batch], step: int) -> list[Tensor]:
    """One step of the optimiser; returns the mean loss of each batch."""
    rate = learning_rate(run.settings, step, run.steps, spent=run.spent)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.zero_grad(set_to_none=True)
    # One seed for what all processes draw alike, one for the dropout of each.
    generator = torch.Generator().manual_seed(_mix(run.seed, step))
    torch.manual_seed(_mix(run.seed, step, 1 + workers.rank()))
    losses = [_pass(run, batch, generator, is_last=batch is batches[-1]) for batch in batches]
    if run.settings.max_grad_norm:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.settings.max_grad_norm)
    run.optimiser.step()
    if run.settings.ema_decay:
        _average(run, step)
    return losses


def _mix(*numbers: int) -> int:
    """A seed that follows from numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _pass(run: Run, batch: Batch, generator: torch.Generator, *, is_last: bool) -> Tensor:
    """Forward and backward; the gradients are averaged over the processes in the last pass of a step."""
    amounts = generate_parameters(batch.of, run.settings.augment, generator).take(batch.rows).to(run.device)
    inputs, target, distances = augment(batch.images, batch.labels, amounts, batch.distances)
    with workers.no_sync(run.network, apart=not is_last):
        loss: Tensor = run.loss(_forward(run, run.network, normalize(inputs)), target, distances)
        torch.autograd.backward(loss * batch.share)
    return loss.detach()


@torch.no_grad()
def _average(run: Run, step: int) -> None:
    """Move the averaged weights and statistics towards the trained ones, in the first steps faster."""
    decay = min(run.settings.ema_decay, (1 + step) / (10 + step))
    for mean, value in zip(run.judged.state_dict().values(), run.model.state_dict().values(), strict=True):
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
    """Loss, mIoU and pixel accuracy on the validation split; each process takes some of the batches."""
    run.judged.eval()
    workers.broadcast_buffers(run.judged)
    lost, counts = 0.0, np.zeros((run.classes, run.classes), np.int64)
    for positions in list(run.val.ranges(run.settings.batch_size))[workers.rank() :: workers.count()]:
        loss, found = _judge(run, positions)
        lost, counts = lost + len(positions) * loss, counts + found
    sums = workers.total(torch.tensor([lost, *counts.ravel()], dtype=torch.float64, device=run.device)).cpu().numpy()
    counts = sums[1:].round().astype(np.int64).reshape(counts.shape)
    return float(sums[0]) / len(run.val), float(mean_iou(counts)), float(pixel_accuracy(counts))


@torch.inference_mode()
def _judge(run: Run, positions: range) -> tuple[float, NDArray[np.int64]]:
    """The mean loss of some crops of the validation split, and their confusion matrix."""
    images, labels = run.val.take(positions)
    logits = _forward(run, run.judged, normalize(to_unit(images, run.device)))
    target: Integer[Tensor, "b h w"] = to_device(torch.from_numpy(labels), run.device)
    loss = float(run.loss(logits, target, _distances(run, run.val, positions)))
    return loss, confusion_matrix(labels, logits.argmax(1).cpu().numpy(), run.classes).sum(0)


def _give_up(batch: Batch, value: float, step: int, folder: Path) -> None:
    """Keep the batch whose loss is no number, and end the run."""
    path = folder / BROKEN_BATCH
    content: dict[str, Any] = {"positions": batch.positions}
    content |= {"images": batch.images.permute(0, 2, 3, 1).cpu().numpy(), "labels": batch.labels.cpu().numpy()}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **content)

    write_file(path, save)
    raise TrainingError(f"the loss became {value} at step {step}, see {path}; lower train.learning_rate or set clip")


def _save(run: Run, folder: Path, *, is_best: bool = False) -> None:
    """The best weights first: a kill in between repeats the epoch, it does not lose them."""
    loss = _total_loss(run)
    if workers.rank() == 0:
        if is_best:
            weights = {name: value.contiguous() for name, value in run.judged.state_dict().items()}
            write_file(folder / WEIGHTS, lambda path: path.write_bytes(save(weights)))
        content = {
            "model": run.model.state_dict(),
            "judged": run.judged.state_dict() if run.settings.ema_decay else {},
            "optimiser": run.optimiser.state_dict(),
            "history": [asdict(record) for record in run.history],
            "place": asdict(run.place) | {"loss": loss},
            "bf16": run.bf16,
        }
        write_file(folder / CHECKPOINT, lambda path: _write_checkpoint(content, path))
    workers.wait()


def _write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """PyTorch hides why a file cannot be written behind an error of its own."""
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
        run.judged.load_state_dict(content["judged"] or content["model"])
    run.optimiser.load_state_dict(content["optimiser"])
    # An heir goes on with other settings than those that its parent's optimiser was saved with.
    for group in run.optimiser.param_groups:
        group.update(weight_decay=run.settings.weight_decay, eps=run.settings.epsilon)
    run.history = [Epoch(**record) for record in content["history"]]
    run.place = Place(**content["place"])
    if workers.rank():
        run.place.loss = 0.0
    run.bf16 = content["bf16"]
