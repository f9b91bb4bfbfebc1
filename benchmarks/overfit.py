"""Every architecture, and every loss, learns two small batches by heart (Seed S0, section 5.1).

    python benchmarks/overfit.py [--folder FOLDER] [--side 64] [--only NAME ...]

Two batches of two street crops, shown in turn without augmentation: each architecture from random weights with
cross-entropy, and each loss alone with unet_resnet34, until both batches together are above 99 % pixel accuracy, as
measured by the network as it would predict (no dropout, running statistics). AdamW; the learning rate is in the table:
1e-3, and less for deep networks without batch normalisation. About 25 minutes on 2 cores without GPU. FOLDER keeps the
scenes. Expect every row to reach 99 %: one that does not cannot learn, whatever the data.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import stamp
from rich.console import Console
from rich.table import Table
from streets import make_shards
from torch import Tensor, nn

from segline.data.augment import normalise, to_unit
from segline.data.distances import DISTANCES
from segline.data.shards import Split, open_split, read_description
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.metrics.confusion import confusion, pixel_accuracy
from segline.models import MODELS
from segline.params import Edges
from segline.progress import say
from segline.training.edges import train_edges
from segline.training.engine import computes_bf16

GOAL = 0.99
BATCH = 2
MOST_STEPS = 1000
STEPS_BETWEEN_LOOKS = 20
RATES = {
    "deeplab_v1": 1e-4,
    "fcn16s": 1e-4,
    "fcn32s": 1e-4,
    "fcn8s": 1e-4,
    "unet_valid": 1e-4,
}
OPTIONS = {"unet_resnet50": {"modified": True}}


@dataclass(frozen=True)
class Batch:
    """Normalised images, class ids and the maps of distances."""

    images: Tensor
    target: Tensor
    distances: dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the scenes lie or are drawn (default: a new temporary one)")
    parser.add_argument("--side", type=int, default=64, help="of a crop, in px (default: 64)")
    parser.add_argument("--only", nargs="+", default=[], help="models and losses (default: all)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-overfit-"))
    side = arguments.side
    labelled = make_shards(
        folder, drives=12, frames=2, height=max(96, 5 * side // 2), width=max(128, 3 * side), crop=side, seed=7
    )
    names = tuple(read_description(labelled).names)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = [take(open_split(labelled, "train"), start, device) for start in (0, BATCH)]
    task = Task(names=names, background=0, edge_network=edge_network(labelled, folder, len(names)))
    table = Table(title=f"two batches of {BATCH} crops of {side} px, {len(names)} classes, {device}")
    for heading in ("", "parameters", "learning rate", "steps", "seconds", "pixel accuracy"):
        table.add_column(heading, justify="left" if not heading else "right")
    wanted = [(model, model, "cross_entropy") for model in MODELS if not model.startswith("smp/")]
    wanted += [(loss, "unet_resnet34", loss) for loss in LOSSES]
    for subject, model, loss in wanted:
        if not arguments.only or subject in arguments.only:
            row = learn(model, loss, task, batches, device)
            table.add_row(subject, *row)
            say(f"overfit: {subject}: {', '.join(row)}")
    Console().print(table)
    print(f"{stamp()}, torch {torch.__version__}")


def take(split: Split, start: int, device: torch.device) -> Batch:
    positions = range(start, start + BATCH)
    images, labels = split.take(positions)
    maps = split.take_distances(list(DISTANCES), positions)
    return Batch(
        images=normalise(to_unit(images, device)).contiguous(memory_format=torch.channels_last),
        target=torch.from_numpy(labels).to(device),
        distances={name: torch.from_numpy(values).to(device) for name, values in maps.items()},
    )


def edge_network(labelled: Path, folder: Path, classes: int) -> Path:
    file = folder / "edges.safetensors"
    splits = (open_split(labelled, name) for name in ("train", "val"))
    found = train_edges(*splits, classes, Edges(), seed=7, file=file, progress=lambda steps: None)
    say(f"overfit: edge network of semeda: accuracy {found['accuracy']:.4f} on held-out masks")
    return file


def learn(model_name: str, loss_name: str, task: Task, batches: list[Batch], device: torch.device) -> list[str]:
    """The cells of a row."""
    torch.manual_seed(7)
    model = MODELS[model_name](len(task.names), **OPTIONS.get(model_name, {})).to(device)
    model = model.to(memory_format=torch.channels_last)
    loss = WeightedSum([(1.0, LOSSES[loss_name](task))]).to(device)
    rate = RATES.get(model_name, 1e-3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    started, accuracy, step = time.perf_counter(), 0.0, 0
    while accuracy <= GOAL and step < MOST_STEPS:
        model.train()
        for _ in range(STEPS_BETWEEN_LOOKS // len(batches)):
            for batch in batches:
                optimiser.zero_grad(set_to_none=True)
                loss(forward(model, batch.images), batch.target, batch.distances).backward()
                optimiser.step()
                step += 1
        accuracy = look(model, batches, len(task.names))
    seconds = time.perf_counter() - started
    size = sum(parameter.numel() for parameter in model.parameters())
    mark = "" if accuracy > GOAL else " (not reached)"
    return [f"{size / 1e6:.1f} M", f"{rate:g}", str(step), f"{seconds:.0f}", f"{100 * accuracy:.2f} %{mark}"]


def forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=computes_bf16(images.device)):
        return model(images).float()


@torch.inference_mode()
def look(model: nn.Module, batches: list[Batch], classes: int) -> float:
    """Pixel accuracy over both batches."""
    model.eval()
    counts = sum(
        confusion(batch.target.cpu().numpy(), forward(model, batch.images).argmax(1).cpu().numpy(), classes).sum(0)
        for batch in batches
    )
    return float(pixel_accuracy(counts))


if __name__ == "__main__":
    main()
