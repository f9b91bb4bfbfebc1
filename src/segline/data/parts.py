"""The parts of a split, shards or packs, which are made one by one, and the split that they form.

The file of a part (``part-00000.json``) is written last, so it says that the part is complete. It goes when the parts
are joined to a split.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.artifacts.dataset import INDEX, part_file
from segline.classes import IGNORED
from segline.files.atomic import write_json

INDEX_COLUMNS = ("key", "group", "top", "left", "scale")
"""The columns that the index of every split has, and then ``CLASSES``."""
CLASSES = "classes"
"""The column of the index with the ids of the classes that an item holds."""


def list_classes(pixels: NDArray[np.int64]) -> str:
    """Return the entry of the index for an item with these pixels of each label value (256), such as ``0 2 5``."""
    return " ".join(map(str, np.flatnonzero(pixels[:IGNORED])))


def write_part(
    folder: Path,
    number: int,
    *,
    index: pd.DataFrame,
    pixels: NDArray[np.int64],
    sums: Mapping[str, str],
) -> None:
    """Mark a part as complete.

    Args:
        folder: The folder of the split.
        number: The number of the part.
        index: The row of every item.
        pixels: The pixels of each label value (256).
        sums: The SHA-256 of each of its files, by name.
    """
    rows = {"columns": list(index.columns), "index": index.to_numpy(object).tolist()}
    write_json(part_file(folder, number), {**rows, "pixels": pixels.tolist(), "sums": dict(sums)})


def join_parts(folder: Path, count: int) -> tuple[NDArray[np.int64], str]:
    """Turn the complete parts of a folder into a split.

    Returns:
        The pixels of each label value (256), and the SHA-256 over index and files.
    """
    parts = [json.loads(part_file(folder, number).read_text(encoding="utf-8")) for number in range(count)]
    rows: list[Sequence[object]] = [row for part in parts for row in part["index"]]
    columns = parts[0]["columns"] if parts else [*INDEX_COLUMNS, CLASSES]
    pd.DataFrame(rows, columns=columns).to_csv(folder / INDEX, index=False, lineterminator="\n")
    digest = hashlib.sha256((folder / INDEX).read_bytes())
    sums = {name: value for part in parts for name, value in part["sums"].items()}
    for name in sorted(sums):
        digest.update(f"{name} {sums[name]}\n".encode())
    for number in range(count):
        part_file(folder, number).unlink()
    return np.sum([np.zeros(256), *(part["pixels"] for part in parts)], axis=0, dtype=np.int64), digest.hexdigest()
