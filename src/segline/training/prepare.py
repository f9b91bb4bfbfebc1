"""The preparation steps of losses and models: each runs once, before the trials that need its files.

A step gets label maps or images as tensors, so that losses and models import no data. Its files appear whole or not at
all, in ``prepared/<name>-<hash of its options>``, and a step that was killed is repeated with the same bits.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segline.artifacts.dataset import read_dataset_info
from segline.artifacts.preparation import Preparation
from segline.config.components import ComponentSpec
from segline.data.reading import open_split
from segline.data.split import MAX_PIXELS, Split
from segline.data.tiles import tiles
from segline.files.atomic import write_json
from segline.losses import LOSSES
from segline.losses.task import LabelBatches
from segline.models import MODELS
from segline.progress import log, progress_bar
from segline.training.checkpoints import PREPARATION, CheckpointStore
from segline.training.components import (
    features_name,
    preparation_name,
    preparation_options,
    preparation_step,
    with_local_weights,
)
from segline.training.determinism import set_deterministic
from segline.training.feature_views import image_batches, write_indices
from segline.training.trial import TrialConfig, TrialInputs

Step = Callable[[Path], Preparation]


def prepare_trials(
    configs: Iterable[TrialConfig], inputs: TrialInputs, store: CheckpointStore, *, seed: int, threads: int
) -> dict[str, dict[str, float]]:
    """Run the preparation steps of models and losses that have not been run yet; see :func:`prepare_losses`."""
    listed = list(configs)
    steps: dict[str, Step] = {
        name: partial(_keep_features, config, inputs, seed)
        for config in listed
        if (name := features_name(config.model, config.settings))
    }
    features = _run_steps(steps, inputs, store, seed=seed, threads=threads)
    terms = [term for config in listed for term in config.loss]
    return features | prepare_losses(terms, inputs, store, seed=seed, threads=threads)


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
    steps: dict[str, Step] = {
        name: partial(_prepare_loss, term, inputs, seed) for term in terms if (name := preparation_name(term))
    }
    return _run_steps(steps, inputs, store, seed=seed, threads=threads)


def _run_steps(
    steps: dict[str, Step], inputs: TrialInputs, store: CheckpointStore, *, seed: int, threads: int
) -> dict[str, dict[str, float]]:
    scores = {}
    for name, step in steps.items():
        result = inputs.prepared_dir / name / PREPARATION
        if not result.is_file():
            torch.set_num_threads(threads)
            set_deterministic(seed)
            _run_step(step, result.parent)
        preparation = json.loads(result.read_text(encoding="utf-8"))
        files = [f"{name}/{file}" for file in (*preparation["files"], PREPARATION)]
        store.upload(inputs.prepared_dir, files)
        log(f"train: {name}: {preparation['message']}")
        scores[name] = preparation["scores"]
    return scores


def _run_step(step: Step, folder: Path) -> None:
    """Run a preparation step in a temporary folder, then give the folder its name."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    preparation = step(unfinished)
    write_json(unfinished / PREPARATION, asdict(preparation))
    shutil.rmtree(folder, ignore_errors=True)  # The part of it that reached the bucket before a kill.
    unfinished.rename(folder)


def _prepare_loss(term: ComponentSpec, inputs: TrialInputs, seed: int, folder: Path) -> Preparation:
    loss = LOSSES[term.name]
    batches = _label_batches(inputs, seed, f"preparing {preparation_name(term)}")
    step = preparation_step(loss)
    assert step is not None
    return step(batches, folder, **(preparation_options(loss, term) or {}))


def _keep_features(config: TrialConfig, inputs: TrialInputs, seed: int, folder: Path) -> Preparation:
    """Compute features once; a trial with another seed, such as a finalist's, takes those of the search's seed."""
    model = MODELS[config.model.name]
    batches = image_batches(
        inputs,
        config.settings.augment,
        seed=seed,
        device=_device(),
        description=f"computing features of {config.model.name}",
    )
    options = with_local_weights(preparation_options(model, config.model) or {}, inputs.encoders)
    step = preparation_step(model)
    assert step is not None
    preparation = step(batches, folder, **options)
    return replace(preparation, files=(*preparation.files, *write_indices(inputs, folder, options["views"])))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _label_batches(inputs: TrialInputs, seed: int, description: str) -> LabelBatches:
    device = _device()
    train, val = (open_split(inputs.dataset_dir, folder) for folder in ("train", inputs.validation))
    return LabelBatches(
        classes=len(read_dataset_info(inputs.dataset_dir).classes),
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
            yield torch.from_numpy(split.take_labels(positions)).to(device)
            advance(1)


def _all_batches(split: Split, device: torch.device, size: int) -> Iterator[Tensor]:
    for positions in split.ranges(size):
        labels = split.take_labels(positions)
        height, width = labels.shape[1:]
        for tile in tiles((height, width), MAX_PIXELS):
            yield torch.from_numpy(labels[:, *tile.kept]).to(device)
