"""How every loss treats ignored pixels: they add nothing to its value and nothing to its gradient."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from segline.classes import IGNORED


def valid(target: Integer[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """The pixels that count."""
    return target != IGNORED


def one_hot(target: Integer[Tensor, "b h w"], classes: int) -> Float[Tensor, "b k h w"]:
    """The truth as one plane per class; an ignored pixel is zero in all of them."""
    mask = valid(target)
    planes = F.one_hot(target.long().where(mask, 0), classes).movedim(-1, 1)
    return planes.float() * mask.unsqueeze(1)


def pixel_cross_entropy(logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Cross-entropy of each pixel in single precision, zero where ignored."""
    return F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORED, reduction="none")


def mean_over_valid(values: Float[Tensor, "b h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """The mean of pixel values over the pixels that count; zero when there are none."""
    mask = valid(target)
    return (values * mask).sum() / mask.sum().clamp(min=1)
