"""Predictions: probabilities averaged over the members of a bundle (Seed S0, section 4.3)."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from segline.data.augment import normalize, to_unit
from segline.data.shards import Split
from segline.metrics.confusion import Counts, confusion_matrix


@torch.inference_mode()
def probabilities(models: Sequence[nn.Module], images: NDArray[np.uint8]) -> Float[Tensor, "b k h w"]:
    """Return the mean of the models' softmax outputs for RGB images (b, h, w, 3) in 0 to 255."""
    device = next(models[0].parameters()).device
    inputs = normalize(to_unit(images, device))
    return torch.stack([model(inputs).softmax(1) for model in models]).mean(0)


def predict_split(
    models: Sequence[nn.Module], split: Split, batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], Float[Tensor, "b k h w"]]]:
    """Yield the labels (b, h, w) and averaged probabilities of all crops of a split, batch by batch."""
    for images, labels in split.batches(batch_size):
        yield labels, probabilities(models, images)


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
