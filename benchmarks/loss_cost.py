"""The cost of each loss relative to plain cross-entropy.

    python benchmarks/loss_cost.py [--size 384] [--classes 8 35] [--batch 8] [--repeats 5] [--device cpu]

It times forward and backward passes that start from the logits, with the distance maps given and one pixel in twenty
ignored. Every round times every loss once, torch's cross-entropy among them, so that a busy machine slows all of them
alike; the table has the medians and the fastest rounds. Memory is the peak of one forward and backward pass beyond its
inputs: on a CPU that of the resident set in a fresh process per loss (Linux only), on CUDA that of the allocator. It
takes minutes on two cores at the full size. Expect no loss above 3 times cross-entropy except lovasz_softmax, which
sorts, and semeda, which runs convolutions: the last line below each table has its share of a training step of DeepLab
v3+ (ResNet-101) on such images, which the seed calls negligible.
"""

import argparse
import gc
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from machine import stamp
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from segline.classes import IGNORED
from segline.losses import LOSSES, required_distances
from segline.losses.edge_network import EdgeNetwork
from segline.losses.semeda import EDGE_NETWORK
from segline.losses.task import Task
from segline.models import MODELS
from segline.training.run import computes_bf16

PLAIN = "torch's cross_entropy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="side of the images in px")
    parser.add_argument("--classes", type=int, nargs="+", default=[8, 35])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        for classes in arguments.classes:
            save_file(EdgeNetwork(classes).state_dict(), Path(folder) / EDGE_NETWORK)
            task = Task(names=tuple(map(str, range(classes))), background=0, prepared=Path(folder))
            shape = (arguments.batch, classes, arguments.size, arguments.size)
            seconds = times(task, shape, arguments.device, arguments.repeats)
            show(shape, seconds, {name: memory(name, task, shape, arguments.device) for name in seconds})
            show_share(shape, seconds, arguments.device)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{stamp()}, torch {torch.__version__}, {where}")


class Plain(torch.nn.Module):
    """The cross-entropy of torch, as the reference."""

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, ignore_index=IGNORED)


def build(name, task, device):
    return (Plain() if name == PLAIN else LOSSES[name](task)).to(device)


def inputs(names, shape, device):
    """Return logits, class ids in blocks of 16 px with ignored pixels, and maps with plausible values."""
    batch, classes, height, width = shape
    blocks = torch.randint(classes, (batch, -(-height // 16), -(-width // 16)), device=device)
    target = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous()
    target[torch.rand(target.shape, device=device) < 0.05] = IGNORED
    logits = torch.randn(shape, device=device, requires_grad=True)
    channels = {"border": 1, "touching": 1, "signed": classes}
    return logits, target, *(16 * torch.rand(batch, channels[name], height, width, device=device) for name in names)


def step(loss, arguments):
    arguments[0].grad = None
    loss(*arguments).backward()


def times(task, shape, device, repeats):
    """Return the seconds of each round by the loss's name."""
    losses = {name: build(name, task, device) for name in (PLAIN, *LOSSES)}
    own_inputs = {
        name: inputs(required_distances(loss), shape, device)
        for name, loss in losses.items()
        if required_distances(loss)
    }
    shared = inputs((), shape, device)
    seconds = {name: [] for name in losses}
    for turn in range(repeats + 1):
        for name, loss in losses.items():
            start = time.perf_counter()
            step(loss, own_inputs.get(name, shared))
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def memory(name, task, shape, device):
    """Return the peak memory of one forward and backward pass beyond its inputs, in bytes."""
    with get_context("spawn").Pool(1) as process:
        return process.apply(peak, (name, task, shape, device))


def peak(name, task, shape, device):
    loss = build(name, task, device)
    step(loss, inputs(required_distances(loss), (*shape[:2], 32, 32), device))
    arguments = inputs(required_distances(loss), shape, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, arguments)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    step(loss, arguments)
    return resident("VmHWM") - before


def resident(field):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def show(shape, seconds, memories):
    table = Table(title="forward and backward, logits " + " x ".join(map(str, shape)))
    for heading in ("", "median ms", "fastest ms", "x", "extra MB", "x"):
        table.add_column(heading, justify="right" if heading else "left")
    plain, plain_memory = median(seconds[PLAIN]), memories[PLAIN]
    for name, rounds in seconds.items():
        table.add_row(
            name,
            f"{1e3 * median(rounds):.0f}",
            f"{1e3 * min(rounds):.0f}",
            f"{median(rounds) / plain:.2f}",
            f"{memories[name] / 1e6:.0f}",
            f"{memories[name] / plain_memory:.2f}",
            end_section=name == PLAIN,
        )
    Console().print(table)


def show_share(shape, seconds, device):
    """Print what semeda adds to a step of a large network, whose own time is taken without any loss."""
    batch, classes, *size = shape
    network = MODELS["deeplab_v3plus"](classes).to(device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=computes_bf16(torch.device(device))):
            logits = network(images)
        logits.float().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        rounds.append(time.perf_counter() - start)
    step, plain, semeda = min(rounds), median(seconds[PLAIN]), median(seconds["semeda"])
    print(
        f"deeplab_v3plus: {step:.1f} s forward and backward; with cross-entropy {step + plain:.1f} s, "
        f"with semeda {step + semeda:.1f} s ({100 * (semeda - plain) / (step + plain):+.1f} %)"
    )


if __name__ == "__main__":
    main()
