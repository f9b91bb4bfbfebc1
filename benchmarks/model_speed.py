"""The speed of training and inference of every architecture, and of two of segmentation_models_pytorch's.

    python benchmarks/model_speed.py [--sides 128 384] [--batch 2] [--only NAME ...] [--fp32] [--compile]

It measures a training step (forward, cross-entropy, backward, AdamW) and inference, with channels_last, and in bf16
autocast where the device supports it, unless --fp32 is given. unet_resnet34 and deeplab_v3plus (ResNet-101) alternate
with the same architecture of segmentation_models_pytorch, and the table gives the ratio of the medians. On a GPU the
table also has training's share of the device's measured peak of bf16 matrix products; a step counts as three forward
passes. With --compile these two architectures are measured again through torch.compile.

Without a GPU each model runs in its own process, so that its peak memory is its own. It takes about 20 minutes on 2
otherwise idle cores, and on a GPU, where --batch 32 uses all of it, a few seconds a model.
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
from segline.training.run import computes_bf16

CLASSES = 8
MIN_ROUNDS = 3
SMP_COUNTERPARTS = {"unet_resnet34": ("unet", "resnet34"), "deeplab_v3plus": ("deeplabv3plus", "resnet101")}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SECONDS = 1.0 if DEVICE.type == "cuda" else 4.0
OWN_MODELS = [name for name in MODELS if not name.startswith("smp/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 384], help="sides of the images, in px")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch (default: 2)")
    parser.add_argument("--only", nargs="+", default=OWN_MODELS, help="models (default: all of Segline's own)")
    parser.add_argument("--fp32", action="store_true", help="single precision also where the device computes in bf16")
    parser.add_argument("--compile", action="store_true", help="also measure two models compiled")
    arguments = parser.parse_args()
    bf16, peak = computes_bf16(DEVICE) and not arguments.fp32, matrix_peak()
    for side in arguments.sides:
        rows = []
        for name in arguments.only:
            result = measure_isolated(name, side, arguments.batch, bf16, arguments.compile)
            rows.append((name, result))
            log(f"model_speed: {name}, {side} px: {', '.join(speeds('ours', result, arguments.batch))} images/s")
        show(rows, side, arguments, peak)
    print(f"{stamp()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if peak:
        print(f"measured peak of bf16 matrix products: {peak / 1e12:.0f} TFLOP/s")


def measure_isolated(*arguments: Any) -> dict[str, Any]:
    """Measure with a peak of memory of its own: a GPU resets it, on a CPU it takes a new process."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return measure(*arguments)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def measure(name: str, side: int, batch: int, bf16: bool, compiles: bool) -> dict[str, Any]:
    """Return the seconds of a training step and of inference, the peak memory in bytes, and the ratios to smp."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, side, side, device=DEVICE).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (batch, side, side), device=DEVICE)
    before = memory_in_use()
    ours = MODELS[name](CLASSES)
    result = {"parameters": sum(parameter.numel() for parameter in ours.parameters())}
    result |= timed({"ours": ours}, images, target, bf16=bf16)
    result["memory"] = peak_memory() - before
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(images)
    result["flops"] = counter.get_total_flops()
    if name in SMP_COUNTERPARTS:
        result["ratio"] = ratios(ours, name, images, target, bf16=bf16)
        if compiles:
            result |= timed({"compiled": torch.compile(ours)}, images, target, bf16=bf16)
    return result


def ratios(ours: nn.Module, name: str, images: Tensor, target: Tensor, *, bf16: bool) -> list[float]:
    """Return the speed-ups over the other library's training step and inference."""
    import segmentation_models_pytorch as smp

    architecture, encoder = SMP_COUNTERPARTS[name]
    theirs = smp.create_model(architecture, encoder, encoder_weights=None, classes=CLASSES)
    both = timed({"ours": ours, "theirs": theirs}, images, target, bf16=bf16)
    return [both[f"theirs {what}"] / both[f"ours {what}"] for what in ("train", "predict")]


def timed(models: dict[str, nn.Module], images: Tensor, target: Tensor, *, bf16: bool) -> dict[str, float]:
    """Return the median seconds of each model's training step and inference; the models take turns."""
    actions: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        model.to(DEVICE).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        actions[f"{name} train"] = lambda model=model, optimizer=optimizer: step(model, optimizer, images, target, bf16)
        actions[f"{name} predict"] = lambda model=model: predict(model, images, bf16)
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS * len(models) or min(map(len, seconds.values())) < MIN_ROUNDS:
        for name, action in actions.items():
            synchronize()
            start = time.perf_counter()
            action()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, target: Tensor, bf16: bool) -> None:
    model.train()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        logits = model(images)
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(logits.float(), target).backward()
    optimizer.step()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, bf16: bool) -> None:
    model.eval()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        model(images)


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def memory_in_use() -> int:
    """Return the memory in use on the GPU, or else by this process, in bytes."""
    if DEVICE.type == "cuda":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def peak_memory() -> int:
    """Return the peak of the memory on the GPU, or else of this process, in bytes."""
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
    for name, result in rows:
        beside = ", ".join(f"{ratio:.2f}" for ratio in result.get("ratio", []))
        about = [f"{result['parameters'] / 1e6:.1f} M", f"{result['flops'] / arguments.batch / 1e9:.1f}"]
        memory = f"{result['memory'] / 2**30:.2f} GiB"
        table.add_row(
            name, *about, *speeds("ours", result, arguments.batch), memory, beside, *share("ours", result, peak)
        )
        if "compiled train" in result:
            fast = speeds("compiled", result, arguments.batch)
            table.add_row("  compiled", "", "", *fast, "", "", *share("compiled", result, peak))
    Console(width=160).print(table)


def speeds(how: str, result: dict[str, Any], batch: int) -> list[str]:
    """Return the images per second in training and in inference."""
    return [f"{batch / result[f'{how} {what}']:.1f}" for what in ("train", "predict")]


def share(how: str, result: dict[str, Any], peak: float) -> list[str]:
    """Return training's share of the GPU's peak; a backward pass has twice the operations of a forward pass."""
    return [f"{300 * result['flops'] / result[f'{how} train'] / peak:.0f} %"] if peak else []


if __name__ == "__main__":
    main()
