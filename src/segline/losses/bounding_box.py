"""Cross-entropy with bounding-box weighting (Seed S0, section 4.2.2)."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segline.fields import Range
from segline.losses.masking import mean_over_valid, pixel_cross_entropy, valid


class BoundingBox(nn.Module):
    r"""Cross-entropy whose pixels outside the image's foreground box are multiplied by :math:`\beta_{bg}`.

    One box per image holds all of its foreground pixels; the weights come before the mean over the pixels
    that count, so that the sum is not normalised by them (S0, section 4.2.2). An image without foreground has
    no box and keeps its weights at 1. Ignored pixels are not foreground and add nothing.

    >>> from segline.losses.cross_entropy import CrossEntropy
    >>> logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 0, 0]]])
    >>> BoundingBox(0, beta_bg=0.05)(logits, target) / CrossEntropy(0)(logits, target)
    tensor(0.2875)
    """

    def __init__(
        self,
        background: int | None,
        *,
        beta_bg: Annotated[float, Range(0, 1), "weight outside the box; S0 tunes 0.01 to 0.2, best 0.05"] = 0.05,
    ) -> None:
        super().__init__()
        self.background = background
        self.beta_bg = beta_bg

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        foreground = valid(target)
        if self.background is not None:
            foreground = foreground & (target != self.background)
        inside = inside_box(foreground)
        weights = torch.where(inside, 1.0, self.beta_bg)
        return mean_over_valid(weights * pixel_cross_entropy(logits, target), target)


def inside_box(foreground: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """The smallest box of each image that holds its foreground; the whole image where there is none."""
    rows, columns = foreground.any(2), foreground.any(1)
    inside = _between(rows).unsqueeze(2) & _between(columns).unsqueeze(1)
    return inside | ~foreground.any(2).any(1)[:, None, None]


def _between(marked: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """From the first to the last marked position."""
    seen = marked.int().cumsum(1) > 0
    return seen & (marked.flip(1).int().cumsum(1) > 0).flip(1)
