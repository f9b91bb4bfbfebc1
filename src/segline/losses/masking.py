"""The treatment of ignored pixels in every loss: they add nothing to its value and nothing to its gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from segline.classes import IGNORED


def valid(target: Integer[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Return a mask of the pixels that are not ignored."""
    return target != IGNORED


def count_valid(target: Integer[Tensor, "b h w"]) -> Integer[Tensor, ""]:
    """Return the number of valid pixels, at least one: the divisor of a mean over them."""
    return valid(target).sum().clamp(min=1)


def one_hot(target: Integer[Tensor, "b h w"], classes: int) -> Bool[Tensor, "b k h w"]:
    """Return the truth as one mask per class, a byte per pixel and class; an ignored pixel is in none of them."""
    ids = torch.arange(classes, dtype=target.dtype, device=target.device)
    return target.unsqueeze(1) == ids[:, None, None]


def to_full_precision(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Return the logits in the precision of the losses: double for logits in double, else single."""
    return logits if logits.dtype == torch.float64 else logits.float()


def probabilities(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Return the softmax over the classes."""
    return to_full_precision(logits).softmax(1)


def log_probabilities(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Return the logarithm of the softmax, for a loss that needs it next to the cross-entropy."""
    return to_full_precision(logits).log_softmax(1)


def pixel_cross_entropy(logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Return the cross-entropy of each pixel, zero where ignored."""
    return -gather_true_class(log_probabilities(logits), target)


def gather_true_class(values: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Return the value of each pixel's true class, zero where ignored.

    Without a reduction ``nll_loss`` is deterministic on CUDA, and cheaper there than a gather.
    """
    return -F.nll_loss(values, target.long(), ignore_index=IGNORED, reduction="none")


def pixels_by_class(target: Integer[Tensor, "b h w"], classes: int) -> Integer[Tensor, " k"]:
    """Return the number of valid pixels of each class."""
    return target.flatten().bincount(minlength=classes)[:classes]


def mean_over_valid(values: Float[Tensor, "b h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the mean of pixel values over the valid pixels; zero if there are none."""
    return (values * valid(target)).sum() / count_valid(target)
