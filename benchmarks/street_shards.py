"""Shards of street scenes for benchmarks that train, made by the line's own stages."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segline.cli import main as segline
from segline.data.distances import DISTANCES


def make_shards(
    folder: Path,
    *,
    drives: int,
    frames: int,
    height: int,
    width: int,
    crop: int,
    seed: int,
    split: dict[str, float] | None = None,
    distances: Sequence[str] = tuple(DISTANCES),
) -> Path:
    """Draw scenes, check them and cut crops of every split into ``folder/label``, unless it is there; returns it."""
    params: dict[str, Any] = {
        "seed": seed,
        "ingest": {"synthetic": {"drives": drives, "frames_per_drive": frames, "height": height, "width": width}},
        "label": {"sampling": "max_foreground", "crop": crop, "distances": list(distances), "split": split or {}},
        "evaluate": {"on": "crops"},
    }
    return make_dataset(folder, params)


def make_dataset(folder: Path, params: dict[str, Any]) -> Path:
    """Run ingest, validate and label into ``folder``, unless ``folder/label`` is there; returns it."""
    dataset_dir = folder / "label"
    words = ["--params", json.dumps(params), "--out"]
    manifest_dir, validation_dir = folder / "ingest", folder / "validate"
    database = f"sqlite:///{folder.resolve()}/mlflow.db"
    commands = [
        ["ingest", *words, str(manifest_dir)],
        ["validate", *words, str(validation_dir), "--manifest", str(manifest_dir), "--tracking-uri", database],
        ["label", *words, str(dataset_dir), "--manifest", str(manifest_dir), "--validation", str(validation_dir)],
    ]
    if not dataset_dir.is_dir():
        for command in commands:
            if segline(command):
                raise SystemExit(f"segline {command[0]} failed")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the stages had taken it for themselves
    return dataset_dir
