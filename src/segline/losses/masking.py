"""How every loss treats ignored pixels: they add nothing to its value and nothing to its gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from segline.classes import IGNORED


def valid(target: Integer[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """The pixels that count."""
    return target != IGNORED


def count(target: Integer[Tensor, "b h w"]) -> Integer[Tensor, ""]:
    """How many pixels count, at least one: what a mean over them divides by."""
    return valid(target).sum().clamp(min=1)


def one_hot(target: Integer[Tensor, "b h w"], classes: int) -> Bool[Tensor, "b k h w"]:
    """The truth as one plane per class, a byte per pixel and class; an ignored pixel is in none of them."""
    ids = torch.arange(classes, dtype=target.dtype, device=target.device)
    return target.unsqueeze(1) == ids[:, None, None]


def whole(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """The logits in the precision that the losses compute in: single, or double where they come so."""
    return logits if logits.dtype == torch.float64 else logits.float()


def probabilities(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """The softmax over the classes."""
    return whole(logits).softmax(1)


def log_probabilities(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """The logarithm of the softmax, for a loss that needs it next to the cross-entropy."""
    return whole(logits).log_softmax(1)


def pixel_cross_entropy(logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Cross-entropy of each pixel, zero where ignored."""
    return -gather_true_class(log_probabilities(logits), target)


def gather_true_class(values: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """The value of each pixel's true class, zero where ignored.

    Pixel by pixel and not as a sum: only so it is deterministic on CUDA, and cheaper there than a gather.
    """
    return -F.nll_loss(values, target.long(), ignore_index=IGNORED, reduction="none")


def pixels_by_class(target: Integer[Tensor, "b h w"], classes: int) -> Integer[Tensor, " k"]:
    """How many pixels count in each class."""
    return target.flatten().bincount(minlength=classes)[:classes]


def mean_over_valid(values: Float[Tensor, "b h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """The mean of pixel values over the pixels that count; zero when there are none."""
    return (values * valid(target)).sum() / count(target)
