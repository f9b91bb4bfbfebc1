"""CPU time per frame of label and of validate, compared with decoding the two files of a frame.

    python benchmarks/label_speed.py [--frames 3] [--repeats 7] [--data synthetic/wad]

Writes synthetic frames of WAD's size (3384 x 2710, JPEG and 16-bit PNG) into a temporary folder, or takes the first
frames of each drive in --data. Times are CPU time of one thread, from the files' bytes in memory to arrays; 1 or 2
minutes in all. Decoders that are not installed are named. `label` must give the crop of a plain Pillow + NumPy version:
same corner, same class ids, and the same pixels up to 2 levels, as versions of libjpeg-turbo may round differently.

Expect label at 2 to 3 x the fastest pair of decoders, about 5 x as fast as Pillow + NumPy, and validate's pass at 0.9
to 1.1 x, as it reads the JPEG at 1/8. What bounds label: the search for the fullest window counts every window; a JPEG
can be read from the top only, so that the rows above the crop are decoded as well (those below are not); and the PNG
must be un-filtered as a whole. A JPEG that is progressive or has restart marks is decoded as a whole.
"""

import argparse
import hashlib
import importlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from machine import stamp
from rich.console import Console
from rich.table import Table

from segline.classes import IGNORED
from segline.data.boxes import Box
from segline.data.crops import Foreground, cut, max_foreground_corner
from segline.data.decoding import decode_image, decode_label
from segline.data.layouts import LAYOUTS, UNKNOWN, LabelSpec
from segline.data.statistics import SIDE, of_image, of_label, reduction
from segline.parallel import tune_malloc
from streets import write_streets

CROP = 384
SIZE = (2710, 3384)

# Name -> module to import and how it decodes; pyvips is under the LGPL and here for comparison only.
JPEG = {
    "Pillow": ("PIL.Image", lambda pil, data: np.asarray(pil.open(io.BytesIO(data)).convert("RGB"))),
    "OpenCV": ("cv2", lambda cv2, data: cv2.imdecode(np.frombuffer(data, np.uint8), 1)),
    "imagecodecs": ("imagecodecs", lambda codecs, data: codecs.jpeg8_decode(data)),
    "kornia-rs": ("kornia_rs.io", lambda io, data: io.decode_image_jpegturbo(data, "rgb")),
    "pyvips": ("pyvips", lambda pyvips, data: pyvips.Image.jpegload_buffer(data).numpy()),
    "simplejpeg": ("simplejpeg", lambda simplejpeg, data: simplejpeg.decode_jpeg(data)),
}
PNG = {
    "Pillow": ("PIL.Image", lambda pil, data: np.asarray(pil.open(io.BytesIO(data)))),
    "OpenCV": ("cv2", lambda cv2, data: cv2.imdecode(np.frombuffer(data, np.uint8), -1)),
    "imagecodecs": ("imagecodecs", lambda codecs, data: codecs.png_decode(data)),
    "pyspng": ("pyspng", lambda pyspng, data: pyspng.load(data)),
    "pyvips": ("pyvips", lambda pyvips, data: pyvips.Image.pngload_buffer(data).numpy()),
    "kornia-rs": ("kornia_rs.io", lambda io, data: io.decode_image_png_u16(data, SIZE, "mono")),
}


KINDS = {"jpeg": JPEG, "png": PNG}
LABEL, PLAIN = "label", "Pillow + NumPy"


class Frame(NamedTuple):
    jpeg: bytes
    png: bytes


Work = Callable[[Frame], object]


class Crop(NamedTuple):
    corner: tuple[int, int]
    image: np.ndarray
    label: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    one_thread()
    tune_malloc()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or write_frames(Path(folder), arguments.frames)
        frames = read_frames(data, arguments.frames)
    label_spec = LAYOUTS["wad"]().label_spec("")
    table = np.where(label_spec.lut == UNKNOWN, IGNORED, label_spec.lut).astype(np.uint8)
    differences = [compare(frame, table, label_spec.background) for frame in frames]
    decoders, missing = load_decoders()
    times = measure(decoders | label_works(frames, table, label_spec), frames, arguments.repeats)
    fastest = sum(min((times[name] for name in decoders if name[0] == kind), key=np.sum) for kind in KINDS)
    show_decoders({name: times[name] for name in decoders}, missing)
    show_work({name: times[name] for name in times if name not in decoders}, fastest)
    tops = ", ".join(
        str(label_frame(frame, Foreground(table, label_spec.background), table).corner[0]) for frame in frames
    )
    print(f"the crops' first rows are {tops} of {SIZE[0]}; the JPEG is decoded from the top to a crop's last row")
    print(
        f"largest difference of a crop's pixels from Pillow's: {max(differences)} of 255; corners and class ids agree"
    )
    print(f"{stamp()}, numpy {np.__version__}")


def one_thread() -> None:
    """Use one thread, so that CPU time is the time of one frame on one core, and turn off the cache of pyvips."""
    for name, limit in (("cv2", lambda cv2: cv2.setNumThreads(1)), ("pyvips", lambda vips: vips.cache_set_max(0))):
        try:
            limit(importlib.import_module(name))
        except ImportError:
            continue


def write_frames(folder: Path, frames: int) -> Path:
    write_streets(
        folder,
        drives=frames,
        frames_per_drive=1,
        height=SIZE[0],
        width=SIZE[1],
        missing_label_share=0,
        seed=7,
        workers=2,
    )
    return folder


def read_frames(folder: Path, frames: int) -> list[Frame]:
    """Read frames of different drives, as frames of one drive resemble each other."""
    images = sorted((folder / "train_color").glob("*.jpg"))
    chosen = images[:: max(1, len(images) // frames)][:frames]
    labels = [folder / "train_label" / f"{image.stem}_instanceIds.png" for image in chosen]
    return [Frame(image.read_bytes(), label.read_bytes()) for image, label in zip(chosen, labels, strict=True)]


def load_decoders() -> tuple[dict[tuple[str, str], Work], list[str]]:
    """Return the installed decoders by kind of file and name, and the names of the missing ones."""
    works, missing = {}, set()
    for kind, decoders in KINDS.items():
        for name, (module, decode) in decoders.items():
            try:
                works[kind, name] = decoder(importlib.import_module(module), decode, kind)
            except ImportError:
                missing.add(name)
    return works, sorted(missing)


def decoder(module: ModuleType, decode: Callable, kind: str) -> Work:
    return lambda frame: decode(module, getattr(frame, kind))


def measure(works: dict[Any, Work], frames: list[Frame], repeats: int) -> dict[Any, np.ndarray]:
    """Return the CPU ms of every work for every frame: the least of the repeats, in which all works take turns."""
    times = {name: np.full(len(frames), np.inf) for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            for number, frame in enumerate(frames):
                start = time.process_time()
                work(frame)
                times[name][number] = min(times[name][number], 1000 * (time.process_time() - start))
    return times


def label_frame(frame: Frame, foreground: Foreground, table: np.ndarray) -> Crop:
    """Do the work of label on a frame."""
    sum_up(frame)
    raw = decode_label(frame.png)
    top, left = max_foreground_corner(foreground(raw), CROP)
    box = Box(top, left, min(CROP, raw.shape[0] - top), min(CROP, raw.shape[1] - left))
    ids = table[raw[top : top + box.height, left : left + box.width]]
    return Crop((top, left), *cut(decode_image(frame.jpeg, box=box), ids, (0, 0), CROP))


def sum_up(frame: Frame) -> list[str]:
    """Return the checksums with which label verifies that the files are unchanged since ingest."""
    return [hashlib.sha256(data).hexdigest() for data in (frame.png, frame.jpeg)]


def label_plainly(frame: Frame, table: np.ndarray, background: int) -> Crop:
    """Do the same with Pillow and NumPy, without optimization."""
    from PIL import Image

    raw = np.asarray(Image.open(io.BytesIO(frame.png)))
    ids = table[raw]
    foreground = (ids != IGNORED) & (ids != background)
    height, width = ids.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = foreground.cumsum(0, dtype=np.int64).cumsum(1)
    counts = sums[CROP:, CROP:] - sums[:-CROP, CROP:] - sums[CROP:, :-CROP] + sums[:-CROP, :-CROP]
    top, left = (int(position) for position in np.unravel_index(counts.argmax(), counts.shape))
    image = np.asarray(Image.open(io.BytesIO(frame.jpeg)).convert("RGB"))
    part = slice(top, top + CROP), slice(left, left + CROP)
    return Crop((top, left), image[part].copy(), ids[part].copy())


def compare(frame: Frame, table: np.ndarray, background: int) -> int:
    """Return the largest difference of the two crops' pixels; everything else must be equal."""
    ours, plain = label_frame(frame, Foreground(table, background), table), label_plainly(frame, table, background)
    assert ours.corner == plain.corner, (ours.corner, plain.corner)
    assert np.array_equal(ours.label, plain.label)
    difference = int(np.abs(ours.image.astype(int) - plain.image).max())
    assert difference <= 2, difference
    return difference


def label_works(frames: list[Frame], table: np.ndarray, label_spec: LabelSpec) -> dict[str, Work]:
    foreground = Foreground(table, label_spec.background)
    raws = {frame: decode_label(frame.png) for frame in frames}
    masks = {frame: foreground(raw) for frame, raw in raws.items()}
    boxes = {frame: Box(*max_foreground_corner(mask, CROP), CROP, CROP) for frame, mask in masks.items()}
    reduce = reduction(min(SIZE), SIDE)
    return {
        LABEL: lambda frame: label_frame(frame, foreground, table),
        "  checksums": sum_up,
        "  label map": lambda frame: decode_label(frame.png),
        "  foreground": lambda frame: foreground(raws[frame]),
        "  fullest window": lambda frame: max_foreground_corner(masks[frame], CROP),
        "  JPEG down to the crop": lambda frame: decode_image(frame.jpeg, box=boxes[frame]),
        PLAIN: lambda frame: label_plainly(frame, table, label_spec.background),
        "validate": lambda frame: (
            sum_up(frame),
            of_image(decode_image(frame.jpeg, reduce=reduce)),
            of_label(decode_label(frame.png), label_spec),
        ),
        f"  JPEG at 1/{reduce}": lambda frame: decode_image(frame.jpeg, reduce=reduce),
        "  label map's statistics": lambda frame: of_label(raws[frame], label_spec),
    }


def show_decoders(times: dict[tuple[str, str], np.ndarray], missing: list[str]) -> None:
    table = Table(title="decoders: CPU ms per frame, mean (least to most)")
    table.add_column("")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    for name in dict.fromkeys(name for _, name in times):
        table.add_row(name, *(in_ms(times.get((kind, name))) for kind in KINDS))
    Console().print(table)
    print(f"not installed: {', '.join(missing) or 'none'}")


def show_work(times: dict[str, np.ndarray], fastest: np.ndarray) -> None:
    table = Table(title="work: CPU ms per frame, mean (least to most)")
    for column in ("", "ms", "x fastest pair"):
        table.add_column(column, justify="right" if column else "left")
    for name, taken in {"fastest pair of decoders": fastest, **times}.items():
        ratios = taken / fastest
        table.add_row(
            name, in_ms(taken), f"{taken.sum() / fastest.sum():.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        )
    Console().print(table)
    faster = times[PLAIN] / times[LABEL]
    print(f"label is {times[PLAIN].sum() / times[LABEL].sum():.1f} x as fast as {PLAIN} (least: {faster.min():.1f} x)")


def in_ms(times: np.ndarray | None) -> str:
    return "" if times is None else f"{times.mean():.1f} ({times.min():.1f} to {times.max():.1f})"


if __name__ == "__main__":
    main()
