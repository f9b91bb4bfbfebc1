"""Frames: whole images of any size with their label maps, in few large packs, and the split that they form.

A split's folder holds ``frames-00000.pack``, further packs, and ``index.csv`` with the key, group, scale, height, width
and class ids of every frame, its pack, and the first byte and the size of each of its files there. These are the image,
as the source has it or, where it was scaled or converted, as a PNG; the label (255 = ignored), a gray PNG; and each
requested kind of distance maps (c, h, w), float16, whose 16 bits are a gray PNG of c x h rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.artifacts.dataset import pack_file
from segline.data.decoding import decode_image, decode_label
from segline.data.encoding import encode_png
from segline.data.parts import CLASSES, list_classes, write_part
from segline.data.split import Images, Labels, Positions, Split, refuse_missing
from segline.errors import StageError, one_line
from segline.files.atomic import naming

IMAGE, LABEL = "image", "label"
AT, SIZE = "_at", "_size"
"""The endings of the columns with the first byte and the number of bytes of a file."""


@dataclass(frozen=True)
class Frame:
    """A finished frame.

    Attributes:
        key: The key of the pair.
        group: The group of the pair.
        scale: The number of px of the source image for one px of the frame.
        image: The encoded image.
        label: The class ids (h, w).
        distances: The maps (channels, h, w) of the requested kinds, by kind.
    """

    key: str
    group: str
    scale: float
    _: KW_ONLY
    image: bytes
    label: NDArray[np.uint8]
    distances: Mapping[str, NDArray[np.float16]] = field(default_factory=dict)


@dataclass(frozen=True)
class Frames(Split):
    """The frames of one split, each decoded when it is asked for."""

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return [{str(name): value for name, value in row.items()} for row in self.index.to_dict("records")]

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of distance maps."""
        files = [str(name).removesuffix(AT) for name in self.index.columns if str(name).endswith(AT)]
        return [file for file in files if file not in (IMAGE, LABEL)]

    def shape(self, position: int) -> tuple[int, int]:
        """Return the height and width of a frame, in px."""
        row = self._rows[position]
        return row["height"], row["width"]

    def take(self, positions: Positions) -> tuple[Images, Labels]:
        """Return the frames at these positions, which have one shape: images (n, h, w, 3) and labels (n, h, w).

        Raises:
            StageError: A frame cannot be read.
        """
        images = []
        for row in self._at(positions):
            with self._explaining(row):
                images.append(decode_image(self._read(row, IMAGE)))
        return np.stack(images), self.take_labels(positions)

    def take_labels(self, positions: Positions) -> Labels:
        """Return the labels (n, h, w) of the frames at these positions, which have one shape.

        Raises:
            StageError: A frame cannot be read.
        """
        labels = []
        for row in self._at(positions):
            with self._explaining(row):
                labels.append(decode_label(self._read(row, LABEL)).astype(np.uint8, copy=False))
        return np.stack(labels)

    def take_distances(self, names: Sequence[str], positions: Positions) -> dict[str, NDArray[np.float32]]:
        """Return the distance maps of these kinds at these positions, each (n, channels, h, w).

        Raises:
            StageError: The data set has no such maps, or they cannot be read.
        """
        refuse_missing(names, self.kinds)
        return {name: np.stack([self._maps(row, name) for row in self._at(positions)]) for name in names}

    def lacks_bytes(self) -> bool:
        """Return whether there is no frame, or a pack is not as long as its frames are."""
        ends = {row["pack"]: max(row[file + AT] + row[file + SIZE] for file in self._files) for row in self._rows}
        return not ends or any(pack_file(self.folder, pack).stat().st_size != end for pack, end in ends.items())

    @property
    def _files(self) -> list[str]:
        return [IMAGE, LABEL, *self.kinds]

    def _at(self, positions: Positions) -> list[dict[str, Any]]:
        return [self._rows[position] for position in positions]

    def _maps(self, row: Mapping[str, Any], kind: str) -> NDArray[np.float32]:
        """Return the distance maps of a frame (channels, h, w)."""
        with self._explaining(row):
            bits = decode_label(self._read(row, kind))
        return bits.view(np.float16).reshape(-1, row["height"], row["width"]).astype(np.float32)

    def _read(self, row: Mapping[str, Any], file: str) -> bytes:
        with pack_file(self.folder, row["pack"]).open("rb") as stream:
            stream.seek(row[file + AT])
            return stream.read(row[file + SIZE])

    @contextmanager
    def _explaining(self, row: Mapping[str, Any]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            pack = pack_file(self.folder, row["pack"])
            raise StageError(
                f"{pack}: the frame {row['key']} cannot be read ({one_line(error)}); run `segline label` again"
            ) from None


def open_frames(folder: Path) -> Frames:
    """Open a split of frames.

    Raises:
        StageError: It is missing or incomplete.
    """
    split = Frames(folder)
    try:
        broken = split.lacks_bytes()
    except (OSError, ValueError, LookupError, TypeError):
        broken = True
    if broken:
        raise StageError(f"{folder} lacks packs or has a broken one; run `segline label` again")
    return split


def write_pack(folder: Path, number: int, frames: Iterable[Frame]) -> None:
    """Write one pack of a split, frame after frame, and mark it as complete.

    Args:
        folder: The folder of the split.
        number: The number of the pack.
        frames: The frames in order, at least one, all with the same kinds of distance maps.
    """
    path, digest = pack_file(folder, number), hashlib.sha256()
    rows: list[dict[str, Any]] = []
    pixels, at = np.zeros(256, np.int64), 0
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), path.open("wb") as stream:
        for frame in frames:
            height, width = frame.label.shape
            row = {"key": frame.key, "group": frame.group, "top": 0, "left": 0, "scale": frame.scale}
            row |= {"height": height, "width": width, "pack": number}
            for file, data in _encoded(frame).items():
                stream.write(data)
                digest.update(data)
                row |= {file + AT: at, file + SIZE: len(data)}
                at += len(data)
            counts = _count_values(frame.label)
            rows.append(row | {CLASSES: list_classes(counts)})
            pixels += counts
    write_part(folder, number, index=pd.DataFrame(rows), pixels=pixels, sums={path.name: digest.hexdigest()})


def _count_values(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the pixels of each value (256) by the lengths of its runs, of which a label map has few."""
    values = label.ravel()
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    return np.bincount(values[ends], np.diff(ends, prepend=-1), minlength=256).astype(np.int64)


def _encoded(frame: Frame) -> dict[str, bytes]:
    """Return the files of a frame, each encoded losslessly."""
    width = frame.label.shape[1]
    maps = {kind: encode_png(values.reshape(-1, width).view(np.uint16)) for kind, values in frame.distances.items()}
    return {IMAGE: frame.image, LABEL: encode_png(frame.label), **maps}
