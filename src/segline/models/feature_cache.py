"""The features of sampled pixels, computed once for all trials that train on them.

They lie in the format of the data set's shards: an item has the features of some pixels of a view of an image
(pixels, 1, channels) in place of colours, in half precision, and their class ids (pixels, 1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from segline.artifacts.dataset import IMAGES, LABELS, shard_file, write_shard_head
from segline.artifacts.preparation import Preparation
from segline.classes import IGNORED
from segline.errors import TrainingError
from segline.files.atomic import naming
from segline.models.hypercolumns import Hypercolumns

VALIDATION_SHARE = 0.2
"""The part of the size that the features of the validation split may take."""
ITEM_PIXELS = 1024
"""The fewest pixels of each item of a view that gives several, so that a batch does not grow with what is kept."""
LAST = 1e-12
"""The weight of ignored pixels in training: they are taken only where an image has too few others."""
HALF_MAX = 65504.0
"""The largest number in half precision."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """The images of a split, or several augmented views of each.

    Attributes:
        count: The number of views.
        pixels: The number of pixels of the largest one.
        read: A function that yields each view: a normalised image (1, 3, h, w) and its class ids (h, w), 255 = ignored.
    """

    count: int
    pixels: int
    read: Callable[[], Iterator[tuple[Float[Tensor, "1 3 h w"], UInt8[Tensor, "h w"]]]]


@dataclass(frozen=True, kw_only=True)
class ImageBatches:
    """The images that the preparation step of a model is given.

    Attributes:
        device: The device of the images.
        seed: The seed of every random choice.
        class_pixels: The labelled pixels of each class in the training split.
        train: A function from the number of views of each image to the augmented views of the training split.
        val: The images of the validation split.
    """

    device: torch.device
    seed: int
    class_pixels: tuple[int, ...]
    train: Callable[[int], Views]
    val: Views


def write_features(
    features: Hypercolumns, batches: ImageBatches, folder: Path, *, views: int, max_gb: float, balance: str
) -> Preparation:
    """Write the features of sampled pixels of both splits, at most ``max_gb`` in all.

    In training pixels are drawn among the labelled ones, each as likely, or with ``balance`` of ``root_inverse`` the
    more likely the rarer its class; in validation among all, so that the counts of their classes are unbiased.

    Raises:
        TrainingError: Not one pixel of each view has room.
    """
    features.to(batches.device).to(memory_format=torch.channels_last)
    weights = torch.ones(IGNORED + 1, dtype=torch.float64)
    train = weights.clone()
    train[IGNORED] = LAST
    if balance == "root_inverse":
        counts = torch.tensor(batches.class_pixels, dtype=torch.float64).clamp_min(1)
        train[: len(counts)] = (counts / counts.max()).rsqrt()
    parts = {
        "train": (batches.train(views), train, 1 - VALIDATION_SHARE),
        "val": (batches.val, weights, VALIDATION_SHARE),
    }
    files, described = list[str](), []
    for number, (name, (split, weight, share)) in enumerate(parts.items()):
        items, pixels = _items_per_view(split, features.channels, share * max_gb)
        generator = torch.Generator().manual_seed(2 * batches.seed + number)
        (folder / name).mkdir()
        _write_split(folder / name, features, split, (items, pixels), weight, generator)
        files += [f"{name}/{shard_file(folder, kind, 0).name}" for kind in (IMAGES, LABELS)]
        described.append(f"{items * pixels} pixels of each of {split.count} {'views' if name == 'train' else 'images'}")
    size = sum((folder / file).stat().st_size for file in files) / 1e9
    message = f"{features.channels} features of {' and '.join(described)}, {size:.2f} GB"
    return Preparation(files=tuple(files), scores={}, message=message)


def _items_per_view(views: Views, channels: int, size_gb: float) -> tuple[int, int]:
    """Return the number of items of each view, and the pixels of each item."""
    room = min(views.pixels, int(size_gb * 1e9 / (views.count * (2 * channels + 1))))
    if not room:
        raise TrainingError(
            f"pixel_mlp.max_gb: {size_gb:.3g} GB hold no pixel of each of {views.count} views with {channels} "
            "features; raise it, or lower pixel_mlp.views"
        )
    items = max(1, room // ITEM_PIXELS)
    return items, room // items


def _write_split(
    folder: Path,
    features: Hypercolumns,
    views: Views,
    size: tuple[int, int],
    weights: Tensor,
    generator: torch.Generator,
) -> None:
    """Write view after view; a full disk is an error of a write, where a memory map would end the process."""
    items, pixels = size
    images, labels = (shard_file(folder, kind, 0) for kind in (IMAGES, LABELS))
    with naming(folder), images.open("wb") as image_stream, labels.open("wb") as label_stream:
        write_shard_head(image_stream, np.dtype(np.float16), (views.count * items, pixels, 1, features.channels))
        write_shard_head(label_stream, np.dtype(np.uint8), (views.count * items, pixels, 1))
        for image, label in views.read():
            ids = label.flatten().cpu()
            chosen = sample_pixels(ids, items * pixels, weights, generator)
            last = image.contiguous(memory_format=torch.channels_last)
            columns = features.at(last, chosen.to(image.device)).clamp(-HALF_MAX, HALF_MAX)
            image_stream.write(columns.half().cpu().contiguous().numpy().data)
            label_stream.write(ids[chosen].numpy().data)


def sample_pixels(
    labels: UInt8[Tensor, " n"], count: int, weights: Float[Tensor, " 256"], generator: torch.Generator
) -> Integer[Tensor, " {count}"]:
    """Return the numbers of random pixels, each at most once where there are enough (Efraimidis and Spirakis 2006).

    Args:
        labels: The class ids of all pixels.
        count: The number of pixels to take.
        weights: The weight of each class id; the next pixel is one of the rest with a probability in proportion to it.
        generator: The source of all randomness.
    """
    times = torch.empty(len(labels), dtype=torch.float64).exponential_(generator=generator) / weights[labels.long()]
    chosen = times.topk(min(count, len(labels)), largest=False).indices
    return chosen.repeat(-(-count // len(chosen)))[:count]
