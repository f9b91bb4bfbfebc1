"""Statistics of every pair from one decoding pass: sizes, pixels per class, brightness, sharpness, perceptual hash.

Brightness, contrast, sharpness and the hash are those of the gray image (ITU-R BT.601), scaled down by area until its
shortest side has ``SIDE`` px, so that they mean the same at any resolution. A JPEG is decoded at a reduced size.
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

from segline.artifacts.manifest import Manifest
from segline.artifacts.validation import STATISTICS_COLUMNS
from segline.classes import IGNORED
from segline.data.decoding import decode_image, read_header
from segline.data.layouts import UNKNOWN, LabelSpec, Layout
from segline.data.layouts.layout import read_image
from segline.data.pairs import label_spec_of, layout_of
from segline.files.atomic import write_file
from segline.files.trees import Tree
from segline.parallel import tune_malloc

SIDE = 128
SHOWN_VALUES = 5
PIECE = 256
"""The number of pairs that are measured and saved together."""
BLOCK = 64
Row = dict[str, Any]
Read = TypeVar("Read")


def measure(
    manifest: Manifest, tree: Tree, *, pieces: Path, progress: Callable[[int], None] = lambda pairs: None
) -> pd.DataFrame:
    """Decode every pair and return one row for each, in the manifest's order, with ``STATISTICS_COLUMNS``.

    Args:
        manifest: The pairs.
        tree: The tree with their files.
        pieces: The folder where finished pieces are saved, so that a killed run can continue. A piece with an error is
            not saved, because the file may be repaired meanwhile.
        progress: Called with the number of pairs done since the last call.
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
    return pd.concat(parts, ignore_index=True).astype(STATISTICS_COLUMNS)


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
        return examine(pair, layout_of(manifest.origin), label_spec_of(manifest.origin), tree)

    rows = []
    for row in pool.map(examined, manifest.rows.iloc[part].to_dict("records")):
        rows.append(row)
        progress(1)
    return pd.DataFrame(rows, columns=list(STATISTICS_COLUMNS)).astype(STATISTICS_COLUMNS)


def examine(pair: Mapping[str, Any], layout: Layout, label_spec: LabelSpec, tree: Tree) -> Row:
    """Return the row of one pair of a manifest."""
    row: Row = dict.fromkeys(["image_error", "label_error", "mode", "phash", "unknown_values"], "")
    row |= {"key": pair["key"], "classes": json.dumps(label_spec.names), "class_pixels": None}
    if _has_file(pair["image"]):
        opened, row["image_error"] = _attempt(lambda: _open_image(layout, tree, pair["image"], pair["slice_index"]))
        if opened is not None:
            pixels, facts = opened
            row |= facts | of_image(pixels)
    if _has_file(pair["label"]):
        raw, row["label_error"] = _attempt(lambda: layout.read_label(tree, pair["label"], pair["slice_index"]))
        if raw is not None:
            row |= of_label(raw, label_spec)
    return row


def of_image(image: NDArray[np.uint8]) -> Row:
    """Return brightness, contrast, sharpness and perceptual hash of an RGB image."""
    gray = _gray(image)
    levels = np.asarray(gray)
    contrast = float(levels.std())
    return {
        "brightness": float(levels.mean()),
        "contrast": contrast,
        "sharpness": sharpness(levels),
        "phash": f"{phash(gray):016x}" if contrast else "",
    }


def of_label(raw: NDArray[np.integer], label_spec: LabelSpec) -> Row:
    """Return size and pixels per class of a label map, which is counted by runs because runs of one value are long."""
    flat = raw.ravel()
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]), [flat.size - 1]])
    values, ids = flat[ends], label_spec.lut[flat[ends]]
    counts = np.bincount(ids, weights=np.diff(ends, prepend=-1), minlength=256).astype(np.int64)
    pixels = counts[: len(label_spec.classes)]
    labelled = int(pixels.sum())
    background = 0 if label_spec.background is None else int(pixels[label_spec.background])
    return {
        "label_height": raw.shape[0],
        "label_width": raw.shape[1],
        "unknown_values": _list_values(np.unique(values[ids == UNKNOWN])),
        "labelled_pixels": labelled,
        "ignored_pixels": int(counts[IGNORED]),
        "foreground_share": (labelled - background) / labelled if labelled else None,
        "class_pixels": pixels.tolist(),
    }


def sharpness(gray: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian ``up + down + left + right - 4 x centre`` over the inner pixels.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000.
    """
    levels = gray.astype(np.int16)
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    edges = around - 4 * levels[1:-1, 1:-1]
    return float(edges.var()) if edges.size else 0.0


COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))


def phash(gray: Image.Image) -> int:
    """Return the perceptual hash, 64 bits; images that look alike differ in few bits.

    The image is scaled to 32 x 32 px. Each bit says whether one of the 8 x 8 lowest frequencies ``C G C^T`` of its
    discrete cosine transform, ``C[k, n] = cos(pi k (2n + 1) / 64)``, is above their median.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.
    """
    small = np.asarray(gray.resize((32, 32), Image.Resampling.BOX), float)
    # Rounded, because the zero frequencies of symmetric images have rounding errors.
    frequencies = np.round(COSINES @ small @ COSINES.T, 6)
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def find_duplicates(table: pd.DataFrame, *, distance: int) -> pd.DataFrame:
    """Find duplicates, conflicts and near duplicates among the pairs; the columns are texts, empty for none.

    Args:
        table: The columns of the manifest and of :func:`measure`.
        distance: The number of bits of ``phash`` in which near duplicates may differ.

    Returns:
        ``conflicts_with``: The key of a pair with the same image file and another label map.
        ``duplicate_of``: The key of the pair with the same two files that is kept: one of the test split before one of
        validation, training or none, then the first key.
        ``looks_like``: The key of the most similar image on another side, where a side is a split of the layout or,
        when it has none, a group.
        ``other_splits``: Further splits that hold pairs of the same group.
    """
    relations = pd.DataFrame(
        "", index=table.index, columns=["conflicts_with", "duplicate_of", "looks_like", "other_splits"], dtype="str"
    )
    readable = (table[["image_error", "label_error"]] == "").all(axis=1)
    whole = table[readable & _have_files(table["image"]) & _have_files(table["label"])]
    for same in _same_images(whole):
        keys = table["key"][same]
        if table["label_hash"][same].nunique() > 1:
            relations.loc[same, "conflicts_with"] = [keys[same[1]], *[keys[same[0]]] * (len(same) - 1)]
        else:
            relations.loc[same[1:], "duplicate_of"] = keys[same[0]]
    relations.loc[whole.index, "looks_like"] = _near_duplicates(whole, distance)
    relations["other_splits"] = _other_splits(table)
    return relations


def _has_file(path: object) -> bool:
    """Return whether a pair of a manifest has this file; a missing value is a fault of the manifest."""
    return isinstance(path, str) and path != ""


def _have_files(paths: "pd.Series[str]") -> "pd.Series[bool]":
    return paths.map(_has_file).astype(bool)


def _same_images(pairs: pd.DataFrame) -> Iterator[list[Any]]:
    """Generate the rows that share an image; the one to keep comes first."""
    content = ["image_hash", "slice_index"]
    twins = pairs[pairs.duplicated(content, keep=False)]
    rank = twins["split"].map({"test": 0, "val": 1, "train": 2}).fillna(3)
    ordered = twins.assign(rank=rank).sort_values(["rank", "key"])
    for _, same in ordered.groupby(content, sort=True):
        yield list(same.index)


def _near_duplicates(pairs: pd.DataFrame, distance: int) -> list[str]:
    sides = pairs["split"] if (pairs["split"] != "").any() else pairs["group"]
    hashes = np.array([int(text or "0", 16) for text in pairs["phash"]], np.uint64)
    # An image of one gray level has no hash; two equal files are already duplicates.
    apart = [pd.factorize(sides)[0], pd.factorize(pairs["image_hash"])[0]]
    nearest = nearest_phashes(hashes, apart, pairs["phash"].to_numpy() != "", distance)
    keys, names = pairs["key"].to_list(), sides.to_list()
    return [f"{keys[other]} of {names[other]}" if other >= 0 else "" for other in nearest]


def nearest_phashes(
    hashes: NDArray[np.uint64], apart: Sequence[NDArray[np.integer]], counted: NDArray[np.bool_], distance: int
) -> NDArray[np.int64]:
    """Return for each hash the position of the nearest one within ``distance`` bits, the first of equals; -1 for none.

    Only hashes that differ in every label of ``apart`` are candidates. Every hash is compared with a few
    representatives of each value, which takes two seconds for 40,000 different hashes, and some ten for 2,000 values
    that are all alike.
    """
    nearest = np.full(len(hashes), -1, np.int64)
    candidates = np.flatnonzero(counted)
    few = np.unique(_representatives(hashes, apart, candidates))
    for start in range(0, len(candidates), BLOCK):
        block = candidates[start : start + BLOCK]
        bits = np.bitwise_count(hashes[block, None] ^ hashes[few])
        rows, others = np.divmod(np.flatnonzero(bits <= distance), len(few))  # far faster than nonzero
        far = np.all([label[block[rows]] != label[few[others]] for label in apart], axis=0)
        rows, others = rows[far], others[far]
        # The last write persists, so the nearest comes last.
        order = np.lexsort((-others, -bits[rows, others].astype(np.int64)))
        nearest[block[rows[order]]] = few[others[order]]
    return nearest


def _representatives(
    hashes: NDArray[np.uint64], apart: Sequence[NDArray[np.integer]], candidates: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return a few of the ascending positions that still hold the first candidate for any hash.

    For each value of a hash these are its first position and, for a hash that shares a label with it, the first
    position that differs from it in this label: at most five when there are two labels, however many images have the
    value.
    """
    _, first, which = np.unique(hashes[candidates], return_index=True, return_inverse=True)
    chosen = [candidates[first]]
    for number, label in enumerate(apart):
        others = candidates[label[candidates] != label[chosen[0]][which]]
        chosen.append(_representatives(hashes, [*apart[:number], *apart[number + 1 :]], others))
    return np.concatenate(chosen)


def _other_splits(table: pd.DataFrame) -> list[str]:
    splits = table[table["split"] != ""].groupby("group")["split"].agg(lambda names: sorted(set(names)))
    shared = {group: names for group, names in splits.items() if len(names) > 1}
    return [
        ", ".join(name for name in shared.get(group, []) if name != split)
        for group, split in zip(table["group"], table["split"], strict=True)
    ]


def _open_image(layout: Layout, tree: Tree, path: str, slice_index: int) -> tuple[NDArray[np.uint8], Row]:
    """Return an image, reduced where that is cheaper, and the facts of its header."""
    if layout.read_image is not read_image:
        image = layout.read_image(tree, path, slice_index)
        return image, {"height": image.shape[0], "width": image.shape[1]}
    data = tree.read(path)
    header = read_header(data)
    facts = {name: getattr(header, name) for name in ("height", "width", "mode", "bits", "orientation")}
    return decode_image(data, reduce=reduction(min(header.height, header.width), SIDE)), facts


def reduction(shortest: int, side: int) -> int:
    """Return the largest reduction at decoding with which the shortest side still has ``side`` px."""
    return next((reduce for reduce in (8, 4, 2) if shortest >= reduce * side), 1)


def _attempt(read: Callable[[], Read]) -> tuple[Read | None, str]:
    """Return the result of reading, or None and the fault of the file."""
    try:
        return read(), ""
    except OSError as error:
        return None, " ".join((error.strerror or str(error)).split())


def _gray(image: NDArray[np.uint8]) -> Image.Image:
    gray = Image.fromarray(image).convert("L")
    scale = SIDE / min(gray.size)
    if scale >= 1:
        return gray
    width, height = (max(SIDE, round(side * scale)) for side in gray.size)
    return gray.resize((width, height), Image.Resampling.BOX)


def _list_values(values: NDArray[np.integer]) -> str:
    more = len(values) - SHOWN_VALUES
    return ", ".join(map(str, values[:SHOWN_VALUES])) + (f" and {more} more" if more > 0 else "")
