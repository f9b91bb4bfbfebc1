"""Rendered street scenes in the form of the WAD 2018 data: a data set that needs no download.

A dash camera drives through bending streets and waits at crossings, in sun, rain, fog and at night. Cars, trucks,
buses, tricycles, motorbikes, bicycles and people are labeled; sky, road, houses, trees, street furniture, shadows and
reflections are background. Objects and background share their colors, so that only shapes tell the classes apart. A
rider is a person of their own; the driver of a closed or roofed vehicle is part of it. As in the real data some labels
are missing, here on purpose; `missing_labels.csv` lists them.
"""

import csv
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streets.drive import sample_drive
from streets.files import FrameFiles, name_frames, save_bytes, save_frame
from streets.missing_labels import MissingLabel, drop_label
from streets.render import render

__all__ = ["write_streets"]

SMALLEST_SIZE = (96, 128)
LARGEST_SIZE = (2710, 3384)
MOST_FRAMES = 10_000  # per drive, so that the times in the names of two drives cannot overlap
CHUNK = 4


@dataclass(frozen=True, kw_only=True)
class Task:
    """A frame to render; `drops_label` says whether one of its objects stays without a label."""

    seed: int
    drive: int
    frame: int
    size: tuple[int, int]
    drops_label: bool
    files: FrameFiles


# Longer than 40 lines by its description.
def write_streets(
    folder: Path,
    *,
    drives: int,
    frames_per_drive: int,
    height: int,
    width: int,
    missing_label_share: float,
    seed: int,
    workers: int = 1,
    progress: Callable[[int], None] = lambda frames: None,
) -> None:
    """Write drives x frames_per_drive street scenes into folder, in the form of the WAD 2018 data.

    Images are RGB JPEGs in `train_color`; labels are 16-bit PNGs of the same name in `train_label`, whose pixels are
    class * 1000 + instance, or the group's id alone (161 to 168) for a crowd, or 0 or 255 (our own hood) for
    background. `train_video_list` has a list of image and label paths per drive. In `missing_label_share` of the
    frames one object has no label; `missing_labels.csv` lists these objects.

    A frame depends on the seed, its numbers and the size alone, not on the number of worker processes. Frames that
    exist are kept, so a killed run continues where it stopped. `progress` is called with 1 after each frame, as a
    progress bar expects. Raises ValueError for sizes, counts or shares out of range.
    """
    _check(drives, frames_per_drive, (height, width), missing_label_share, workers)
    names = [name_frames(folder, seed, drive, frames_per_drive) for drive in range(drives)]
    incomplete = _choose_frames(seed, drives * frames_per_drive, missing_label_share)
    tasks = [
        Task(
            seed=seed,
            drive=drive,
            frame=frame,
            size=(height, width),
            drops_label=drive * frames_per_drive + frame in incomplete,
            files=files,
        )
        for drive, drive_files in enumerate(names)
        for frame, files in enumerate(drive_files.frames)
    ]
    missing: list[MissingLabel] = []
    for label in _run(tasks, workers):
        missing += [label] if label else []
        progress(1)
    for drive_files in names:
        lines = "".join(f"{files.image_name}\t{files.label_name}\n" for files in drive_files.frames)
        save_bytes(folder / drive_files.list_name, lines.encode())
    save_bytes(folder / "missing_labels.csv", _table(missing))


def _check(drives: int, frames: int, size: tuple[int, int], share: float, workers: int) -> None:
    if drives < 1 or not 1 <= frames <= MOST_FRAMES or workers < 1:
        raise ValueError(
            f"want at least 1 drive, 1 to {MOST_FRAMES} frames per drive and at least 1 worker, "
            f"got drives={drives}, frames_per_drive={frames}, workers={workers}"
        )
    if any(not low <= got <= high for low, got, high in zip(SMALLEST_SIZE, size, LARGEST_SIZE, strict=True)):
        raise ValueError(f"want height x width from 96 x 128 to 2710 x 3384, got {size[0]} x {size[1]}")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"missing_label_share is a share from 0 to 1, got {share}")


def _choose_frames(seed: int, frames: int, share: float) -> set[int]:
    """Return the numbers, over all drives, of the frames in which a label is missing."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2**32 - 1])))
    return set(rng.permutation(frames)[: round(share * frames)].tolist())


def _run(tasks: list[Task], workers: int) -> Iterator[MissingLabel | None]:
    """Yield the missing label of each task's frame, if any, in the order of the tasks."""
    if workers == 1:
        yield from map(make_frame, tasks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(make_frame, tasks, chunksize=CHUNK)


def make_frame(task: Task) -> MissingLabel | None:
    """Render and save a frame, unless it exists; return the object that has no label, if any."""
    complete = task.files.complete
    if complete and not task.drops_label:
        return None
    drive = sample_drive(task.seed, task.drive)
    frame = render(drive, task.frame, *task.size)
    label, missing = frame.label, None
    if task.drops_label:
        label, missing = drop_label(label, drive.rng(7, task.frame), task.files.image_name)
    if not complete:
        save_frame(task.files, frame.image, label, drive.quality)
    return missing


def _table(missing: list[MissingLabel]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "value", "class_id", "pixels"))
    rows.writerows((row.image, row.value, row.class_id, row.pixels) for row in missing)
    return text.getvalue().encode()
