"""The images that the preparation step of a model gets as tensors, so that models import no data."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segline.artifacts.dataset import INDEX, LABELS, read_dataset_info, shard_file
from segline.config.sections import Augment
from segline.data.augment import augment, generate_parameters, normalize, to_device, to_unit
from segline.data.reading import open_split
from segline.data.split import Split
from segline.models.feature_cache import ImageBatches, Views
from segline.progress import progress_bar
from segline.training.run import derive_seed
from segline.training.trial import TrialInputs


def image_batches(
    inputs: TrialInputs, settings: Augment, *, seed: int, device: torch.device, description: str
) -> ImageBatches:
    """Return the images of a data set; those of the training split are augmented as the batches of a trial are."""
    train, val = (open_split(inputs.dataset_dir, folder) for folder in ("train", inputs.validation))
    still = Augment(flip=0, flip_vertical=0, scale=0, translate=0, rotate=0, brightness_contrast=0)

    def views_of(split: Split, amounts: Augment, views: int) -> Views:
        read = partial(_read, split, amounts, views, seed=seed, device=device, description=description)
        pixels = max(math.prod(split.shape(position)) for position in range(len(split)))
        return Views(count=views * len(split), pixels=pixels, read=read)

    return ImageBatches(
        device=device,
        seed=seed,
        class_pixels=tuple(read_dataset_info(inputs.dataset_dir).pixels.get("train", ())),
        train=partial(views_of, train, settings),
        val=views_of(val, still, 1),
    )


def write_indices(inputs: TrialInputs, folder: Path, views: int) -> list[str]:
    """Write the index of the items of each split, from which image each is; return the files."""
    files = []
    for name, source, count in (("train", "train", views), ("val", inputs.validation, 1)):
        index, labels = open_split(inputs.dataset_dir, source).index, np.load(shard_file(folder / name, LABELS, 0), "r")
        items = len(labels) // (count * len(index))
        repeated = index.iloc[np.tile(np.repeat(np.arange(len(index)), items), count)]
        repeated.to_csv(folder / name / INDEX, index=False, lineterminator="\n")
        files.append(f"{name}/{INDEX}")
    return files


def _read(
    split: Split, settings: Augment, views: int, *, seed: int, device: torch.device, description: str
) -> Iterator[tuple[Float[Tensor, "1 3 h w"], UInt8[Tensor, "h w"]]]:
    with progress_bar(description, views * len(split)) as advance:
        for number in range(views * len(split)):
            images, labels = split.take([number % len(split)])
            generator = torch.Generator().manual_seed(derive_seed(seed, number))
            amounts = generate_parameters(1, settings, generator).to(device)
            moved, target, _ = augment(to_unit(images, device), to_device(torch.from_numpy(labels), device), amounts)
            yield normalize(moved), target[0]
            advance(1)
