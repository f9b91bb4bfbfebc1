"""Label: write class ids and splits: memory-mapped shards of training crops, packs of whole frames to judge models on.

Each shard or pack is a task that runs in this process or anywhere on Ray, and writes the same bytes wherever it runs.
One that a killed run completed is not made again.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.artifacts.dataset import DATASET, DatasetInfo, describe_size, part_file, split_folder, write_dataset_info
from segline.artifacts.manifest import Manifest, read_manifest
from segline.artifacts.validation import VALIDATION, read_statistics, write_statistics
from segline.config.params import Params
from segline.config.sections import Label
from segline.config.sections.label import SEVERAL
from segline.config.serialization import as_json
from segline.data.class_map import merge, merge_counts
from segline.data.crops import tiles
from segline.data.distances import channels
from segline.data.exclusions import Exclusions, read_exclusions
from segline.data.frames import write_pack
from segline.data.layouts import LabelSpec
from segline.data.pairs import checked, label_spec_of, layout_of, open_tree
from segline.data.parts import join_parts
from segline.data.reading import open_split
from segline.data.sampling import Sampler
from segline.data.shards import write_shard
from segline.data.splits import SPLITS, assign
from segline.errors import DataError, StageError
from segline.files.trees import Tree, prefetch
from segline.parallel import for_each, tune_malloc
from segline.progress import log, progress_bar

JUDGED = ("val", "test")
"""The splits that models are judged on, which hold whole frames."""
PACK_PIXELS = 2**28
"""The most pixels of a pack of several frames, which make about 256 MB."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard of crops or a pack of frames to make.

    Attributes:
        folder: The folder of its split.
        number: Its number in the split.
        of_frames: Whether it is a pack of frames.
        manifest: The pairs in it.
        tree: The files of the pairs.
        label_spec: The classes to learn.
        settings: The section ``label``.
        exclusions: The images and regions to leave out.
        seed: The seed of the line.
    """

    folder: Path
    number: int
    of_frames: bool
    manifest: Manifest
    tree: Tree
    label_spec: LabelSpec
    settings: Label
    exclusions: Exclusions
    seed: int


def run(params: Params, *, manifest_dir: Path, validation_dir: Path, exclusions: Path | None = None, out: Path) -> None:
    """Write the shards and packs of ``out/<split>/``, ``out/dataset.json`` and ``out/statistics.parquet``.

    The statistics are those of the training pairs. Crops of validation and test are written if train or evaluate asks
    for them, to ``out/val_crops/`` and ``out/test_crops/``.

    Args:
        params: The parameters.
        manifest_dir: The folder that ingest wrote.
        validation_dir: The folder that validate wrote.
        exclusions: A list of images and regions to leave out, see :mod:`segline.data.exclusions`.
        out: The folder to write.

    Raises:
        DataError: The class map names an unknown class, the groups cannot be split, or a file has changed.
        StageError: A file that validate wrote is missing or damaged.
    """
    VALIDATION.check(validation_dir)
    settings = params.label
    manifest, statistics = _read_validation(validation_dir)
    excluded = _read_exclusions(exclusions, manifest)
    manifest, statistics = _leave_out(manifest, statistics, excluded)
    label_spec = _merged_label_spec(manifest, settings)
    splits = _split(manifest, statistics, label_spec, params)
    template = Shard(
        folder=out,
        number=0,
        of_frames=False,
        manifest=manifest,
        tree=open_tree(manifest.origin.root, manifest_dir),
        label_spec=label_spec,
        settings=settings,
        exclusions=excluded,
        seed=params.seed,
    )
    cropped = _cropped(params)
    with DATASET.writing(out, depends_on=f"{_content_key(template)} crops of {' '.join(cropped)}") as work:
        shards = _plan(template, splits, cropped, statistics, work)
        _make([shard for part in shards.values() for shard in part], settings.workers)
        joined = {folder: join_parts(work / folder, len(part)) for folder, part in shards.items()}
        write_statistics(work, statistics.iloc[splits["train"]])
        info = _dataset_info(template, splits, joined)
        write_dataset_info(work, info)
    _log_summary(info, manifest, splits, excluded, out)


def make_shard(shard: Shard) -> int:
    """Write one shard or pack, and return the number of pairs in it."""
    tune_malloc()
    rows: list[Any] = shard.manifest.rows.to_dict("records")
    paths = [row[part] for row in rows for part in ("label", "image")]
    with prefetch(checked(shard.tree, shard.manifest), paths) as tree:
        layout = layout_of(shard.manifest.origin)
        sampler = Sampler(tree, layout, shard.label_spec, shard.settings, shard.exclusions, seed=shard.seed)
        if shard.of_frames:
            write_pack(shard.folder, shard.number, map(sampler.frame, rows))
            return len(rows)
        crops = (crop for row in rows for crop in sampler.crops(row))
        distances: dict[str, int] = {
            name: channels(name, len(shard.label_spec.classes)) for name in shard.settings.distances
        }
        write_shard(shard.folder, shard.number, crops, shape=shard.settings.crop_size, distances=distances)
    return len(rows)


def _read_validation(folder: Path) -> tuple[Manifest, pd.DataFrame]:
    """Return the manifest and the statistics that validate wrote, a row of each for every pair."""
    manifest, statistics = read_manifest(folder), read_statistics(folder)
    if list(statistics["key"]) != list(manifest.rows["key"]):
        raise StageError(f"{folder} has statistics of other pairs than its manifest; run `segline validate` again")
    return manifest, statistics


def _read_exclusions(path: Path | None, manifest: Manifest) -> Exclusions:
    if path is None:
        return Exclusions()
    excluded = read_exclusions(path)
    unknown = excluded.unknown(manifest.rows["key"])
    if unknown:
        log(f"label: warning: {path} names {len(unknown)} images not in the data, the first is {unknown[0]!r}")
    return excluded


def _leave_out(manifest: Manifest, statistics: pd.DataFrame, excluded: Exclusions) -> tuple[Manifest, pd.DataFrame]:
    """Return the manifest and its statistics without the images that are excluded entirely."""
    rows = manifest.rows[~manifest.rows["key"].isin(excluded.keys)].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"the exclusions leave none of {len(manifest.rows)} pairs; shorten the list")
    return replace(manifest, rows=rows), statistics.set_index("key").loc[rows["key"]].reset_index()


def _merged_label_spec(manifest: Manifest, settings: Label) -> LabelSpec:
    """Return the classes to learn: the layout's classes, merged by the class map."""
    name = manifest.origin.layout
    return merge(label_spec_of(manifest.origin), settings.class_maps.get(name, {}), f"label.class_maps.{name}")


def _split(manifest: Manifest, statistics: pd.DataFrame, label_spec: LabelSpec, params: Params) -> dict[str, list[int]]:
    """Return the positions of the pairs in each split."""
    pixels = np.stack(statistics["class_pixels"].to_list())
    amounts = merge_counts(pixels, label_spec_of(manifest.origin), label_spec)
    return assign(manifest.rows, amounts, params.label.split, params.seed)


def _content_key(template: Shard) -> str:
    """Return a text of all that the shards depend on beside the code; the number of workers does not change them."""
    settings = as_json(replace(template.settings, workers=1))
    classes = hashlib.sha256(repr(template.label_spec.classes).encode() + template.label_spec.lut.tobytes()).hexdigest()
    return f"{template.manifest.content_hash} {classes} {template.exclusions.hash} {settings} seed {template.seed}"


def _cropped(params: Params) -> list[str]:
    """Return the splits to judge on of which crops are written as well as frames."""
    asked = {"val": {params.train.validate_on, params.evaluate.on}, "test": {params.evaluate.on}}
    return [split for split in JUDGED if "crops" in asked[split]]


def _plan(
    template: Shard, splits: dict[str, list[int]], cropped: list[str], statistics: pd.DataFrame, work: Path
) -> dict[str, list[Shard]]:
    """Return the shards or packs of each folder of the data set."""
    size = _images_in_shard(template.settings, int(statistics["height"].max()), int(statistics["width"].max()))
    pixels = (statistics["height"] * statistics["width"]).to_numpy(np.int64)

    def plan(folder: str, blocks: list[list[int]], *, of_frames: bool) -> list[Shard]:
        made = replace(template, folder=work / folder, of_frames=of_frames)
        rows = template.manifest.rows
        return [
            replace(made, number=number, manifest=replace(template.manifest, rows=rows.iloc[block]))
            for number, block in enumerate(blocks)
        ]

    def in_shards(positions: list[int]) -> list[list[int]]:
        return [positions[start : start + size] for start in range(0, len(positions), size)]

    shards = {"train": plan("train", in_shards(splits["train"]), of_frames=False)}
    for split in JUDGED:
        packs = _packs(splits[split], pixels, template.settings.shard_size)
        shards[split] = plan(split, packs, of_frames=True)
    for split in cropped:
        folder = split_folder(split, "crops")
        shards[folder] = plan(folder, in_shards(splits[split]), of_frames=False)
    return shards


def _packs(positions: list[int], pixels: NDArray[np.int64], most: int) -> list[list[int]]:
    """Return the positions of the frames of each pack: at most this many, and at most ``PACK_PIXELS`` of several."""
    packs: list[list[int]] = []
    held = 0
    for position in positions:
        held += int(pixels[position])
        if not packs or len(packs[-1]) == most or held > PACK_PIXELS:
            packs.append([])
            held = int(pixels[position])
        packs[-1].append(position)
    return packs


def _images_in_shard(settings: Label, height: int, width: int) -> int:
    """Return how many images give a shard of about ``shard_size`` crops, from the size of the largest image."""
    crops = settings.crops_per_image if settings.sampling in SEVERAL else 1
    if settings.sampling == "tiles":
        crops = len(tiles((height, width), settings.crop_size, settings.tile_overlap))
    return max(1, settings.shard_size // crops)


def _make(shards: list[Shard], workers: int) -> None:
    """Make the shards and packs that are not complete yet."""
    missing = [shard for shard in shards if not part_file(shard.folder, shard.number).is_file()]
    if len(missing) < len(shards):
        log(f"label: {len(shards) - len(missing)} of {len(shards)} shards and packs are there from a run before")
    with progress_bar("labelling", sum(len(shard.manifest.rows) for shard in missing)) as advance:
        for_each(missing, make_shard, advance, workers=workers)


def _dataset_info(
    template: Shard, splits: dict[str, list[int]], joined: dict[str, tuple[NDArray[np.int64], str]]
) -> DatasetInfo:
    digests = "".join(f"{folder} {digest}\n" for folder, (_, digest) in joined.items())
    origin = template.manifest.origin
    return DatasetInfo(
        classes=template.label_spec.classes,
        background=template.label_spec.background,
        crop_size=template.settings.crop_size,
        content_hash=hashlib.sha256(digests.encode()).hexdigest(),
        source=origin.source,
        source_hash=template.manifest.content_hash,
        source_revision=origin.revision,
        pixels={
            split: [int(count) for count in joined[split][0][: len(template.label_spec.classes)]] for split in SPLITS
        },
        test_is_val=splits["test"] == splits["val"],
    )


def _log_summary(
    info: DatasetInfo, manifest: Manifest, splits: dict[str, list[int]], excluded: Exclusions, out: Path
) -> None:
    train, val, test = (len(open_split(out, split)) for split in SPLITS)
    crops, note = f"{train} training crops of {describe_size(info.crop_size)} px", ""
    if info.test_is_val:
        note = " (test is the validation split: the layout has no other)"
    log(f"label: {crops}, {val} validation and {test} test frames, {len(info.classes)} classes{note}")
    tested = [key for key in manifest.rows["key"].iloc[splits["test"]] if excluded.boxes(key)]
    if tested:
        log(
            f"label: warning: exclusions ignore parts of {len(tested)} test images, the first is {tested[0]!r}; look at"
            " each: a model must not choose what it is tested on"
        )
