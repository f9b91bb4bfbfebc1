"""What one decoding pass tells of every pair: sizes, pixels per class, light, sharpness, and a hash of the looks.

Light, sharpness and looks are those of the grey image (ITU-R BT.601), scaled down by area until its shortest side
has ``SIDE`` px, so that they mean the same at any resolution; a JPEG is already decoded at a fraction of its size.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from segline.classes import IGNORED
from segline.data.decoding import decode_image, read_header, tune_malloc
from segline.data.layouts import UNKNOWN, LabelSpec, Layout
from segline.data.layouts.layout import read_image
from segline.data.manifest import Manifest
from segline.errors import StageError
from segline.files.atomic import write_file
from segline.files.trees import Tree

NAME = "statistics.parquet"
SIDE = 128
SHOWN_VALUES = 5
PIECE = 256
"""Pairs that are measured and kept at once."""
BLOCK = 64
# Numbers are missing where a file is, so they need types that can be.
COLUMNS = {
    "key": "str",
    "image_error": "str",
    "label_error": "str",
    "height": "Int64",
    "width": "Int64",
    "mode": "str",
    "bits": "Int64",
    "orientation": "Int64",
    "brightness": "Float64",
    "contrast": "Float64",
    "sharpness": "Float64",
    "phash": "str",
    "label_height": "Int64",
    "label_width": "Int64",
    "unknown_values": "str",
    "labelled_pixels": "Int64",
    "ignored_pixels": "Int64",
    "foreground_share": "Float64",
    "classes": "str",
    "class_pixels": "object",
}
"""The columns of :func:`measure` and their types.

======================================  =======================================================================
``image_error``, ``label_error``        what is wrong with the file; the numbers of a broken file are missing
``height``, ``width``                   of the image, px; ``label_height``, ``label_width`` of the label map
``mode``, ``bits``                      the image's channels as Pillow names them, and the bits of each
``orientation``                         by EXIF; 1 is upright
``brightness``, ``contrast``            mean and standard deviation of the grey levels, 0 to 255
``sharpness``                           :func:`sharpness`; a blurred image has little
``phash``                               :func:`phash`, 16 hex digits; empty for an image of one grey level
``unknown_values``                      raw label values that the layout does not know; empty for none
``labelled_pixels``, ``ignored_pixels`` of the label map
``foreground_share``                    of the labelled pixels
``classes``                             the layout's, as a JSON list: the same in every row
``class_pixels``                        a list: the label map's pixels of each class
======================================  =======================================================================
"""

OLD_COLUMNS = {"blur": "sharpness", "looks": "phash"}
"""The names that version 0.1 gave to two of the columns; such files are kept with a champion."""

Row = dict[str, Any]
Read = TypeVar("Read")


def measure(
    manifest: Manifest, tree: Tree, *, pieces: Path, progress: Callable[[int], None] = lambda pairs: None
) -> pd.DataFrame:
    """Decode every pair; one row each, in the manifest's order, with ``COLUMNS``.

    Args:
        manifest: the pairs.
        tree: their files.
        pieces: a folder where finished pieces are kept for a run that is killed and continues. A piece with an
            error is not: the file may have been mended meanwhile.
        progress: called with the number of pairs done since the last call.
    """
    tune_malloc()
    pieces.mkdir(exist_ok=True)
    parts = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, max(1, len(manifest.rows)), PIECE):
            path = pieces / f"{start:08d}.parquet"
            part = _kept(path)
            if part is None:
                part = _measured(manifest, tree, slice(start, start + PIECE), pool, progress)
                if (part[["image_error", "label_error"]] == "").all(axis=None):
                    write_file(path, partial(part.to_parquet, index=False))
            else:
                progress(len(part))
            parts.append(part)
    return pd.concat(parts, ignore_index=True).astype(COLUMNS)


def write_statistics(folder: Path, table: pd.DataFrame) -> None:
    """Write ``statistics.parquet`` into a folder, atomically."""
    write_file(folder / NAME, partial(table[list(COLUMNS)].to_parquet, index=False))


def read_statistics(folder: Path) -> pd.DataFrame:
    """Read ``statistics.parquet`` from a folder.

    Raises:
        StageError: there is none, or it is not one of Segline's.
    """
    table = _kept(folder / NAME)
    table = None if table is None else table.rename(columns=OLD_COLUMNS)
    if table is None or not set(COLUMNS) <= set(table):
        raise StageError(f"{folder / NAME} is missing or broken; run the stage that writes {folder} again")
    return table


def _kept(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError):
        return None


def _measured(
    manifest: Manifest,
    tree: Tree,
    part: slice,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> pd.DataFrame:
    def examined(pair: Row) -> Row:
        return examine(pair, manifest.layout, manifest.legend, tree)

    rows = []
    for row in pool.map(examined, manifest.rows.iloc[part].to_dict("records")):
        rows.append(row)
        progress(1)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def examine(pair: Mapping[str, Any], layout: Layout, legend: LabelSpec, tree: Tree) -> Row:
    """The row of one pair of a manifest."""
    row: Row = dict.fromkeys(["image_error", "label_error", "mode", "phash", "unknown_values"], "")
    row |= {"key": pair["key"], "classes": json.dumps(legend.names), "class_pixels": None}
    if _is_there(pair["image"]):
        found, row["image_error"] = _attempt(lambda: _open_image(layout, tree, pair["image"], pair["slice_index"]))
        if found is not None:
            pixels, facts = found
            row |= facts | of_image(pixels)
    if _is_there(pair["label"]):
        raw, row["label_error"] = _attempt(lambda: layout.read_label(tree, pair["label"], pair["slice_index"]))
        if raw is not None:
            row |= of_label(raw, legend)
    return row


def of_image(image: NDArray[np.uint8]) -> Row:
    """Light, sharpness and looks of an RGB image."""
    grey = _grey(image)
    levels = np.asarray(grey)
    contrast = float(levels.std())
    return {
        "brightness": float(levels.mean()),
        "contrast": contrast,
        "sharpness": sharpness(levels),
        "phash": f"{phash(grey):016x}" if contrast else "",
    }


def of_label(raw: NDArray[np.integer], legend: LabelSpec) -> Row:
    """Size and pixels per class of a label map. Label maps are long runs of one value, so runs are counted."""
    flat = raw.ravel()
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]), [flat.size - 1]])
    values, ids = flat[ends], legend.lut[flat[ends]]
    counts = np.bincount(ids, weights=np.diff(ends, prepend=-1), minlength=256).astype(np.int64)
    pixels = counts[: len(legend.classes)]
    labelled = int(pixels.sum())
    background = 0 if legend.background is None else int(pixels[legend.background])
    return {
        "label_height": raw.shape[0],
        "label_width": raw.shape[1],
        "unknown_values": _list_values(np.unique(values[ids == UNKNOWN])),
        "labelled_pixels": labelled,
        "ignored_pixels": int(counts[IGNORED]),
        "foreground_share": (labelled - background) / labelled if labelled else None,
        "class_pixels": pixels.tolist(),
    }


def sharpness(grey: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian ``up + down + left + right - 4 x centre`` over the inner pixels.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000.
    """
    levels = grey.astype(np.int16)
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    edges = around - 4 * levels[1:-1, 1:-1]
    return float(edges.var()) if edges.size else 0.0


COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))


def phash(grey: Image.Image) -> int:
    """A perceptual hash of 64 bits: images that look alike differ in few of them.

    Of the image at 32 x 32 px, the 8 x 8 lowest frequencies ``C G C^T`` of its discrete cosine transform,
    ``C[k, n] = cos(pi k (2n + 1) / 64)``; a bit says whether a frequency is above their median.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.
    """
    small = np.asarray(grey.resize((32, 32), Image.Resampling.BOX), float)
    # Rounded, because symmetric images have frequencies of zero, give or take the last digit.
    frequencies = np.round(COSINES @ small @ COSINES.T, 6)
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def find_duplicates(table: pd.DataFrame, *, distance: int) -> pd.DataFrame:
    """How the pairs stand to one another: texts, empty for none.

    Args:
        table: columns of the manifest and of :func:`measure`.
        distance: bits of ``hashes`` in which look-alikes may differ.

    Returns:
        ``conflicts_with``: the key of a pair with the same image file and another label map.
        ``duplicate_of``: that of the pair with the same two files that is kept: one of the test split before
        one of validation, training or none, then the first key.
        ``looks_like``: the key of the most similar image on another side, where a side is a split of the layout
        or, when it has none, a group.
        ``other_splits``: further splits that hold pairs of the same group.
    """
    found = pd.DataFrame(
        "", index=table.index, columns=["conflicts_with", "duplicate_of", "looks_like", "other_splits"], dtype="str"
    )
    readable = (table[["image_error", "label_error"]] == "").all(axis=1)
    whole = table[readable & _are_there(table["image"]) & _are_there(table["label"])]
    for same in _same_images(whole):
        keys = table["key"][same]
        if table["label_hash"][same].nunique() > 1:
            found.loc[same, "conflicts_with"] = [keys[same[1]], *[keys[same[0]]] * (len(same) - 1)]
        else:
            found.loc[same[1:], "duplicate_of"] = keys[same[0]]
    found.loc[whole.index, "looks_like"] = _near_duplicates(whole, distance)
    found["other_splits"] = _other_splits(table)
    return found


def _is_there(path: object) -> bool:
    """Whether a pair of a manifest has this file; a manifest that lacks the very value is broken."""
    return isinstance(path, str) and path != ""


def _are_there(paths: "pd.Series[str]") -> "pd.Series[bool]":
    return paths.map(_is_there).astype(bool)


def _same_images(pairs: pd.DataFrame) -> Iterator[list[Any]]:
    """The rows that share an image, of which the one to keep comes first."""
    content = ["image_hash", "slice_index"]
    twins = pairs[pairs.duplicated(content, keep=False)]
    rank = twins["split"].map({"test": 0, "val": 1, "train": 2}).fillna(3)
    ordered = twins.assign(rank=rank).sort_values(["rank", "key"])
    for _, same in ordered.groupby(content, sort=True):
        yield list(same.index)


def _near_duplicates(pairs: pd.DataFrame, distance: int) -> list[str]:
    sides = pairs["split"] if (pairs["split"] != "").any() else pairs["group"]
    hashes = np.array([int(text or "0", 16) for text in pairs["phash"]], np.uint64)
    # An image of one grey level looks like nothing; the same file twice is a duplicate already.
    apart = [pd.factorize(sides)[0], pd.factorize(pairs["image_hash"])[0]]
    nearest = nearest_phashes(hashes, apart, pairs["phash"].to_numpy() != "", distance)
    keys, names = pairs["key"].to_list(), sides.to_list()
    return [f"{keys[other]} of {names[other]}" if other >= 0 else "" for other in nearest]


def nearest_phashes(
    hashes: NDArray[np.uint64], apart: Sequence[NDArray[np.integer]], counted: NDArray[np.bool_], distance: int
) -> NDArray[np.int64]:
    """For each hash the position of the nearest one within ``distance`` bits, the first of equals; -1 for none.

    Only those count that differ in every label of ``apart``. Every hash is compared with a few of each look, which
    takes two seconds for 40,000 different looks, and some ten when they are 2,000 that are all alike.
    """
    nearest = np.full(len(hashes), -1, np.int64)
    there = np.flatnonzero(counted)
    few = np.unique(_representatives(hashes, apart, there))
    for start in range(0, len(there), BLOCK):
        block = there[start : start + BLOCK]
        bits = np.bitwise_count(hashes[block, None] ^ hashes[few])
        rows, others = np.divmod(np.flatnonzero(bits <= distance), len(few))  # far faster than nonzero
        far = np.all([label[block[rows]] != label[few[others]] for label in apart], axis=0)
        rows, others = rows[far], others[far]
        # The last write stands, so the nearest comes last.
        order = np.lexsort((-others, -bits[rows, others].astype(np.int64)))
        nearest[block[rows[order]]] = few[others[order]]
    return nearest


def _representatives(
    hashes: NDArray[np.uint64], apart: Sequence[NDArray[np.integer]], there: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of the positions ``there``, ascending, so few that each look still has the first that differs from any hash.

    That is the first of the look or, for a hash that shares a label with it, one that differs from it in this
    label: five of a look when there are two labels, however many images have it.
    """
    _, first, which = np.unique(hashes[there], return_index=True, return_inverse=True)
    found = [there[first]]
    for number, label in enumerate(apart):
        others = there[label[there] != label[found[0]][which]]
        found.append(_representatives(hashes, [*apart[:number], *apart[number + 1 :]], others))
    return np.concatenate(found)


def _other_splits(table: pd.DataFrame) -> list[str]:
    splits = table[table["split"] != ""].groupby("group")["split"].agg(lambda names: sorted(set(names)))
    shared = {group: names for group, names in splits.items() if len(names) > 1}
    return [
        ", ".join(name for name in shared.get(group, []) if name != split)
        for group, split in zip(table["group"], table["split"], strict=True)
    ]


def _open_image(layout: Layout, tree: Tree, path: str, slice_index: int) -> tuple[NDArray[np.uint8], Row]:
    """An image, reduced where that is cheaper, and what its header says."""
    if layout.read_image is not read_image:
        image = layout.read_image(tree, path, slice_index)
        return image, {"height": image.shape[0], "width": image.shape[1]}
    data = tree.read(path)
    header = read_header(data)
    facts = {name: getattr(header, name) for name in ("height", "width", "mode", "bits", "orientation")}
    return decode_image(data, reduce=reduction(min(header.height, header.width), SIDE)), facts


def reduction(shortest: int, side: int) -> int:
    """How far an image may be reduced when it is decoded, so that its shortest side still has ``side`` px."""
    return next((reduce for reduce in (8, 4, 2) if shortest >= reduce * side), 1)


def _attempt(read: Callable[[], Read]) -> tuple[Read | None, str]:
    """What is read, or None and what is wrong with the file."""
    try:
        return read(), ""
    except OSError as error:
        return None, " ".join((error.strerror or str(error)).split())


def _grey(image: NDArray[np.uint8]) -> Image.Image:
    grey = Image.fromarray(image).convert("L")
    scale = SIDE / min(grey.size)
    if scale >= 1:
        return grey
    width, height = (max(SIDE, round(side * scale)) for side in grey.size)
    return grey.resize((width, height), Image.Resampling.BOX)


def _list_values(values: NDArray[np.integer]) -> str:
    more = len(values) - SHOWN_VALUES
    return ", ".join(map(str, values[:SHOWN_VALUES])) + (f" and {more} more" if more > 0 else "")
