"""Fuzz what users write and what lies on disk: ``python tests/fuzz/run.py --seconds 540`` (``make fuzz``).

Every case runs in a process of its own with at most 1 GiB of memory beside what is loaded, and 20 s. It is handled if
it ends with a documented exit code, without a traceback, and prints little. The counts are printed by target and exit
code; each fault is printed with the number by which ``--seed`` and ``--only`` repeat it.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("SEGLINE_DEBUG", "1")

from sandbox import run_case
from targets import TARGETS, Data

import segline.stages.label  # noqa: F401  (what the cases need is loaded once)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=540, help="the time for all targets together")
    parser.add_argument("--cases", type=int, default=10**9, help="the most cases of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="repeat one case, such as classes:17")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segline-fuzz-") as folder:
        os.environ["SEGLINE_CACHE"] = f"{folder}/cache"
        data = Data(Path(folder) / "data")
        data.make()
        ready = run_case(data.prepare)
        assert ready.code == 0, ready
        shutil.copytree(data.work / "source", data.work / "whole")
        if arguments.only:
            target, _, number = arguments.only.partition(":")
            print(_run(data, target, int(number), arguments.seed).shown)
            return 0
        faults = [fault for target in TARGETS for fault in _fuzz(data, target, arguments)]
    print(f"{len(faults)} faults")
    return min(1, len(faults))


def _fuzz(data, target, arguments):
    """Run the cases of a target, print the counts, and return the faults."""
    end = time.monotonic() + arguments.seconds / len(TARGETS)
    codes, faults, slowest, most, number = Counter(), [], 0.0, 0, 0
    while time.monotonic() < end and number < arguments.cases:
        outcome = _run(data, target, number, arguments.seed)
        codes[outcome.code] += 1
        slowest, most = max(slowest, outcome.seconds), max(most, outcome.memory)
        if outcome.fault:
            faults.append(outcome)
            print(
                f"FAULT {target}:{number} --seed {arguments.seed}: {outcome.fault}\n{outcome.shown[-1500:]}", flush=True
            )
        number += 1
    handled = number - len(faults)
    shown = ", ".join(f"code {code}: {count}" for code, count in sorted(codes.items()))
    print(
        f"{target}: {number} tried, {handled} handled ({shown}); slowest {slowest:.1f} s, most {most / 1e6:.0f} MB",
        flush=True,
    )
    return faults


def _run(data, target, number, seed):
    shutil.rmtree(data.work / "case", ignore_errors=True)
    case = TARGETS[target](data, random.Random(f"{seed}/{target}/{number}"))
    outcome = run_case(case)
    if target == "files":
        shutil.copytree(data.work / "whole", data.work / "source", dirs_exist_ok=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
