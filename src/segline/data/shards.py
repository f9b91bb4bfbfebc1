"""Shards: equally sized crops in memory-mapped files, and the data set that they form.

A split's folder holds ``images-00000.npy`` (uint8, n x h x w x 3), ``labels-00000.npy`` (uint8, n x h x w;
255 = ignored), if requested distance maps such as ``border-00000.npy`` (float16, n x c x h x w), further shards, and
``index.csv`` with key, group, corner, scale and class ids of every crop. Shards may differ in their number of crops.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.artifacts.dataset import IMAGES, LABELS, shard_file, shard_files, write_shard_head
from segline.data.parts import CLASSES, INDEX_COLUMNS, list_classes, write_part
from segline.data.split import Images, Labels, Positions, Split, refuse_missing
from segline.errors import StageError
from segline.files.atomic import naming
from segline.files.hashing import file_hash

Distances = NDArray[np.float16]


@dataclass(frozen=True)
class Crop:
    """A finished crop.

    Attributes:
        key: The key of the pair from which it was taken.
        group: The group of that pair.
        top: The top of the crop in the source image, in px.
        left: The left of the crop in the source image, in px.
        scale: The number of px of the source image for one px of the crop.
        image: The pixels (h, w, 3).
        label: The class ids (h, w).
        distances: The maps (channels, h, w) of the requested kinds, by kind.
    """

    key: str
    group: str
    top: int
    left: int
    scale: float
    _: KW_ONLY
    image: Images
    label: Labels
    distances: Mapping[str, Distances] = field(default_factory=dict)


@dataclass(frozen=True)
class Crops(Split):
    """The crops of one split, read from memory-mapped shards as they are asked for."""

    @cached_property
    def _maps(self) -> list[tuple[Images, Labels]]:
        return [
            (
                np.load(path, mmap_mode="r"),
                np.load(path.with_name(path.name.replace(IMAGES, LABELS)), mmap_mode="r"),
            )
            for path in shard_files(self.folder, IMAGES)
        ]

    @cached_property
    def _distances(self) -> dict[str, list[Distances]]:
        """The shards of every kind of distance map in the folder."""
        shards: dict[str, list[Distances]] = {}
        for path in shard_files(self.folder):
            kind, _, _ = path.name.rpartition("-")
            if kind not in (IMAGES, LABELS):
                shards.setdefault(kind, []).append(np.load(path, mmap_mode="r"))
        return shards

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """The position of each shard's first crop."""
        return np.cumsum([0, *(len(labels) for _, labels in self._maps)])[:-1]

    def shape(self, position: int) -> tuple[int, int]:
        """Return the height and width of a crop, in px."""
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        height, width = self._maps[shard][1].shape[1:]
        return height, width

    def take(self, positions: Positions) -> tuple[Images, Labels]:
        """Return the crops at these positions: images (n, h, w, 3) and labels (n, h, w)."""
        images = np.stack([self._maps[shard][0][row] for shard, row in self._rows(positions)])
        return images, self.take_labels(positions)

    def take_labels(self, positions: Positions) -> Labels:
        """Return the labels (n, h, w) of the crops at these positions."""
        return np.stack([self._maps[shard][1][row] for shard, row in self._rows(positions)])

    def take_distances(self, names: Sequence[str], positions: Positions) -> dict[str, NDArray[np.float32]]:
        """Return the distance maps of these kinds at these positions, each (n, channels, h, w).

        Raises:
            StageError: The data set has no such maps.
        """
        refuse_missing(names, self._distances)
        rows = self._rows(positions)
        return {
            name: np.stack([self._distances[name][shard][row] for shard, row in rows]).astype(np.float32)
            for name in names
        }

    def _rows(self, positions: Positions) -> list[tuple[int, int]]:
        """Return the shard of each position and the row in it."""
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        return list(zip(shards, np.asarray(positions) - self._starts[shards], strict=True))


def write_shard(
    folder: Path,
    number: int,
    crops: Iterable[Crop],
    *,
    shape: tuple[int, int],
    distances: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Write one shard of a split, crop after crop, and at the end its ``part-00000.json``, which marks it as complete.

    Args:
        folder: The folder of the split.
        number: The number of the shard.
        crops: The crops in order, at least one.
        shape: The height and width of the crops, in px.
        distances: The kinds of distance maps of every crop, with the number of channels of each.
    """
    kinds: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        LABELS: (np.uint8, shape),
        IMAGES: (np.uint8, (*shape, 3)),
    }
    kinds |= {name: (np.float16, (count, *shape)) for name, count in distances.items()}
    paths = {name: shard_file(folder, name, number) for name in kinds}
    index, pixels = [], np.zeros(256, np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), ExitStack() as opened:
        streams = {name: opened.enter_context(path.open("wb")) for name, path in paths.items()}
        for name, (kind, item) in kinds.items():
            write_shard_head(streams[name], np.dtype(kind), (0, *item))
        for crop in crops:
            for name, values in {IMAGES: crop.image, LABELS: crop.label, **crop.distances}.items():
                streams[name].write(np.ascontiguousarray(values).data)
            counts = np.bincount(crop.label.ravel(), minlength=256)
            index.append([*(getattr(crop, name) for name in INDEX_COLUMNS), list_classes(counts)])
            pixels += counts
        for name, (kind, item) in kinds.items():
            streams[name].seek(0)
            write_shard_head(streams[name], np.dtype(kind), (len(index), *item))
    sums = {path.name: file_hash(path) for path in paths.values()}
    columns = [*INDEX_COLUMNS, CLASSES]
    write_part(folder, number, index=pd.DataFrame(index, columns=columns), pixels=pixels, sums=sums)


def open_crops(folder: Path) -> Crops:
    """Open a split of crops.

    Raises:
        StageError: It is missing or incomplete.
    """
    split = Crops(folder)
    try:
        sizes = [[len(labels) for _, labels in split._maps]]
        sizes += [list(map(len, maps)) for maps in split._distances.values()]
        whole = len(split) == sum(sizes[0]) > 0 and all(size == sizes[0] for size in sizes)
    except (OSError, ValueError, EOFError):
        whole = False
    if not whole:
        raise StageError(f"{folder} lacks shards or has a broken one; run `segline label` again")
    return split
