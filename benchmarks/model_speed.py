"""Training step and inference of every architecture, and segmentation_models_pytorch's own beside two of them.

    python benchmarks/model_speed.py [--sides 128 384] [--batch 2] [--only NAME ...] [--fp32] [--compile]

A training step (forward, cross-entropy, backward, AdamW) and inference, channels_last, and in bf16 autocast where the
device computes in it, unless --fp32. unet_resnet34 and deeplab_v3plus (ResNet-101) alternate with the same architecture
of segmentation_models_pytorch, and the table gives the ratio of the medians. On a GPU also the share that training has
of the device's measured peak of bf16 matrix products, three forward passes' operations counted as one step's. With
--compile these two are measured once more, through torch.compile.

Without a GPU each model runs in a process of its own, so that its peak of memory is its own. About 20 minutes on 2
cores, which should do nothing else; on a GPU, where --batch 32 fills it, a few seconds a model.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import matrix_peak, stamp
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segline.models import MODELS
from segline.progress import log
from segline.training.engine import computes_bf16

CLASSES = 8
LEAST_ROUNDS = 3
BESIDE = {"unet_resnet34": ("unet", "resnet34"), "deeplab_v3plus": ("deeplabv3plus", "resnet101")}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SECONDS = 1.0 if DEVICE.type == "cuda" else 4.0
OURS = [name for name in MODELS if not name.startswith("smp/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 384], help="of the images, in px")
    parser.add_argument("--batch", type=int, default=2, help="images at once (default: 2)")
    parser.add_argument("--only", nargs="+", default=OURS, help="models (default: all of Segline's own)")
    parser.add_argument("--fp32", action="store_true", help="single precision also where the device computes in bf16")
    parser.add_argument("--compile", action="store_true", help="those two compiled as well")
    arguments = parser.parse_args()
    bf16, peak = computes_bf16(DEVICE) and not arguments.fp32, matrix_peak()
    for side in arguments.sides:
        rows = []
        for name in arguments.only:
            found = in_own_memory(name, side, arguments.batch, bf16, arguments.compile)
            rows.append((name, found))
            log(f"model_speed: {name}, {side} px: {', '.join(speeds('ours', found, arguments.batch))} images/s")
        show(rows, side, arguments, peak)
    print(f"{stamp()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if peak:
        print(f"measured peak of bf16 matrix products: {peak / 1e12:.0f} TFLOP/s")


def in_own_memory(*what: Any) -> dict[str, Any]:
    """A measurement whose peak of memory is its own: a GPU forgets the last one's, a process does not."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return measure(*what)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *what).result()


def measure(name: str, side: int, batch: int, bf16: bool, compiles: bool) -> dict[str, Any]:
    """Seconds of a training step and of inference, peak memory in bytes, and the same of the other library."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side, device=DEVICE).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (batch, side, side), device=DEVICE)
    before = held()
    ours = MODELS[name](CLASSES)
    found = {"parameters": sum(parameter.numel() for parameter in ours.parameters())}
    found |= timed({"ours": ours}, images, target, bf16=bf16)
    found["memory"] = most_held() - before
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(images)
    found["flops"] = counter.get_total_flops()
    if name in BESIDE:
        found["ratio"] = ratios(ours, name, images, target, bf16=bf16)
        if compiles:
            found |= timed({"compiled": torch.compile(ours)}, images, target, bf16=bf16)
    return found


def ratios(ours: nn.Module, name: str, images: Tensor, target: Tensor, *, bf16: bool) -> list[float]:
    """How many times as fast as the other library's training step and inference."""
    import segmentation_models_pytorch as smp

    architecture, encoder = BESIDE[name]
    theirs = smp.create_model(architecture, encoder, encoder_weights=None, classes=CLASSES)
    both = timed({"ours": ours, "theirs": theirs}, images, target, bf16=bf16)
    return [both[f"theirs {what}"] / both[f"ours {what}"] for what in ("train", "predict")]


def timed(models: dict[str, nn.Module], images: Tensor, target: Tensor, *, bf16: bool) -> dict[str, float]:
    """The median seconds of each model's training step and inference, the models taking turns."""
    actions: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        model.to(DEVICE).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        actions[f"{name} train"] = lambda model=model, optimiser=optimiser: step(model, optimiser, images, target, bf16)
        actions[f"{name} predict"] = lambda model=model: predict(model, images, bf16)
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS * len(models) or min(map(len, seconds.values())) < LEAST_ROUNDS:
        for name, action in actions.items():
            synchronise()
            start = time.perf_counter()
            action()
            synchronise()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step(model: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, target: Tensor, bf16: bool) -> None:
    model.train()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        logits = model(images)
    optimiser.zero_grad(set_to_none=True)
    F.cross_entropy(logits.float(), target).backward()
    optimiser.step()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, bf16: bool) -> None:
    model.eval()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        model(images)


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def held() -> int:
    """What is held now, in bytes: of the GPU, or by this process."""
    if DEVICE.type == "cuda":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def most_held() -> int:
    """The most that was held so far, in bytes: of the GPU, or of this process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(rows: list[tuple[str, dict[str, Any]]], side: int, arguments: argparse.Namespace, peak: float) -> None:
    precision = "bf16 autocast" if computes_bf16(DEVICE) and not arguments.fp32 else "fp32"
    table = Table(title=f"{arguments.batch} x 3 x {side} x {side}, {CLASSES} classes, {DEVICE}, {precision}")
    heads = ["parameters", "GFLOP an image", "train images/s", "predict images/s"]
    heads += ["peak memory", "x smp (train, predict)", *(["share of peak"] if peak else [])]
    for heading in ["", *heads]:
        table.add_column(heading, justify="left" if not heading else "right")
    for name, found in rows:
        beside = ", ".join(f"{ratio:.2f}" for ratio in found.get("ratio", []))
        about = [f"{found['parameters'] / 1e6:.1f} M", f"{found['flops'] / arguments.batch / 1e9:.1f}"]
        memory = f"{found['memory'] / 2**30:.2f} GiB"
        table.add_row(
            name, *about, *speeds("ours", found, arguments.batch), memory, beside, *share("ours", found, peak)
        )
        if "compiled train" in found:
            fast = speeds("compiled", found, arguments.batch)
            table.add_row("  compiled", "", "", *fast, "", "", *share("compiled", found, peak))
    Console(width=160).print(table)


def speeds(how: str, found: dict[str, Any], batch: int) -> list[str]:
    """Images a second, in training and in inference."""
    return [f"{batch / found[f'{how} {what}']:.1f}" for what in ("train", "predict")]


def share(how: str, found: dict[str, Any], peak: float) -> list[str]:
    """What training makes of the GPU's peak; the backward pass takes twice the operations of the forward pass."""
    return [f"{300 * found['flops'] / found[f'{how} train'] / peak:.0f} %"] if peak else []


if __name__ == "__main__":
    main()
