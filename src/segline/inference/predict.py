"""Predictions: probabilities averaged over the members of a bundle (Seed S0, section 4.3).

An image with more pixels than one forward pass may have is predicted by overlapping tiles. The probabilities of all its
classes are then in memory for one tile at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from segline.data.augment import normalize, to_unit
from segline.data.split import MAX_PIXELS, Split
from segline.data.tiles import Region, tiles
from segline.errors import SeglineError, StageError
from segline.metrics.confusion import Counts, confusion_matrix
from segline.metrics.finite import first_nonfinite

TRAIN_AGAIN = "run `segline train` again with a lower train.learning_rate"
"""The advice about a candidate whose predictions are not finite."""


class NonFiniteError(StageError):
    """A model gave a logit that is infinite or not a number, so that its most probable class means nothing."""


@contextmanager
def naming_model(name: str, advice: str, raised: type[SeglineError] = StageError) -> Iterator[None]:
    """Name the model, and what to do, in the error about predictions that are not finite."""
    try:
        yield
    except NonFiniteError as error:
        raise raised(f"{name}: {error}; {advice}") from None


@torch.inference_mode()
def probabilities(
    models: Sequence[nn.Module], images: NDArray[np.uint8], keys: Sequence[str] = ()
) -> Float[Tensor, "b k h w"]:
    """Return the mean of the models' softmax outputs for RGB images (b, h, w, 3) in 0 to 255.

    Args:
        models: The members of a bundle.
        images: The images.
        keys: Their keys, for the message of an error; without them it has the image's number.

    Raises:
        NonFiniteError: A logit is infinite or not a number.
    """
    device = next(models[0].parameters()).device
    inputs = normalize(to_unit(images, device))
    return torch.stack([_logits(model, inputs, keys).softmax(1) for model in models]).mean(0)


def _logits(model: nn.Module, inputs: Float[Tensor, "b 3 h w"], keys: Sequence[str]) -> Float[Tensor, "b k h w"]:
    logits: Tensor = model(inputs)
    broken = first_nonfinite(logits)
    if broken is not None:
        raise NonFiniteError(f"the predictions for the image {keys[broken] if keys else broken} are not finite")
    return logits


def predict_tiles(
    models: Sequence[nn.Module], images: NDArray[np.uint8], keys: Sequence[str] = (), *, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Region, Float[Tensor, "b k h w"]]]:
    """Yield regions that make up the images (b, h, w, 3), each with its averaged probabilities.

    Args:
        models: The members of a bundle.
        images: The images.
        keys: Their keys, for the message of an error.
        max_pixels: The most pixels of an image that is one region; a larger one is predicted by tiles.

    Raises:
        NonFiniteError: A logit is infinite or not a number.
    """
    height, width = images.shape[1:3]
    for tile in tiles((height, width), max_pixels):
        yield tile.kept, probabilities(models, images[:, *tile.seen], keys)[..., *tile.inner]


def predict_labels(
    models: Sequence[nn.Module], images: NDArray[np.uint8], keys: Sequence[str] = (), *, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "b h w"], Float[np.ndarray, "b h w"]]:
    """Return the most probable class of every pixel and its probability; see :func:`predict_tiles`.

    At most ``max_pixels`` pixels, and at least one image or tile, are predicted at a time.
    """
    labels, confidence = np.empty(images.shape[:3], np.uint8), np.empty(images.shape[:3], np.float32)
    size = max(1, max_pixels // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        for region, predicted in predict_tiles(models, images[part], keys[part], max_pixels=max_pixels):
            values, ids = predicted.max(1)
            labels[part, *region], confidence[part, *region] = ids.cpu().numpy(), values.cpu().numpy()
    return labels, confidence


def count_split(
    models: Sequence[nn.Module],
    split: Split,
    *,
    classes: int,
    batch_size: int,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], None] = lambda items: None,
) -> Counts:
    """Return the confusion matrix of every item of a split, (n, classes, classes).

    Args:
        models: The members of a bundle.
        split: The split.
        classes: The number of classes.
        batch_size: The most items of a forward pass.
        max_pixels: The most pixels of a forward pass; a larger item is predicted, and counted, tile by tile.
        progress: A function that gets the number of items after every batch.
    """
    counts = []
    for positions in split.ranges(batch_size, max_pixels):
        images, labels = split.take(positions)
        total = np.zeros((len(positions), classes, classes), np.int64)
        for region, predicted in predict_tiles(models, images, split.keys(positions), max_pixels=max_pixels):
            total += confusion_matrix(labels[:, *region], predicted.argmax(1).cpu().numpy(), classes)
        counts.append(total)
        progress(len(positions))
    return np.concatenate(counts)
