"""What label takes to write whole frames, compared with reading them: time and space.

    python benchmarks/label_frames.py [--source FOLDER --layout camvid] [--frames 100] [--rounds 7] [--size 1080 1920]

Takes frames of a folder, or writes synthetic streets (JPEG and 16-bit PNG) into a temporary folder. In each round one
pass decodes image and label of every frame, and one pass is label's own task, which compares checksums, decodes the
label, maps classes, encodes and writes; files are in the page cache. Times are CPU time of all threads. Needs a minute.

Expect at most 1.3 x the time of reading, and 1.1 x the disk space of the sources: images keep their bytes.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import stamp

from segline.artifacts.manifest import read_manifest
from segline.cli import main as segline
from segline.config.sections import Label
from segline.data.exclusions import Exclusions
from segline.data.pairs import label_spec_of, layout_of, open_tree
from segline.parallel import tune_malloc
from segline.stages.label import Shard, make_shard
from streets import write_streets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--layout", default="wad")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920))
    arguments = parser.parse_args()
    tune_malloc()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or write_source(Path(folder) / "source", arguments.size)
        shard = plan(source.resolve(), arguments.layout, arguments.frames, Path(folder))
        pairs = [measure(shard) for _ in range(arguments.rounds)]
        report(shard, pairs)
    print(stamp())


def write_source(folder: Path, size: tuple[int, int]) -> Path:
    height, width = size
    write_streets(
        folder, drives=8, frames_per_drive=3, height=height, width=width, missing_label_share=0, seed=7, workers=2
    )
    return folder


def plan(source: Path, layout: str, frames: int, folder: Path) -> Shard:
    """Return the task that writes frames spread over the source."""
    params = json.dumps({"ingest": {"source": str(source), "layout": layout}})
    if segline(["ingest", "--params", params, "--out", str(folder / "ingest")]):
        raise SystemExit(1)
    manifest = read_manifest(folder / "ingest")
    rows = manifest.rows.iloc[:: max(1, len(manifest.rows) // frames)].head(frames)
    return Shard(
        folder=folder / "val",
        number=0,
        of_frames=True,
        manifest=type(manifest)(rows=rows, origin=manifest.origin),
        tree=open_tree(manifest.origin.root, folder / "ingest"),
        label_spec=label_spec_of(manifest.origin),
        settings=Label(),
        exclusions=Exclusions(),
        seed=7,
    )


def measure(shard: Shard) -> tuple[float, float]:
    """Return the CPU seconds of reading the frames and of writing them."""
    return cpu_seconds(lambda: read(shard)), cpu_seconds(lambda: make_shard(shard))


def read(shard: Shard) -> None:
    layout = layout_of(shard.manifest.origin)
    for row in shard.manifest.rows.to_dict("records"):
        layout.read_label(shard.tree, row["label"], row["slice_index"])
        layout.read_image(shard.tree, row["image"], row["slice_index"])


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def report(shard: Shard, pairs: list[tuple[float, float]]) -> None:
    rows = shard.manifest.rows
    ratios = [written / read for read, written in pairs]
    reading, writing = (1000 * statistics.median(times) / len(rows) for times in zip(*pairs, strict=True))
    sources = int(rows["image_bytes"].sum() + rows["label_bytes"].sum())
    space = sum(path.stat().st_size for path in shard.folder.iterdir())
    print(f"{len(rows)} frames, {len(pairs)} rounds, CPU time, medians")
    print(f"reading {reading:.2f} ms a frame, label's writing {writing:.2f} ms a frame")
    print(f"time: {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}), goal at most 1.3 x")
    print(f"disk: {space / sources:.3f} x ({sources / 1e6:.1f} MB become {space / 1e6:.1f} MB), goal at most 1.1 x")


if __name__ == "__main__":
    main()
