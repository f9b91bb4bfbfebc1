"""Label with one process and with two on Ray: throughput, memory, and equal bytes.

    python benchmarks/label_scaling.py [--frames 500]

Draws 12 street scenes of WAD's size (3384 x 2710 px), copies them to so many frames with a comment of their own in
each JPEG, and runs `segline label` with 384 px crops: on a tenth of the frames and on all, with one worker and with
two. Takes about 2 minutes on 2 cores. Starting Ray and its workers takes the same few seconds for any amount of
data, so throughput is that of the shards made after each worker has made one; the whole time is shown beside it.
Memory is the high-water mark (VmHWM) of the process that makes the shards. Expect 1.8 or more for two workers when
two cores are free, less than 100 MB between a tenth and all of the frames, and the same content hash for any number
of workers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from machine import stamp
from rich.console import Console
from rich.table import Table

from segline.artifacts.manifest import read_manifest, write_manifest
from segline.artifacts.validation import VALIDATION, write_statistics
from segline.data.pairs import open_tree
from segline.data.statistics import measure
from streets import write_streets

SEGLINE = "import sys; from segline.cli import main; sys.exit(main())"


@dataclass
class Run:
    """The cost of one run of label."""

    frames: int
    workers: int
    seconds: float
    speed: float
    peak_mb: float
    content: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500)
    frames = parser.parse_args().frames
    runs = []
    with tempfile.TemporaryDirectory(prefix="segline-label-") as folder:
        draw(Path(folder) / "drawn")
        for count in (frames // 10, frames):
            at = Path(folder) / str(count)
            prepare(Path(folder) / "drawn", at, count)
            runs += [label(at, count, workers) for workers in (1, 2)]
    show(runs)


def draw(folder: Path) -> None:
    write_streets(
        folder, drives=4, frames_per_drive=3, height=2710, width=3384, missing_label_share=0, seed=7, workers=2
    )


def prepare(drawn: Path, at: Path, count: int) -> None:
    """Ingest ``count`` copies of the drawn frames, and measure them as validate does."""
    images = sorted((drawn / "train_color").iterdir())
    for folder in ("train_color", "train_label"):
        (at / "wad" / folder).mkdir(parents=True)
    for number in range(count):
        image = images[number % len(images)]
        name, comment = f"17{number % 40:06d}_{number:09d}_Camera_5", f"frame {number:09d}".encode()
        data = image.read_bytes()
        marked = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + data[2:]
        (at / "wad" / "train_color" / f"{name}.jpg").write_bytes(marked)
        label = drawn / "train_label" / f"{image.stem}_instanceIds.png"
        (at / "wad" / "train_label" / f"{name}_instanceIds.png").write_bytes(label.read_bytes())
    segline("ingest", {"ingest": {"source": str(at / "wad")}}, "--out", str(at / "ingest"))
    manifest = read_manifest(at / "ingest")
    write_manifest(at / "validate", manifest)
    tree = open_tree(manifest.origin.root, at / "ingest")
    write_statistics(at / "validate", measure(manifest, tree, pieces=at / "pieces"))
    VALIDATION.write_mark(at / "validate")


def segline(stage: str, params: dict, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SEGLINE, stage, "--params", json.dumps(params), *words]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if stage == "ingest":
        running.wait()
    return running


def label(at: Path, frames: int, workers: int) -> Run:
    out = at / f"label{workers}"
    settings = {"crop": 384, "shard_size": max(1, frames // 20), "workers": workers}
    folders = ("--manifest", str(at / "ingest"), "--validation", str(at / "validate"), "--out", str(out))
    start = time.perf_counter()
    running = segline("label", {"label": settings}, *folders)
    done, peak, polls = {}, 0.0, 0
    while running.poll() is None:
        for part in out.with_name(f"{out.name}.partial").rglob("part-*.json"):
            done.setdefault(part, time.perf_counter())
        if polls % 5 == 0:  # reading every process takes a few ms of the measured time
            peak = max(peak, high_water_mark(running.pid, workers))
        polls += 1
        time.sleep(0.2)
    assert running.returncode == 0
    seconds = time.perf_counter() - start
    moments = sorted(done.values())
    steady = (len(moments) - workers) * settings["shard_size"] / (moments[-1] - moments[workers - 1])
    content = json.loads((out / "dataset.json").read_text(encoding="utf-8"))["content_hash"]
    return Run(frames, workers, seconds, steady, peak, content)


def high_water_mark(pid: int, workers: int) -> float:
    """Return the MB of the largest process that makes shards: the command itself, or Ray's workers."""
    peaks = [0.0]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "cmdline").read_bytes()
            if (int(path.name) == pid and workers == 1) or name.startswith(b"ray::make_shard"):
                lines = (path / "status").read_text(encoding="utf-8").splitlines()
                peaks += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        except OSError:
            continue
    return max(peaks)


def show(runs: list[Run]) -> None:
    table = Table(title="segline label, 3384 x 2710 px to 384 px crops", caption=stamp())
    for column in ("frames", "workers", "s in all", "frames/s", "peak MB of a worker"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(
            str(run.frames),
            str(run.workers),
            f"{run.seconds:.1f}",
            f"{run.speed:.1f}",
            f"{run.peak_mb:.0f}",
        )
    console = Console(width=120)
    console.print(table)
    few, _, alone, two = runs
    console.print(f"two workers: {two.speed / alone.speed:.2f} x the throughput of one")
    console.print(
        f"memory, {few.frames} to {alone.frames} frames: {alone.peak_mb - few.peak_mb:+.0f} MB with one worker, "
    )
    console.print(f"  {two.peak_mb - runs[1].peak_mb:+.0f} MB with two")
    console.print(
        f"same content for any number of workers: {few.content == runs[1].content and alone.content == two.content}"
    )


if __name__ == "__main__":
    main()
