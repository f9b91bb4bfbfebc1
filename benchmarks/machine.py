"""Where and when a benchmark ran: the last line of each."""

import os
import platform
import subprocess
from datetime import date
from pathlib import Path


def stamp() -> str:
    """Date, machine and commit."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    machine = model.partition(": ")[2] or platform.processor()
    return f"{date.today()}, {os.cpu_count()} cores {machine}, commit {commit}{' (changed)' if changed else ''}"
