"""Cross-entropy with bounding-box weighting (Seed S0, section 4.2.2)."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.class_weight_schedule import balance
from segline.losses.masking import mean_over_valid, pixel_cross_entropy, valid
from segline.losses.task import Task


class BoundingBox(nn.Module):
    r"""Cross-entropy whose pixels outside the foreground's box are multiplied by :math:`\beta_{bg}`.

    One box per image encloses all of its foreground pixels. The factor multiplies the class weights of
    :class:`~segline.losses.class_weight_schedule.ClassWeightSchedule`, if ``class_weights`` is set; all weights are
    applied before the mean over the valid pixels (S0, section 4.2.2). An image without foreground has no box, and none
    of its pixels is weighted down. Ignored pixels are not foreground and add nothing.

    >>> inside_box(torch.tensor([[[0, 1, 0, 1, 0]]]).bool()).int()
    tensor([[[0, 1, 1, 1, 0]]], dtype=torch.int32)
    """

    needs_neighbors: ClassVar[bool] = True

    def __init__(
        self,
        task: Task,
        *,
        beta_bg: Annotated[float, Range(0, 1), "weight outside the box; S0 tunes 0.01 to 0.2, best 0.05"] = 0.05,
        class_weights: Annotated[bool, "weight the classes by their prevalence in the batch, as S0 does"] = True,
        alpha_bg: Annotated[float, Range(0, 1), "factor of the background's class weight; S0 tunes 0.01 to 0.5"] = 0.5,
    ) -> None:
        super().__init__()
        self.background = task.background
        self.beta_bg = beta_bg
        self.class_weights = class_weights
        self.alpha_bg = alpha_bg

    @property
    def counts_classes(self) -> bool:
        """Whether the loss needs the labelled pixels of each class in the whole step."""
        return self.class_weights

    def forward(
        self,
        logits: Float[Tensor, "b k h w"],
        target: Integer[Tensor, "b h w"],
        pixels: Integer[Tensor, " k"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch; ``pixels`` are those of each class in the whole step, if it has more passes."""
        foreground = valid(target)
        if self.background is not None:
            foreground = foreground & (target != self.background)
        weights = torch.where(inside_box(foreground), 1.0, self.beta_bg)
        if self.class_weights:
            weights *= balance(target, logits.shape[1], pixels, background=self.background, alpha_bg=self.alpha_bg)
        return mean_over_valid(weights * pixel_cross_entropy(logits, target), target)


def inside_box(foreground: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Return the smallest box of each image that encloses its foreground; the whole image if it has none."""
    rows, columns = foreground.any(2), foreground.any(1)
    inside = _span(rows).unsqueeze(2) & _span(columns).unsqueeze(1)
    return inside | ~foreground.any(2).any(1)[:, None, None]


def _span(marked: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Mark all positions from the first to the last marked one."""
    from_first = marked.int().cumsum(1) > 0
    return from_first & (marked.flip(1).int().cumsum(1) > 0).flip(1)
