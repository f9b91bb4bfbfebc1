"""Validate's pass over the files, compared with pure decoding.

    python benchmarks/validate_speed.py [--pairs 12] [--height 2710] [--width 3384] [--threads 2]

Draws street scenes of the WAD data's size in a temporary folder (a few seconds each), then decodes both files of every
pair in full with segline's own decoders, and runs the pass that gathers the statistics, with as many threads each; the
best of three. Both read their files from the cache. Expect a speed above 1 in CPU time, for the statistics of a large
image are those of a reduced one; below 600 px the half millisecond that they take anyway weighs more, and at
240 x 300 px it is a third.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from machine import stamp
from rich.console import Console
from rich.table import Table

from segline.artifacts.manifest import COLUMNS, Manifest, Origin
from segline.data.decoding import decode_image, decode_label
from segline.data.layouts import LAYOUTS
from segline.data.pairs import label_spec_of, layout_of
from segline.data.statistics import examine
from segline.files.trees import Folder
from streets import write_streets

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--height", type=int, default=2710)
    parser.add_argument("--width", type=int, default=3384)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segline-validate-") as folder:
        tree, manifest = draw(Path(folder), arguments.pairs, arguments.height, arguments.width)
        pairs = manifest.rows.to_dict("records")
        layout, label_spec = layout_of(manifest.origin), label_spec_of(manifest.origin)

        def decode(pair: dict) -> None:
            decode_image(tree.read(pair["image"]))
            decode_label(tree.read(pair["label"]))

        costs = {
            "pure decoding": cost(decode, pairs, arguments.threads),
            "validation's pass": cost(lambda pair: examine(pair, layout, label_spec, tree), pairs, arguments.threads),
        }
    show(costs, f"{arguments.pairs} pairs of {arguments.height} x {arguments.width} px, {arguments.threads} threads")


def draw(folder: Path, pairs: int, height: int, width: int) -> tuple[Folder, Manifest]:
    size = {"height": height, "width": width}
    write_streets(folder, drives=pairs, frames_per_drive=1, **size, missing_label_share=0.0, seed=7, workers=2)
    tree = Folder(folder)
    facts = {"image_bytes": 0, "label_bytes": 0, "image_hash": "", "label_hash": ""}
    rows = pd.DataFrame([vars(pair) | facts for pair in LAYOUTS["wad"]().find(tree)], columns=list(COLUMNS))
    return tree, Manifest(rows, Origin(source="synthetic:", layout="wad"))


def cost(work: Callable[[dict], object], pairs: list[dict], threads: int) -> tuple[float, float]:
    """Return CPU ms and ms by the clock for one pair."""
    rounds = []
    for _ in range(ROUNDS):
        clock, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, pairs))
        rounds.append((time.process_time() - cpu, time.perf_counter() - clock))
    return tuple(1000 * min(times) / len(pairs) for times in zip(*rounds, strict=True))


def show(costs: dict[str, tuple[float, float]], title: str) -> None:
    table = Table(title=title, caption=stamp())
    for heading in ("", "CPU ms a pair", "ms a pair", "speed by CPU", "speed by clock"):
        table.add_column(heading, justify="right" if heading else "left")
    base = next(iter(costs.values()))
    for what, times in costs.items():
        speeds = (f"{full / own:.2f}" for full, own in zip(base, times, strict=True))
        table.add_row(what, *(f"{ms:.2f}" for ms in times), *speeds)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
