"""A step of the optimizer: its batches are read, augmented, and add up to one gradient."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segline.data.augment import augment, generate_parameters, to_device
from segline.losses import Part
from segline.training import ddp
from segline.training.depthwise import FastDepthwiseGradients
from segline.training.run import Run, derive_seed, forward, take_distances
from segline.training.schedules import learning_rate


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
    is_counted: bool
    """Whether they count: a process that has no row of a batch takes one all the same, as all must take part."""


def load_ahead(run: Run, order: NDArray[np.integer], steps: range) -> Iterator[tuple[int, list[Batch]]]:
    """Yield the batches of each step, while a thread reads those of the next one."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(load, run, order, steps.start) if steps else None
        for index in steps:
            assert ahead is not None
            batches = ahead.result()
            ahead = reader.submit(load, run, order, index + 1) if index + 1 < steps.stop else None
            yield index, batches


def load(run: Run, order: NDArray[np.integer], step: int) -> list[Batch]:
    """Return the batches of a step, each with the rows of this process."""
    chosen = order[step * run.images_per_step : (step + 1) * run.images_per_step]
    size = run.settings.batch_size
    return [_read(run, chosen[start : start + size]) for start in range(0, len(chosen), size)]


def _read(run: Run, chosen: NDArray[np.integer]) -> Batch:
    rows, is_counted = ddp.rows(len(chosen))
    positions = chosen[rows]
    images, labels = run.train.take(positions)
    return Batch(
        positions=positions,
        images=run.to_input(images, run.device),
        labels=to_device(torch.from_numpy(labels), run.device),
        distances=take_distances(run, run.train, positions),
        rows=rows,
        size=len(chosen),
        is_counted=is_counted,
    )


def train_step(run: Run, batches: list[Batch], step: int) -> list[Tensor]:
    """Make one step of the optimizer; return the part that each batch has in the loss of the step.

    The batches of all processes give the gradient of one large batch: what the terms of the loss divide by, such as the
    labelled pixels, is summed over all of them before the first pass. Dice and Lovász look at a whole batch at once,
    and say what is done with theirs.
    """
    rate = learning_rate(run.settings, step, run.steps, time_fraction=run.time_fraction)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    run.optimizer.zero_grad(set_to_none=True)
    # All processes draw the same augmentation; each has a seed of its own for dropout.
    generator = torch.Generator().manual_seed(derive_seed(run.seed, step))
    torch.manual_seed(derive_seed(run.seed, step, 1 + ddp.rank()))
    batches = [_augment(run, batch, generator) for batch in batches]
    counts = [run.loss.counts(batch.labels, run.classes) * batch.is_counted for batch in batches]
    total = ddp.all_reduce_sum(torch.stack(counts).sum(0))
    losses = [
        _forward_backward(run, batch, Part(own, total), is_last=batch is batches[-1])
        for batch, own in zip(batches, counts, strict=True)
    ]
    if run.settings.max_grad_norm:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.settings.max_grad_norm)
    run.optimizer.step()
    if run.settings.ema_decay:
        _update_ema(run, step)
    return losses


def _augment(run: Run, batch: Batch, generator: torch.Generator) -> Batch:
    if run.on_features:
        return batch
    amounts = generate_parameters(batch.size, run.settings.augment, generator).take(batch.rows).to(run.device)
    images, labels, distances = augment(batch.images, batch.labels, amounts, batch.distances)
    return replace(batch, images=images, labels=labels, distances=distances)


def _forward_backward(run: Run, batch: Batch, part: Part, *, is_last: bool) -> Tensor:
    """Run forward and backward; the gradients are averaged over the processes in the last pass of a step."""
    with ddp.no_sync(run.network, enabled=not is_last):
        is_plain = run.settings.compile or run.device.type != "cpu"
        with nullcontext() if is_plain else FastDepthwiseGradients():
            logits = forward(run, run.network, batch.images)
        # Several heads stack their logits along the batch in training; each has a loss of its own.
        losses = [run.loss(own, batch.labels, batch.distances, part) for own in torch.split(logits, len(batch.labels))]
        loss = torch.stack(losses).sum()
        torch.autograd.backward(loss * ddp.world_size())
    return loss.detach() / len(losses)


@torch.no_grad()
def _update_ema(run: Run, step: int) -> None:
    """Move the averaged weights and statistics towards the trained ones, faster in the first steps."""
    decay = min(run.settings.ema_decay, (1 + step) / (10 + step))
    for mean, value in zip(run.ema_model.state_dict().values(), run.model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
