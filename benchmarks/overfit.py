"""A test of whether every architecture and loss can overfit two small batches (Seed S0, section 5.1 and figure 6).

    python benchmarks/overfit.py [--folder FOLDER] [--side 128] [--steps 400] [--only NAME ...]

Two batches of two street crops are used in turn without augmentation: each architecture is trained from random weights
with cross-entropy, and each loss alone with unet_resnet34, until the training passes of both batches are above 99 %
pixel accuracy (S0's training accuracy; dropout is off). AdamW's learning rate rises to 3e-4 over 20 steps and falls by
a half cosine. The column "predicted" has the accuracy in evaluation mode, after some passes that settle the running
statistics, which cover both batches and not each one.

The crops are those with the fewest contour pixels: a network whose logits are upsampled bilinearly from a grid of 8, 16
or 32 px cannot draw every contour, and the last column has the highest accuracy of free logits on its grid. It takes
about half an hour on 2 cores without a GPU. FOLDER keeps the scenes. Expect every row to reach 99 % or, where its grid
allows less, that: a row that does not cannot learn from any data.
"""

import argparse
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import stamp
from rich.console import Console
from rich.table import Table
from street_shards import make_shards
from torch import Tensor, nn

from segline.artifacts.dataset import read_dataset_info
from segline.classes import IGNORED
from segline.config.components import ComponentSpec
from segline.data.augment import normalize, to_unit
from segline.data.distances import DISTANCES
from segline.data.reading import open_split
from segline.data.split import Split
from segline.losses import LOSSES, WeightedSum
from segline.losses.edge_network import edge_map
from segline.losses.task import Task
from segline.metrics.confusion import confusion_matrix, pixel_accuracy
from segline.models import MODELS
from segline.progress import log
from segline.training.checkpoints import CheckpointStore
from segline.training.components import preparation_name
from segline.training.prepare import prepare_losses
from segline.training.run import computes_bf16
from segline.training.trial import TrialInputs

SEMEDA = ComponentSpec(name="semeda")
GOAL = 0.99
BATCH = 2
WARMUP_STEPS = 20
SETTLING_PASSES = 15
LEARNING_RATE = 3e-4
LOG_EVERY_N_STEPS = 20
# The widest models are narrowed to save time.
OPTIONS = {
    "deeplab_v3": {"output_stride": 8},
    "unet": {"width": 32},
    "unet_resnet50": {"modified": True},
    "unet_valid": {"width": 32},
}
# The grid from which logits are upsampled bilinearly at the end, in px.
GRIDS = {
    "deeplab_v1": 8,
    "deeplab_v2": 8,
    "deeplab_v3": 8,
    "drn_a_18": 8,
    "fcn32s": 32,
    "fcn16s": 16,
    "fcn8s": 8,
    "spp": 8,
}


@dataclass(frozen=True)
class Batch:
    """A batch of normalised images, class ids and distance maps."""

    images: Tensor
    target: Tensor
    distances: dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="the folder of the scenes, drawn if missing (default: a new temporary one)"
    )
    parser.add_argument("--side", type=int, default=128, help="side of a crop, in px (default: 128)")
    parser.add_argument("--steps", type=int, default=400, help="the most steps (default: 400)")
    parser.add_argument("--only", nargs="+", default=[], help="models and losses (default: all)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-overfit-"))
    side = arguments.side
    dataset_dir = make_shards(
        folder, drives=24, frames=2, height=max(96, 5 * side // 2), width=max(128, 3 * side), crop=side, seed=7
    )
    names = tuple(read_dataset_info(dataset_dir).names)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    split = open_split(dataset_dir, "train")
    labels = torch.from_numpy(split.take(range(len(split)))[1])
    smooth = np.argsort(edge_map(labels).double().mean((1, 2)).numpy(), kind="stable")
    batches = [take(split, smooth[start : start + BATCH], device) for start in (0, BATCH)]
    if "semeda" in (arguments.only or LOSSES):
        inputs = TrialInputs(dataset_dir=dataset_dir, prepared_dir=folder)
        prepare_losses([SEMEDA], inputs, CheckpointStore(""), seed=7, threads=1)
    task = Task(names=names, background=0, prepared=folder / preparation_name(SEMEDA))
    table = Table(title=f"two batches of {BATCH} crops of {side} px, {len(names)} classes, {device}")
    for heading in ("", "parameters", "steps", "seconds", "training accuracy", "predicted", "on its grid"):
        table.add_column(heading, justify="left" if not heading else "right")
    wanted = [(model, model, "cross_entropy") for model in MODELS if not model.startswith("smp/")]
    wanted += [(loss, "unet_resnet34", loss) for loss in LOSSES]
    for subject, model, loss in wanted:
        if not arguments.only or subject in arguments.only:
            row = [*learn(model, loss, task, batches, arguments.steps), best_on_grid(GRIDS.get(model, 1), batches)]
            table.add_row(subject, *row)
            log(f"overfit: {subject}: {', '.join(row)}")
    Console().print(table)
    print(f"{stamp()}, torch {torch.__version__}")


def best_on_grid(grid: int, batches: list[Batch]) -> str:
    """Return the pixel accuracy of free logits on a grid, upsampled bilinearly and fitted to the labels."""
    if grid == 1:
        return ""
    target = torch.cat([batch.target for batch in batches]).long()
    classes, side = int(target[target < IGNORED].max()) + 1, target.shape[-1]
    logits = torch.zeros(len(target), classes, side // grid, side // grid, device=target.device, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(400):
        upsampled = F.interpolate(logits, scale_factor=grid, mode="bilinear")
        optimizer.zero_grad()
        F.cross_entropy(upsampled, target, ignore_index=IGNORED).backward()
        optimizer.step()
    right = upsampled.argmax(1)[target < IGNORED] == target[target < IGNORED]
    return f"{100 * right.float().mean():.2f} %"


def take(split: Split, positions: np.ndarray, device: torch.device) -> Batch:
    images, labels = split.take(positions)
    maps = split.take_distances(list(DISTANCES), positions)
    return Batch(
        images=normalize(to_unit(images, device)).contiguous(memory_format=torch.channels_last),
        target=torch.from_numpy(labels).to(device),
        distances={name: torch.from_numpy(values).to(device) for name, values in maps.items()},
    )


def learn(model_name: str, loss_name: str, task: Task, batches: list[Batch], most_steps: int) -> list[str]:
    """Train a model with a loss and return the cells of its row."""
    device = batches[0].images.device
    torch.manual_seed(7)
    model = MODELS[model_name](len(task.names), **OPTIONS.get(model_name, {})).to(device)
    model = model.to(memory_format=torch.channels_last)
    loss = WeightedSum([(1.0, LOSSES[loss_name](task))]).to(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    started, accuracy, step = time.perf_counter(), 0.0, 0
    while accuracy <= GOAL and step < most_steps:
        counts = 0
        for batch in batches:
            cosine = (1 + math.cos(math.pi * step / most_steps)) / 2
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min((step + 1) / WARMUP_STEPS, cosine)
            counts = counts + learn_batch(model, loss, optimizer, batch, len(task.names))
            step += 1
        accuracy = float(pixel_accuracy(counts))
        if step % LOG_EVERY_N_STEPS == 0:
            log(f"overfit: {model_name}, {loss_name}: {step} steps, {100 * accuracy:.2f} %")
    seconds = time.perf_counter() - started
    size = sum(parameter.numel() for parameter in model.parameters())
    reached = f"{100 * accuracy:.2f} %{'' if accuracy > GOAL else ' (not reached)'}"
    return [
        f"{size / 1e6:.1f} M",
        str(step),
        f"{seconds:.0f}",
        reached,
        f"{100 * evaluate(model, batches):.2f} %",
    ]


def learn_batch(
    model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, classes: int
) -> np.ndarray:
    """Take a step and return the confusion matrix of its forward pass."""
    model.train()
    logits = forward(model, batch.images)
    optimizer.zero_grad(set_to_none=True)
    loss(logits, batch.target, batch.distances).backward()
    optimizer.step()
    return confusion_matrix(batch.target.cpu().numpy(), logits.argmax(1).cpu().numpy(), classes).sum(0)


def forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=computes_bf16(images.device)):
        return model(images).float()


@torch.inference_mode()
def evaluate(model: nn.Module, batches: list[Batch]) -> float:
    """Return the pixel accuracy over both batches in evaluation mode, with settled running statistics."""
    model.train()
    for batch in batches * SETTLING_PASSES:
        forward(model, batch.images)
    model.eval()
    predicted = [forward(model, batch.images).argmax(1)[batch.target < IGNORED] for batch in batches]
    truth = [batch.target[batch.target < IGNORED] for batch in batches]
    return float((torch.cat(predicted) == torch.cat(truth)).float().mean())


if __name__ == "__main__":
    main()
