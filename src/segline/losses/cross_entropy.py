"""Pixel-wise cross-entropy (Seed S0, section 4.1)."""

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.losses.masking import mean_over_valid, pixel_cross_entropy


class CrossEntropy(nn.Module):
    r"""The mean over the pixels that count of :math:`-\log S(f)_y`, with the softmax S of S0, section 4.1.

    Logits (b, k, h, w) and class ids (b, h, w) to a scalar. Ignored pixels add nothing; if all are ignored
    the loss is zero.

    >>> import torch
    >>> CrossEntropy(None)(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    tensor(0.6931)
    """

    def __init__(self, background: int | None) -> None:
        super().__init__()

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        return mean_over_valid(pixel_cross_entropy(logits, target), target)
