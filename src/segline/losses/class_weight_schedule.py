"""Cross-entropy with class weights that follow each batch (Seed S0, section 4.2.1)."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.masking import mean_over_valid, pixel_cross_entropy, pixels_by_class
from segline.losses.task import Task


class ClassWeightSchedule(nn.Module):
    r"""Cross-entropy whose pixels are weighted by the prevalence of their class in the batch.

    .. math:: W_k = \frac{N}{K N_k}, \qquad W_{background} = \alpha_{bg} \frac{N_{bg}}{N}

    N pixels are valid, N_k of them in class k; K classes occur. The weights are applied before the mean over the valid
    pixels (S0, section 4.2.1, which leaves the factor of the inverse prevalence open: here the classes share the loss
    equally). Ignored pixels add nothing; if all are ignored the loss is zero.

    >>> logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 0, 0]]])
    >>> weights = batch_weights(pixels_by_class(target, 2), background=0, alpha_bg=0.5)
    >>> weights
    tensor([0.3750, 2.0000])
    """

    counts_classes: ClassVar[bool] = True

    def __init__(
        self,
        task: Task,
        *,
        alpha_bg: Annotated[float, Range(0, 1), "factor of the background's weight; S0 tunes 0.01 to 0.5"] = 0.5,
    ) -> None:
        super().__init__()
        self.background = task.background
        self.alpha_bg = alpha_bg

    def forward(
        self,
        logits: Float[Tensor, "b k h w"],
        target: Integer[Tensor, "b h w"],
        pixels: Integer[Tensor, " k"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch; ``pixels`` are those of each class in the whole step, if it has more passes."""
        weights = balance(target, logits.shape[1], pixels, background=self.background, alpha_bg=self.alpha_bg)
        return mean_over_valid(weights * pixel_cross_entropy(logits, target), target)


def balance(
    target: Integer[Tensor, "b h w"],
    classes: int,
    pixels: Integer[Tensor, " k"] | None,
    *,
    background: int | None = None,
    alpha_bg: float = 0.0,
) -> Float[Tensor, "b h w"]:
    """Return the weight of every pixel by the prevalence of its class in the step, or without its pixels in the batch.

    The weight of an ignored pixel is arbitrary.
    """
    counted = pixels_by_class(target, classes) if pixels is None else pixels
    return gather_weights(batch_weights(counted, background, alpha_bg), target)


def batch_weights(pixels: Integer[Tensor, " k"], background: int | None, alpha_bg: float) -> Float[Tensor, " k"]:
    """Return the weight of each class by the pixels that it has in the batch; zero for one that does not occur."""
    total, present = pixels.sum().clamp(min=1), (pixels > 0).sum()
    weights = torch.where(pixels > 0, total / (present * pixels.clamp(min=1)), 0.0)
    if background is not None:
        weights[background] = alpha_bg * pixels[background] / total
    return weights


def gather_weights(weights: Float[Tensor, " k"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Return the weight of every pixel's class; that of an ignored pixel is arbitrary."""
    return weights[target.long().clamp(max=len(weights) - 1)]
