"""Predictions: probabilities averaged over the members of a bundle (Seed S0, section 4.3)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from segline.data.augment import normalize, to_unit
from segline.data.split import Split
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


def predict_split(
    models: Sequence[nn.Module], split: Split, batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], Float[Tensor, "b k h w"]]]:
    """Yield the labels (b, h, w) and averaged probabilities of all crops of a split, batch by batch."""
    for positions in split.ranges(batch_size):
        images, labels = split.take(positions)
        yield labels, probabilities(models, images, split.keys(positions))


def count_split(
    models: Sequence[nn.Module],
    split: Split,
    *,
    classes: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda crops: None,
) -> Counts:
    """Return the confusion matrix of every crop of a split, (n, classes, classes)."""
    counts = []
    for labels, predicted in predict_split(models, split, batch_size):
        counts.append(confusion_matrix(labels, predicted.argmax(1).cpu().numpy(), classes))
        progress(len(labels))
    return np.concatenate(counts)
