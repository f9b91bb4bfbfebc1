"""Names and files of the WAD 2018 data, each written atomically."""

import io
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streets.drive import sample_drive

FIRST_DAY = datetime(2017, 9, 1)
DRIVES_PER_DAY = 4


@dataclass(frozen=True)
class FrameFiles:
    """The two files of a frame; the names are relative to the folder."""

    folder: Path
    image_name: str
    label_name: str

    @property
    def complete(self) -> bool:
        """Whether both files exist. The label is written last, so with it the image is complete."""
        return (self.folder / self.label_name).is_file() and (self.folder / self.image_name).is_file()


@dataclass(frozen=True)
class DriveFiles:
    """The frames of a drive, and the name of the list of them."""

    list_name: str
    frames: list[FrameFiles]


def name_frames(folder: Path, seed: int, drive: int, frames: int) -> DriveFiles:
    """Return the files of a drive: one date and camera, times one interval apart, never those of another drive."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, drive, 2**31])))
    hour = 3 + 5 * (drive % DRIVES_PER_DAY)
    begin = FIRST_DAY + timedelta(days=drive // DRIVES_PER_DAY, hours=hour, milliseconds=int(rng.integers(3_600_000)))
    camera, interval = int(rng.integers(5, 7)), sample_drive(seed, drive).interval
    names = []
    for frame in range(frames):
        moment = begin + timedelta(milliseconds=round(1000 * frame * interval))
        stem = f"{moment:%y%m%d_%H%M%S}{moment.microsecond // 1000:03d}_Camera_{camera}"
        names.append(FrameFiles(folder, f"train_color/{stem}.jpg", f"train_label/{stem}_instanceIds.png"))
    road = drive % 3 + 1
    title = f"road{road:02d}_cam_{camera}_video_{drive + 1}_image_list_train.txt"
    return DriveFiles(f"train_video_list/{title}", names)


def save_frame(files: FrameFiles, image: NDArray[np.uint8], label: NDArray[np.uint16], quality: int) -> None:
    """Write the image as JPEG, then the label as 16-bit PNG."""
    picture, labels = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(picture, "JPEG", quality=quality)
    Image.fromarray(label).save(labels, "PNG", compress_level=5)
    save_bytes(files.folder / files.image_name, picture.getvalue())
    save_bytes(files.folder / files.label_name, labels.getvalue())


def save_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
