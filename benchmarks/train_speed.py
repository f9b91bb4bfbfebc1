"""Training of a U-Net, Segline's loop beside the loop that one would write, on the same crops.

    python benchmarks/train_speed.py [--side 128] [--epochs 8] [--crops 160] [--batch 8] [--seed 1] [--compile]
        [--encoder resnet34] [--without-constant] [--folder FOLDER] [--dataset DIR]

Both train the same architecture from the same weights with cross-entropy, AdamW, the same rate schedule, batch size and
augmentation (flip, zoom, shift, rotation, brightness, contrast), for equally many epochs, and take turns by epoch:

- Segline: `segline.training.engine` on memory-mapped shards, as `segline train` runs it: `precision: auto`,
  deterministic algorithms;
- plain: segmentation_models_pytorch's U-Net in single precision, a DataLoader with a worker for each core over JPEG
  and PNG files of the same crops, and torchvision's transforms of each image on the CPU.

With `--encoder tf_efficientnet_lite0`, or another one whose weights a package ships, both train `smp/unet` on that
encoder of timm, which starts from these weights; otherwise unet_resnet34 from random ones.

The table has images a second of the training epochs (medians, data loading and augmentation included) and the
validation mIoU. Below it, what Segline's data path costs: the same loop once more with a batch that is read once and
never augmented. On a GPU also the share of its measured peak of bf16 matrix products, with three forward passes'
operations counted as one step's. About 15 minutes on 2 cores without GPU, which should do nothing else.

--dataset takes shards that `segline label` wrote instead of drawing scenes; the plain loop writes its files there.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from machine import matrix_peak, stamp
from PIL import Image
from rich.console import Console
from rich.table import Table
from street_shards import make_shards
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors
from torchvision.transforms import v2

from segline.artifacts.dataset import read_dataset_info
from segline.classes import IGNORED
from segline.config.sections import Augment, Train
from segline.data.reading import open_split
from segline.data.shards import Crops
from segline.data.split import Split
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.metrics.confusion import confusion_matrix, mean_iou
from segline.models import MODELS
from segline.parallel import tune_malloc
from segline.training import engine
from segline.training.determinism import set_deterministic
from segline.training.run import Run, runs_in_bf16
from segline.training.schedules import learning_rate

CLASSES = 8  # as good as any for a count of operations
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the scenes (default: a new temporary one)")
    parser.add_argument("--dataset", type=Path, help="shards to use (default: scenes are drawn)")
    parser.add_argument("--side", type=int, default=128, help="of a crop, in px (default: 128)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--crops", type=int, default=160, help="for training, about (default: 160)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="Segline's network compiled")
    parser.add_argument("--encoder", default="resnet34", help="resnet34, or one with shipped weights")
    parser.add_argument("--without-constant", action="store_true", help="leave out the loops on a constant batch")
    arguments = parser.parse_args()
    side, folder = arguments.side, arguments.folder or Path(tempfile.mkdtemp(prefix="segline-speed-"))
    drives = max(10, arguments.crops * 5 // 12)
    scenes = {"drives": drives, "frames": 3, "height": 5 * side // 2, "width": 3 * side, "crop": side, "seed": 11}
    dataset_dir = arguments.dataset or make_shards(folder, **scenes, distances=())
    settings = Train(epochs=arguments.epochs, batch_size=arguments.batch, learning_rate=1e-3, compile=arguments.compile)
    plan = Plan(dataset_dir, settings, arguments.seed, arguments.encoder)
    show(in_turns({"Segline": segline_epochs, "plain": plain_epochs}, plan), plan)
    if not arguments.without_constant:
        sides = {"usual": segline_epochs, "constant": constant_epochs}
        usual, constant = in_turns(sides, replace(plan, settings=replace(settings, epochs=5))).values()
        ratio = statistics.median(row[0] for row in usual[1:]) / statistics.median(row[0] for row in constant[1:])
        print(
            f"reading and augmenting costs {100 * (ratio - 1):.1f} % of an epoch (the same loop with a constant batch)"
        )
    print(f"{stamp()}, torch {torch.__version__}, {torch.get_num_threads()} threads")


@dataclass(frozen=True)
class Plan:
    """What both sides train on, and how."""

    dataset_dir: Path
    settings: Train
    seed: int
    encoder: str

    @property
    def classes(self) -> int:
        return len(read_dataset_info(self.dataset_dir).names)

    @property
    def model(self) -> torch.nn.Module:
        """Segline's network."""
        return network(self.encoder, self.classes)


def network(encoder: str, classes: int) -> torch.nn.Module:
    if encoder == "resnet34":
        return MODELS["unet_resnet34"](classes)
    return MODELS["smp/unet"](classes, encoder=f"tu-{encoder}", pretrained="shipped")


def in_turns(sides: dict[str, Any], plan: Plan) -> dict[str, list[tuple[float, float]]]:
    """The epochs of each side, which has a process of its own: seconds of training, and validation mIoU."""
    context, pipes, took = multiprocessing.get_context("spawn"), {}, {name: [] for name in sides}
    for name, epochs in sides.items():
        pipes[name], other = context.Pipe()
        context.Process(target=serve, args=(other, epochs, plan)).start()
    for _ in range(plan.settings.epochs):
        for name, pipe in pipes.items():
            pipe.send(None)
            took[name].append(pipe.recv())
    return took


def serve(pipe: Any, epochs: Any, plan: Plan) -> None:
    """Train an epoch whenever asked."""
    running = epochs(plan)
    for _ in range(plan.settings.epochs):
        pipe.recv()
        pipe.send(next(running))


def segline_epochs(plan: Plan) -> Iterator[tuple[float, float]]:
    return engine_epochs(plan, open_split(plan.dataset_dir, "train"))


def constant_epochs(plan: Plan) -> Iterator[tuple[float, float]]:
    still = Augment(flip=0.0, scale=0.0, translate=0.0, rotate=0.0, brightness_contrast=0.0)
    settings = replace(plan.settings, augment=still)
    return engine_epochs(replace(plan, settings=settings), Constant(plan.dataset_dir / "train"))


@dataclass(frozen=True)
class Constant(Crops):
    """One batch over and over."""

    def take(self, positions):
        return tuple(values[: len(positions)] for values in self.kept)

    @cached_property
    def kept(self):
        return super().take(np.arange(64) % len(self))


def engine_epochs(plan: Plan, train: Split) -> Iterator[tuple[float, float]]:
    set_deterministic(plan.seed)
    tune_malloc()
    names = tuple(read_dataset_info(plan.dataset_dir).names)
    run = Run(
        model=plan.model,
        loss=WeightedSum([(1.0, LOSSES["cross_entropy"](Task(names=names, background=0)))]),
        train=train,
        val=open_split(plan.dataset_dir, "val_crops"),
        classes=len(names),
        settings=plan.settings,
        seed=plan.seed,
        device=DEVICE,
    )
    before = 0.0
    with tempfile.TemporaryDirectory() as kept:
        for epoch in engine.fit(run, Path(kept)):
            yield run.epoch_state.seconds - before, epoch.val_miou
            before = run.epoch_state.seconds


class Files(Dataset):
    """Crops as files, decoded and augmented one by one."""

    def __init__(self, folder: Path, settings: Augment | None, encoder: str) -> None:
        self.names = sorted(folder.glob("*.jpg"))
        moves = (
            []
            if settings is None
            else [
                v2.RandomHorizontalFlip(settings.flip),
                v2.RandomAffine(
                    settings.rotate,
                    translate=(settings.translate, settings.translate),
                    scale=(1 - settings.scale, 1 + settings.scale),
                    interpolation=v2.InterpolationMode.BILINEAR,
                    fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORED},
                ),
                v2.ColorJitter(brightness=settings.brightness_contrast, contrast=settings.brightness_contrast),
            ]
        )
        norm = timm.get_pretrained_cfg(encoder)
        mean, std = norm.mean, norm.std
        self.change = v2.Compose([*moves, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        name = self.names[position]
        image = tv_tensors.Image(np.asarray(Image.open(name)).transpose(2, 0, 1).copy())
        mask = tv_tensors.Mask(np.asarray(Image.open(name.with_suffix(".png"))).copy())
        image, mask = self.change(image, mask)
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor).long()


def plain_network(plan: Plan) -> torch.nn.Module:
    if plan.encoder == "resnet34":
        return smp.Unet("resnet34", encoder_weights=None, classes=plan.classes)
    model = smp.Unet(f"tu-{plan.encoder}", encoder_weights=None, classes=plan.classes)
    weights = {name.partition("encoder.")[2]: value for name, value in plan.model.state_dict().items()}
    model.encoder.load_state_dict({name: weights[name] for name in model.encoder.state_dict()})
    return model


def plain_epochs(plan: Plan) -> Iterator[tuple[float, float]]:
    """A loop as one writes it."""
    dataset_dir, settings = plan.dataset_dir, plan.settings
    folders = {
        name: as_files(open_split(dataset_dir, name), dataset_dir / f"{name}-files") for name in ("train", "val_crops")
    }
    torch.manual_seed(plan.seed)
    model = plain_network(plan).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)
    workers = os.cpu_count()
    train = DataLoader(
        Files(folders["train"], settings.augment, plan.encoder),
        settings.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )
    val = DataLoader(Files(folders["val_crops"], None, plan.encoder), settings.batch_size)
    step, steps = 0, settings.epochs * len(train)
    for _ in range(settings.epochs):
        model.train()
        began = time.monotonic()
        for images, target in train:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, steps)
            loss = F.cross_entropy(model(images.to(DEVICE)), target.to(DEVICE), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            step += 1
        seconds = time.monotonic() - began
        yield seconds, plain_score(model, val, plan.classes)


@torch.inference_mode()
def plain_score(model: torch.nn.Module, val: DataLoader, classes: int) -> float:
    model.eval()
    counts = sum(
        confusion_matrix(
            target.numpy().astype(np.uint8), model(images.to(DEVICE)).argmax(1).cpu().numpy(), classes
        ).sum(0)
        for images, target in val
    )
    return float(mean_iou(counts))


def as_files(split: Split, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(len(split)):
        images, labels = split.take([number])
        Image.fromarray(images[0]).save(folder / f"{number:05d}.jpg", quality=95)
        Image.fromarray(labels[0]).save(folder / f"{number:05d}.png")
    return folder


def show(took: dict[str, list[tuple[float, float]]], plan: Plan) -> None:
    dataset_dir, settings = plan.dataset_dir, plan.settings
    images, crop = len(open_split(dataset_dir, "train")), read_dataset_info(dataset_dir).crop_size[0]
    precision = "bf16" if runs_in_bf16(settings.precision, DEVICE) else "fp32"
    table = Table(title=f"{images} crops of {crop} px, batch {settings.batch_size}, {DEVICE}; Segline in {precision}")
    for heading in ("", "images/s", "val mIoU, last three epochs"):
        table.add_column(heading, justify="left" if not heading else "right")
    speeds = {name: images / statistics.median(seconds for seconds, _ in rows[1:]) for name, rows in took.items()}
    for name, rows in took.items():
        table.add_row(name, f"{speeds[name]:.1f}", ", ".join(f"{score:.3f}" for _, score in rows[-3:]))
    Console().print(table)
    print(f"Segline trains {speeds['Segline'] / speeds['plain']:.2f} times as many images a second")
    if peak := matrix_peak():
        used = 3 * flops(crop, plan.encoder) * speeds["Segline"] / peak
        print(f"and uses {100 * used:.1f} % of the {peak / 1e12:.0f} TFLOP/s that the GPU does in bf16 matrix products")


def flops(side: int, encoder: str) -> int:
    """Of the forward pass of an image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(encoder, CLASSES).to(DEVICE).eval()(torch.zeros(1, 3, side, side, device=DEVICE))
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
