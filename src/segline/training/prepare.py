"""The preparation steps of losses: each runs once, before the trials that need its files.

A step gets label maps as tensors, so that losses import no data. Its files appear whole or not at all, in
``prepared/<loss>-<hash of its options>``, and a step that was killed is repeated with the same bits.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segline.artifacts.dataset import read_dataset_info
from segline.config.components import ComponentSpec
from segline.data.shards import open_split
from segline.data.split import MAX_PIXELS, Split
from segline.data.tiles import tiles
from segline.files.atomic import write_json
from segline.losses import LOSSES
from segline.losses.task import LabelBatches, Preparation
from segline.progress import log, progress_bar
from segline.training.checkpoints import PREPARATION, CheckpointStore
from segline.training.components import preparation_name, preparation_options
from segline.training.determinism import set_deterministic
from segline.training.trial import TrialInputs


def prepare_losses(
    terms: Iterable[ComponentSpec], inputs: TrialInputs, store: CheckpointStore, *, seed: int, threads: int
) -> dict[str, dict[str, float]]:
    """Run the preparation steps that have not been run yet.

    Args:
        terms: The losses; equal options share one preparation.
        inputs: The data, and the folder of the preparations.
        store: The bucket that gets a copy for trials on other nodes.
        seed: The seed of the step's initial weights and batches.
        threads: The number of threads, which is a part of what makes the bits.

    Returns:
        The scores of each preparation, by its name.
    """
    named = {name: term for term in terms if (name := preparation_name(term))}
    scores = {}
    for name, term in named.items():
        result = inputs.prepared_dir / name / PREPARATION
        if not result.is_file():
            _prepare(term, result.parent, inputs, seed=seed, threads=threads)
        preparation = json.loads(result.read_text(encoding="utf-8"))
        files = [f"{name}/{file}" for file in (*preparation["files"], PREPARATION)]
        store.upload(inputs.prepared_dir, files)
        log(f"train: {name}: {preparation['message']}")
        scores[name] = preparation["scores"]
    return scores


def _prepare(term: ComponentSpec, folder: Path, inputs: TrialInputs, *, seed: int, threads: int) -> None:
    """Run the preparation step of a loss in a temporary folder, then give the folder its name."""
    torch.set_num_threads(threads)
    set_deterministic(seed)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    batches = _label_batches(inputs.dataset_dir, seed, f"preparing {folder.name}")
    step = getattr(LOSSES[term.name], "prepare")  # noqa: B009  (the table's type does not know of it)
    preparation: Preparation = step(batches, unfinished, **(preparation_options(term) or {}))
    write_json(unfinished / PREPARATION, asdict(preparation))
    unfinished.rename(folder)


def _label_batches(dataset_dir: Path, seed: int, description: str) -> LabelBatches:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val = open_split(dataset_dir, "train"), open_split(dataset_dir, "val")
    return LabelBatches(
        classes=len(read_dataset_info(dataset_dir).classes),
        device=device,
        train=partial(_random_batches, train, seed, device, description),
        val=partial(_all_batches, val, device),
    )


def _random_batches(
    split: Split, seed: int, device: torch.device, description: str, size: int, count: int
) -> Iterator[Tensor]:
    """Yield random batches of label maps, and show how many were taken."""
    generator = np.random.default_rng(seed)
    with progress_bar(description, count) as advance:
        for _ in range(count):
            positions = generator.choice(len(split), min(size, len(split)), replace=False)
            yield torch.from_numpy(split.take(positions)[1]).to(device)
            advance(1)


def _all_batches(split: Split, device: torch.device, size: int) -> Iterator[Tensor]:
    for _, labels in split.batches(size):
        height, width = labels.shape[1:]
        for tile in tiles((height, width), MAX_PIXELS):
            yield torch.from_numpy(labels[:, *tile.kept]).to(device)
