"""The time and the peak memory of a command with all the processes that it starts, such as a whole line.

    python benchmarks/line_cost.py dvc repro --force
    python benchmarks/line_cost.py make camvid SOURCE=../camvid

Twice a second the memory of the processes is summed; what several of them share counts once (proportional set size).
The last line has the seconds, the peak and the machine, which should do nothing else.
"""

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from machine import stamp

PERIOD_S = 0.5


@dataclass(frozen=True)
class Cost:
    """The seconds that a command took, and the most bytes that its processes held at once."""

    seconds: float
    memory: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, max(self.memory, other.memory))

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.memory / 1e9:.1f} GB at most"


def run(command: list[str], folder: Path | None = None) -> Cost:
    """Run a command to its end, and return its cost; a failure ends this program with its exit code."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder)
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(PERIOD_S):
            peak[0] = max(peak[0], memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code = process.wait()
    finally:
        ended.set()
        watcher.join()
    if code:
        raise SystemExit(code)
    return Cost(time.monotonic() - began, peak[0])


def memory_of(pid: int) -> int:
    """The memory of a process and of all that descend from it, in bytes."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    print(f"{run(sys.argv[1:])}; {stamp()}")
