"""The time of a manifest of 40,000 pairs: the first one, and again without a change.

    python benchmarks/ingest_speed.py [--pairs 40000]

Draws a WAD folder of tiny files (400 drives of 100 frames, 80,000 files of about 1 KB) in a temporary folder, which
takes half a minute, and runs `segline ingest` on it three times, each in a fresh process: at first, with nothing
changed, and with one label changed. It is compared with the least work: list the files and hash each with hashlib in
one thread. Expect below 60 s for the first run and below 10 s for the second.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import stamp
from PIL import Image
from rich.console import Console
from rich.table import Table

FRAMES = 100
SEGLINE = "import sys; from segline.cli import main; sys.exit(main())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40_000)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="segline-ingest-") as folder:
        data, out = Path(folder) / "wad", Path(folder) / "ingest"
        draw(data, pairs)
        rows = [("list and hash every file", lambda: hash_files(data))]
        rows += [("segline ingest, first run", lambda: ingest(data, out))]
        rows += [("segline ingest, nothing changed", lambda: ingest(data, out))]
        rows += [("segline ingest, one label changed", lambda: (change(data), ingest(data, out)))]
        table = Table(title=f"{pairs} pairs", caption=stamp())
        table.add_column("run")
        table.add_column("seconds", justify="right")
        for name, run in rows:
            start = time.perf_counter()
            run()
            table.add_row(name, f"{time.perf_counter() - start:.1f}")
    Console(width=120).print(table)


def draw(data: Path, pairs: int) -> None:
    rng = np.random.default_rng(0)
    for folder in ("train_color", "train_label"):
        (data / folder).mkdir(parents=True)
    for number in range(pairs):
        name = f"17{number // FRAMES:06d}_{number:09d}_Camera_5"
        label = np.full((24, 32), 33_001 + number % 900, np.uint16)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(data / "train_color" / f"{name}.jpg")
        Image.fromarray(label).save(data / "train_label" / f"{name}_instanceIds.png")


def hash_files(data: Path) -> None:
    for path in sorted(data.rglob("*.*")):
        hashlib.sha256(path.read_bytes()).hexdigest()


def ingest(data: Path, out: Path) -> None:
    params = json.dumps({"ingest": {"source": str(data)}})
    words = ["ingest", "--params", params, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", SEGLINE, *words], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    print(done.stdout.strip(), file=sys.stderr)


def change(data: Path) -> None:
    path = min((data / "train_label").iterdir())
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(path)
    os.utime(path)


if __name__ == "__main__":
    main()
