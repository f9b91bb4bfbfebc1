"""Cross-entropy with bounding-box weighting (Seed S0, section 4.2.2)."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segline.fields import Range
from segline.losses.class_weight_schedule import batch_weights, spread
from segline.losses.masking import mean_over_valid, pixel_cross_entropy, valid


class BoundingBox(nn.Module):
    r"""Class-weighted cross-entropy whose pixels outside the foreground's box are multiplied by :math:`\beta_{bg}`.

    One box per image holds all of its foreground pixels. The class weights are those of
    :class:`~segline.losses.class_weight_schedule.ClassWeightSchedule`; all weights come before the mean over the
    pixels that count (S0, section 4.2.2). An image without foreground has no box, and none of its pixels is
    weighted down. Ignored pixels are not foreground and add nothing.

    >>> inside_box(torch.tensor([[[0, 1, 0, 1, 0]]]).bool()).int()
    tensor([[[0, 1, 1, 1, 0]]], dtype=torch.int32)
    """

    def __init__(
        self,
        background: int | None,
        *,
        beta_bg: Annotated[float, Range(0, 1), "weight outside the box; S0 tunes 0.01 to 0.2, best 0.05"] = 0.05,
        alpha_bg: Annotated[float, Range(0, 1), "scales the background's weight; S0 tunes 0.01 to 0.5"] = 0.5,
    ) -> None:
        super().__init__()
        self.background = background
        self.beta_bg = beta_bg
        self.alpha_bg = alpha_bg

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        foreground = valid(target)
        if self.background is not None:
            foreground = foreground & (target != self.background)
        by_class = spread(batch_weights(target, logits.shape[1], self.background, self.alpha_bg), target)
        by_place = torch.where(inside_box(foreground), 1.0, self.beta_bg)
        return mean_over_valid(by_class * by_place * pixel_cross_entropy(logits, target), target)


def inside_box(foreground: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """The smallest box of each image that holds its foreground; the whole image where there is none."""
    rows, columns = foreground.any(2), foreground.any(1)
    inside = _between(rows).unsqueeze(2) & _between(columns).unsqueeze(1)
    return inside | ~foreground.any(2).any(1)[:, None, None]


def _between(marked: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """From the first to the last marked position."""
    seen = marked.int().cumsum(1) > 0
    return seen & (marked.flip(1).int().cumsum(1) > 0).flip(1)
