"""Where and when a benchmark ran: the last line of each; and what a GPU can do at most."""

import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path


def stamp() -> str:
    """Date, machine and commit; the GPU if PyTorch is in use and sees one."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, encoding="utf-8"
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, encoding="utf-8"
    ).stdout.strip()
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line), ""
    )
    machine = model.partition(": ")[2] or platform.processor()
    torch = sys.modules.get("torch")
    gpu = f", {torch.cuda.get_device_name()}" if torch and torch.cuda.is_available() else ""
    return f"{date.today()}, {os.cpu_count()} cores {machine}{gpu}, commit {commit}{' (changed)' if changed else ''}"


def matrix_peak() -> float:
    """Operations per second of a large product in bf16, measured on the GPU; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for rounds in (5, 30):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            a @ b
        torch.cuda.synchronize()
    return 2 * 8192**3 * rounds / (time.perf_counter() - start)
