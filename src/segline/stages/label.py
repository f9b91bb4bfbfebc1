"""Label: raw label values to class ids, the crop with the most foreground, splits, memory-mapped shards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.crops import cut, max_foreground_corner
from segline.data.layouts import read_image
from segline.data.manifest import Manifest, read_manifest
from segline.data.shards import Description, content_hash, write_shard
from segline.data.splits import SPLITS, assign
from segline.errors import DataError
from segline.outputs import write_json, writing
from segline.params import Label, Params
from segline.progress import bar, say


@dataclass(frozen=True)
class ClassMap:
    """The classes to learn, and the table from raw label values to their ids."""

    classes: tuple[LabelClass, ...]
    background: int | None
    table: NDArray[np.uint8]


@dataclass(frozen=True)
class Crop:
    """One finished crop."""

    key: str
    group: str
    corner: tuple[int, int]
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def run(params: Params, *, ingested: Path, validated: Path, out: Path) -> None:
    """Write ``out/<split>/`` shards and ``out/dataset.json``.

    Raises:
        DataError: the class map names an unknown class, or the groups cannot be split.
    """
    manifest = read_manifest(validated)
    mapping = class_map(manifest, params.label.class_maps)
    splits = assign(manifest.rows, asdict(params.label.split), params.seed)
    with writing(out) as work:
        pixels = {
            name: _write_split(work / name, manifest, splits[name], mapping, params.label, manifest.root(ingested))
            for name in SPLITS
        }
        description = Description(
            classes=mapping.classes,
            background=mapping.background,
            side=params.label.crop,
            content_hash=content_hash(work),
            source=manifest.origin.source,
            source_hash=manifest.content_hash,
            pixels=pixels,
            test_is_val=bool(splits["test"]) and splits["test"] == splits["val"],
        )
        write_json(work / "dataset.json", description.to_dict())
    _report(description, splits)


def class_map(manifest: Manifest, maps: dict[str, dict[str, list[str]]]) -> ClassMap:
    """The layout's own classes, or new ones made of them; classes that no new one names are ignored.

    Raises:
        DataError: a class that the layout does not have, one that is named twice, or a new one of none.
    """
    layout, wanted = manifest.layout, maps.get(manifest.origin.layout)
    if not wanted:
        return ClassMap(layout.classes, layout.background, layout.table)
    where = f"label.class_maps.{manifest.origin.layout}"
    known = list(layout.names)
    for new, names in wanted.items():
        if not names:
            raise DataError(f"{where}: {new!r}: got no classes, expected some of {', '.join(known)}")
    named = [name for names in wanted.values() for name in names]
    for name in named:
        if name not in known or named.count(name) > 1:
            problem = "names it twice" if name in known else f"has no such class; it has {', '.join(known)}"
            raise DataError(f"{where}: {name!r}: the map or layout {problem}")
    table = layout.table.copy()
    table[layout.table < len(known)] = IGNORED
    for new_id, names in enumerate(wanted.values()):
        for name in names:
            table[layout.table == known.index(name)] = new_id
    classes = tuple(LabelClass(new, layout.classes[known.index(names[0])].colour) for new, names in wanted.items())
    before = None if layout.background is None else known[layout.background]
    background = next((i for i, names in enumerate(wanted.values()) if before in names), None)
    return ClassMap(classes, background, table)


def make_crop(
    image: NDArray[np.uint8], raw: NDArray[np.integer], mapping: ClassMap, side: int
) -> tuple[tuple[int, int], NDArray[np.uint8], NDArray[np.uint8]]:
    """The corner, image (side, side, 3) and class ids (side, side) of the crop with the most foreground."""
    ids = mapping.table[raw]
    foreground = ids != IGNORED
    if mapping.background is not None:
        foreground &= ids != mapping.background
    corner = max_foreground_corner(foreground, side)
    return corner, *cut(image, ids, corner, side)


def _write_split(
    folder: Path, manifest: Manifest, positions: list[int], mapping: ClassMap, settings: Label, root: Path
) -> list[int]:
    """Write the shards and index of one split; returns the pixels of each class."""
    folder.mkdir(parents=True)
    index, pixels = [], np.zeros(256, np.int64)
    with bar(f"labelling {folder.name}", len(positions)) as advance:
        for number, start in enumerate(range(0, len(positions), settings.shard_size)):
            crops = list(_crops(manifest, positions[start : start + settings.shard_size], mapping, settings.crop, root))
            labels = np.stack([crop.label for crop in crops])
            write_shard(folder, number, np.stack([crop.image for crop in crops]), labels)
            index += [(crop.key, crop.group, *crop.corner) for crop in crops]
            pixels += np.bincount(labels.ravel(), minlength=256)
            advance(len(crops))
    pd.DataFrame(index, columns=["key", "group", "top", "left"]).to_csv(folder / "index.csv", index=False)
    return [int(count) for count in pixels[: len(mapping.classes)]]


def _crops(manifest: Manifest, positions: list[int], mapping: ClassMap, side: int, root: Path) -> Iterator[Crop]:
    def crop(row: dict[str, str]) -> Crop:
        try:
            image, raw = read_image(root / row["image"]), manifest.layout.read_label(root / row["label"])
        except OSError as error:
            message = f"{root}: pair {row['key']} cannot be read any more ({error}); run `segline ingest` again"
            raise DataError(message) from None
        return Crop(row["key"], row["group"], *make_crop(image, raw, mapping, side))

    with ThreadPoolExecutor() as pool:
        yield from pool.map(crop, manifest.rows.iloc[positions].to_dict("records"))


def _report(description: Description, splits: dict[str, list[int]]) -> None:
    sizes = ", ".join(f"{len(positions)} {name}" for name, positions in splits.items())
    note = " (test is the validation split: the layout has no other)" if description.test_is_val else ""
    say(f"label: {sizes} crops of {description.side} px, {len(description.classes)} classes{note}")
