"""A case runs in a child of this process, with a limit of memory and of time."""

import os
import resource
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 1 << 30
SECONDS = 20.0
MAX_SHOWN = 20_000
"""The most bytes that a command may print about a broken file."""
CODES = (0, 2, 3, 4, 5, 6, 7)
"""The exit codes of a success and of errors that a user can mend."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: its exit code, or minus the number of the signal that ended it, and what it printed."""

    code: int
    shown: str
    seconds: float
    memory: int

    @property
    def fault(self):
        """What is wrong with the way it ended; empty if it was handled."""
        if self.code == -signal.SIGKILL:
            return f"it was killed after {self.seconds:.0f} s"
        if self.code not in CODES or "Traceback (most recent" in self.shown or "fault of Segline" in self.shown:
            return f"exit code {self.code}"
        if "too little free memory" in self.shown or self.memory > MEMORY_BYTES:
            return f"more than {MEMORY_BYTES >> 20} MiB"
        if len(self.shown) > MAX_SHOWN:
            return f"{len(self.shown)} letters printed"
        return ""


def run_case(case):
    """Call a function in a child process; it returns its exit code."""
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        child = os.fork()
        if not child:
            _run_child(case, output.fileno())
        status, usage = _wait(child, began + SECONDS)
        output.seek(0)
        shown = output.read(10 * MAX_SHOWN).decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, shown, time.monotonic() - began, usage.ru_maxrss * 1024)


def _run_child(case, output):
    code = 99
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = case()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(child, deadline):
    """Wait for a child, and kill it at the deadline."""
    pause = 0.001
    while time.monotonic() < deadline:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    os.kill(child, signal.SIGKILL)
    return os.wait4(child, 0)[1:]
