"""Shards: equally sized crops in memory-mapped files, and the data set that they make up.

A split's folder holds ``images-00000.npy`` (uint8, n x h x w x 3), ``labels-00000.npy`` (uint8, n x h x w;
255 = ignored) and so on, and ``index.csv`` with the key, group and corner of every crop.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.classes import LabelClass
from segline.errors import StageError
from segline.outputs import write_file

Images = NDArray[np.uint8]
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Split:
    """The crops of one split, read from memory-mapped shards as they are asked for."""

    folder: Path

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per crop: key, group, top, left."""
        return pd.read_csv(self.folder / "index.csv", dtype={"key": str, "group": str}, keep_default_na=False)

    @cached_property
    def _maps(self) -> list[tuple[Images, Labels]]:
        names = sorted(self.folder.glob("images-*.npy"))
        return [
            (
                np.load(name, mmap_mode="r"),
                np.load(name.with_name(name.name.replace("images", "labels")), mmap_mode="r"),
            )
            for name in names
        ]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Sequence[int] | NDArray[np.integer]) -> tuple[Images, Labels]:
        """The crops at these positions: images (n, h, w, 3) and labels (n, h, w)."""
        size = len(self._maps[0][1])
        places = [divmod(int(position), size) for position in positions]
        images = np.stack([self._maps[shard][0][row] for shard, row in places])
        return images, np.stack([self._maps[shard][1][row] for shard, row in places])

    def batches(self, size: int) -> Iterator[tuple[Images, Labels]]:
        """All crops in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))


@dataclass(frozen=True)
class Description:
    """What a labelled data set is.

    Attributes:
        classes: in the order of their ids.
        background: the id that is not foreground, or None.
        side: of the crops, in px.
        content_hash: SHA-256 over all shards; equal data and parameters, equal hash.
        source: of the images, as the user gave it.
        source_hash: the content hash of the manifest that it was made from.
        pixels: split -> labelled pixels of each class.
        test_is_val: the layout has no test split, so the validation split is tested on.
    """

    classes: tuple[LabelClass, ...]
    background: int | None
    side: int
    content_hash: str
    source: str
    source_hash: str
    pixels: dict[str, list[int]]
    test_is_val: bool

    @property
    def names(self) -> list[str]:
        """The class names, in the order of their ids."""
        return [entry.name for entry in self.classes]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Description":
        """The inverse of :meth:`to_dict`."""
        classes = tuple(LabelClass(entry["name"], tuple(entry["colour"])) for entry in content["classes"])
        return cls(**content | {"classes": classes})


def write_shard(folder: Path, number: int, images: Images, labels: Labels) -> None:
    """Write one shard of a split; the images last, so that a shard with images is whole."""
    for name, values in (("labels", labels), ("images", images)):
        write_file(folder / f"{name}-{number:05d}.npy", partial(_save, values=values))


def content_hash(folder: Path) -> str:
    """The SHA-256 over names and bytes of all shards and indices below a folder."""
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.npy"), *folder.rglob("index.csv")]):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read_description(labelled: Path) -> Description:
    """What label says of its shards.

    Raises:
        StageError: it is missing.
    """
    try:
        return Description.from_dict(json.loads((labelled / "dataset.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{labelled / 'dataset.json'} is missing or broken; run `segline label` again") from None


def open_split(labelled: Path, name: str) -> Split:
    """A split of the folder that label wrote.

    Raises:
        StageError: it is not there, or not whole.
    """
    split = Split(labelled / name)
    try:
        whole = len(split) == sum(len(labels) for _, labels in split._maps) > 0
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise StageError(f"{split.folder} lacks shards or has a broken one; run `segline label` again")
    return split


def _save(path: Path, values: NDArray[np.uint8]) -> None:
    with path.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)
