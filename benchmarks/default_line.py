"""The champion of the default line beside that of version 0.1, on the same whole test frames.

    python benchmarks/default_line.py [--folder FOLDER] [--drives 80]

Both lines run their real stages on the same street scenes. That of 0.1 (benchmarks/line_0_1.yaml: two networks from
random weights, crops of 96 px, candidates chosen on crops) becomes champion first; then promote compares the champion
of the repository's params.yaml with it, at a confidence of 0.975 at each end, which is an interval of 95 %. The default
line is better if the lower end is above 0. Below are two guesses that look at no shape (benchmarks/baselines.py). About
15 minutes on 2 cores without GPU; FOLDER, which must be new, keeps everything.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from line_cost import Cost, run
from machine import stamp
from rich.console import Console
from rich.table import Table

from segline.cli import STAGES, WRITERS
from segline.config.loader import read

ROOT = Path(__file__).parents[1]
SHARED = ("ingest", "validate")
"""The stages whose output both lines read."""
CONFIDENCE = 0.975


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="a new one that keeps data and models (default: a new temporary one)"
    )
    parser.add_argument("--drives", type=int, default=80, help="street drives, of 3 frames each (default: 80)")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True)  # In one with a registry the default line would meet itself as champion.
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-lines-"))
    default = document("params.yaml")
    default["ingest"]["synthetic"]["drives"] = arguments.drives
    default["promote"]["confidence"] = CONFIDENCE
    lines = {"0.1": default | document("benchmarks/line_0_1.yaml"), "default": default}
    costs = {name: run_line(folder.resolve(), name, params) for name, params in lines.items()}
    show(folder, costs)
    words = ["--dataset", str(folder / "default" / "label"), "--ensemble", str(folder / "default" / "ensemble")]
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "baselines.py"), *words], check=True)


def document(name: str) -> dict[str, Any]:
    return read(ROOT / name)


def run_line(folder: Path, name: str, params: dict[str, Any]) -> Cost:
    """The cost of all stages of a line, which write folder/NAME/STAGE; what both share is counted for either."""
    total = Cost(0, 0)
    for stage, known in STAGES.items():
        words = ["segline", stage, "--params", json.dumps(params), "--out", str(path_of(folder, name, stage))]
        for artifact in known.inputs:
            words += [f"--{artifact}", str(path_of(folder, name, WRITERS[artifact]))]
        words += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"] if known.tracked else []
        total += run(words)
    return total


def path_of(folder: Path, name: str, stage: str) -> Path:
    return folder / ("both" if stage in SHARED else name) / stage


def show(folder: Path, costs: dict[str, Cost]) -> None:
    decision = json.loads((folder / "default" / "promote" / "decision.json").read_text(encoding="utf-8"))
    if decision["against"] is None:
        raise SystemExit("the line of 0.1 has no champion, so there is nothing to compare; take more drives")
    table = Table(title=f"{decision['frames']} whole test frames of {decision['groups']} drives")
    for heading in ("line", "mIoU of the champion", "time", "memory at most"):
        table.add_column(heading, justify="left" if heading == "line" else "right")
    scores = {"0.1": decision["champion_test_miou"], "default": decision["test_miou"]}
    for name, cost in costs.items():
        table.add_row(name, f"{scores[name]:.3f}", f"{cost.seconds:.0f} s", f"{cost.memory / 1e9:.1f} GB")
    Console().print(table)
    low, high = decision["lower_bound"], decision["upper_bound"]
    if low is None:
        raise SystemExit(f"no interval: {decision['reason']}; take more drives")
    verdict = "better" if low > 0 else "not shown to be better"
    units = f"{decision['units']} {decision['kind']}"
    print(f"gain {decision['gain']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f} ({units})")
    print(f"the default line is {verdict}")
    print(stamp())


if __name__ == "__main__":
    main()
