"""Label: raw label values to class ids, crops, splits, memory-mapped shards.

The work is cut into shards; each is one task that runs in this process or anywhere on Ray, and writes the same bytes
wherever it runs. A shard that a killed run left whole is not made again.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.artifacts.dataset import DATASET, DatasetInfo, part_file, write_dataset_info
from segline.artifacts.manifest import Manifest, read_manifest
from segline.artifacts.validation import read_statistics, write_statistics
from segline.config.params import Params
from segline.config.sections import Label
from segline.config.serialization import as_json
from segline.data.class_map import merge, merge_counts
from segline.data.crops import tiles
from segline.data.distances import channels
from segline.data.exclusions import Exclusions, read_exclusions
from segline.data.layouts import LabelSpec
from segline.data.pairs import checked, label_spec_of, layout_of, open_tree
from segline.data.sampling import Sampler
from segline.data.shards import join_shards, open_split, write_shard
from segline.data.splits import SPLITS, assign
from segline.errors import DataError
from segline.files.trees import Tree, prefetch
from segline.parallel import for_each, tune_malloc
from segline.progress import log, progress_bar


@dataclass(frozen=True)
class Shard:
    """One shard to make: its place, and all that its bytes depend on."""

    folder: Path
    number: int
    manifest: Manifest
    tree: Tree
    legend: LabelSpec
    settings: Label
    exclusions: Exclusions
    seed: int


def run(params: Params, *, manifest_dir: Path, validation_dir: Path, exclusions: Path | None = None, out: Path) -> None:
    """Write ``out/<split>/`` shards, ``out/dataset.json`` and the training pairs' ``out/statistics.parquet``.

    Args:
        params: the parameters.
        manifest_dir: the folder that ingest wrote.
        validation_dir: the folder that validate wrote.
        exclusions: a list of images and regions to leave out, see :mod:`segline.data.exclusions`.
        out: the folder to write.

    Raises:
        DataError: the class map names an unknown class, the groups cannot be split, or a file has changed.
    """
    settings = params.label
    manifest, statistics = read_manifest(validation_dir), read_statistics(validation_dir)
    excluded = _read_exclusions(exclusions, manifest)
    manifest, statistics = _leave_out(manifest, statistics, excluded)
    name = manifest.origin.layout
    legend = merge(label_spec_of(manifest.origin), settings.class_maps.get(name, {}), f"label.class_maps.{name}")
    amounts = merge_counts(np.stack(statistics["class_pixels"].to_list()), label_spec_of(manifest.origin), legend)
    splits = assign(manifest.rows, amounts, settings.split, params.seed)
    whole = Shard(
        out, 0, manifest, open_tree(manifest.origin.root, manifest_dir), legend, settings, excluded, params.seed
    )
    with DATASET.writing(out, depends_on=_content_key(whole)) as work:
        shards = _plan(whole, splits, statistics, work)
        _make([shard for part in shards.values() for shard in part], settings.workers)
        joined = {split: join_shards(work / split, len(part)) for split, part in shards.items()}
        write_statistics(work, statistics.iloc[splits["train"]])
        description = _describe(whole, splits, joined)
        write_dataset_info(work, description)
    _report(description, manifest, splits, excluded, out)


def make_shard(shard: Shard) -> int:
    """Write one shard; returns the number of pairs in it."""
    tune_malloc()
    rows: list[Any] = shard.manifest.rows.to_dict("records")
    paths = [row[part] for row in rows for part in ("label", "image")]
    with prefetch(checked(shard.tree, shard.manifest), paths) as tree:
        layout = layout_of(shard.manifest.origin)
        sampler = Sampler(tree, layout, shard.legend, shard.settings, shard.exclusions, seed=shard.seed)
        crops = (crop for row in rows for crop in sampler.crops(row))
        distances: dict[str, int] = {
            name: channels(name, len(shard.legend.classes)) for name in shard.settings.distances
        }
        write_shard(shard.folder, shard.number, crops, shape=(shard.settings.crop,) * 2, distances=distances)
    return len(rows)


def _read_exclusions(path: Path | None, manifest: Manifest) -> Exclusions:
    if path is None:
        return Exclusions()
    excluded = read_exclusions(path)
    unknown = excluded.unknown(manifest.rows["key"])
    if unknown:
        log(f"label: warning: {path} names {len(unknown)} images not in the data, the first is {unknown[0]!r}")
    return excluded


def _leave_out(manifest: Manifest, statistics: pd.DataFrame, excluded: Exclusions) -> tuple[Manifest, pd.DataFrame]:
    """The manifest and its statistics without the images that are excluded as a whole."""
    rows = manifest.rows[~manifest.rows["key"].isin(excluded.keys)].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"the exclusions leave none of {len(manifest.rows)} pairs; shorten the list")
    return replace(manifest, rows=rows), statistics.set_index("key").loc[rows["key"]].reset_index()


def _content_key(whole: Shard) -> str:
    """Return what the shards depend on beside the code. Any number of workers makes the same bytes."""
    settings = as_json(replace(whole.settings, workers=1))
    legend = hashlib.sha256(repr(whole.legend.classes).encode() + whole.legend.lut.tobytes()).hexdigest()
    return f"{whole.manifest.content_hash} {legend} {whole.exclusions.hash} {settings} seed {whole.seed}"


def _plan(whole: Shard, splits: dict[str, list[int]], statistics: pd.DataFrame, work: Path) -> dict[str, list[Shard]]:
    """The shards of each split."""
    size = _images_in_shard(whole.settings, int(statistics["height"].max()), int(statistics["width"].max()))

    def cut_up(split: str, rows: pd.DataFrame) -> list[Shard]:
        blocks = [rows.iloc[start : start + size] for start in range(0, len(rows), size)]
        return [
            replace(whole, folder=work / split, number=number, manifest=replace(whole.manifest, rows=block))
            for number, block in enumerate(blocks)
        ]

    return {split: cut_up(split, whole.manifest.rows.iloc[positions]) for split, positions in splits.items()}


def _images_in_shard(settings: Label, height: int, width: int) -> int:
    """So many that a shard holds about ``shard_size`` crops, given the size of the largest image."""
    of_image = settings.crops_per_image if settings.sampling in ("max_foreground", "random") else 1
    if settings.sampling == "tiles":
        of_image = len(tiles(height, width, settings.crop, settings.tile_overlap))
    return max(1, settings.shard_size // of_image)


def _make(shards: list[Shard], workers: int) -> None:
    """Make the shards that are not whole yet."""
    missing = [shard for shard in shards if not part_file(shard.folder, shard.number).is_file()]
    if len(missing) < len(shards):
        log(f"label: {len(shards) - len(missing)} of {len(shards)} shards are there from a run before")
    with progress_bar("labelling", sum(len(shard.manifest.rows) for shard in missing)) as advance:
        for_each(missing, make_shard, advance, workers=workers)


def _describe(
    whole: Shard, splits: dict[str, list[int]], joined: dict[str, tuple[NDArray[np.int64], str]]
) -> DatasetInfo:
    digests = "".join(f"{split} {joined[split][1]}\n" for split in SPLITS)
    origin = whole.manifest.origin
    return DatasetInfo(
        classes=whole.legend.classes,
        background=whole.legend.background,
        side=whole.settings.crop,
        content_hash=hashlib.sha256(digests.encode()).hexdigest(),
        source=origin.source,
        source_hash=whole.manifest.content_hash,
        source_revision=origin.revision,
        pixels={split: [int(count) for count in joined[split][0][: len(whole.legend.classes)]] for split in SPLITS},
        test_is_val=splits["test"] == splits["val"],
    )


def _report(
    description: DatasetInfo, manifest: Manifest, splits: dict[str, list[int]], excluded: Exclusions, out: Path
) -> None:
    sizes = ", ".join(f"{len(open_split(out, split))} {split}" for split in SPLITS)
    note = " (test is the validation split: the layout has no other)" if description.test_is_val else ""
    log(f"label: {sizes} crops of {description.side} px, {len(description.classes)} classes{note}")
    tested = [key for key in manifest.rows["key"].iloc[splits["test"]] if excluded.boxes(key)]
    if tested:
        log(
            f"label: warning: exclusions ignore parts of {len(tested)} test images, the first is {tested[0]!r}; look at"
            " each: a model must not choose what it is tested on"
        )
