"""Cross-entropy weighted by closeness to class borders (Seed S1, section 7.6.3, distance map weighting).

S1 gives no formula for the weight; here it is one plus a Gaussian of the distance, as in U-Net (Ronneberger et al.
2015, equation 2). S1's loss is binary, per pixel and class; here it is the softmax's cross-entropy.
"""

from typing import Annotated, ClassVar

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range, Unit
from segline.losses.masking import mean_over_valid, pixel_cross_entropy
from segline.losses.task import Task


class DistanceMap(nn.Module):
    r"""Cross-entropy that gives a pixel more weight the closer it is to a contour between two classes.

    .. math:: - \frac1N \sum_i \left( 1 + w_0 \, e^{-d_i^2 / (2 \sigma^2)} \right) \log p_{i y_i}

    d is the distance in px from the pixel's centre to the nearest contour, computed in the label stage. Ignored pixels
    add nothing; if all are ignored the loss is zero.

    >>> import torch
    >>> logits, target, border = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long(), torch.full((1, 1, 1, 1), 1000.0)
    >>> DistanceMap(Task(names=("sky", "road")))(logits, target, border)
    tensor(0.6931)
    """

    distances: ClassVar[tuple[str, ...]] = ("border",)

    def __init__(
        self,
        task: Task,
        *,
        w0: Annotated[float, Range(0), "extra weight of a pixel on the contour"] = 10.0,
        sigma: Annotated[float, Range(0.1), Unit("px"), "standard deviation of the Gaussian around the contour"] = 5.0,
    ) -> None:
        super().__init__()
        self.w0 = w0
        self.sigma = sigma

    def forward(
        self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"], border: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        weights = 1 + self.w0 * gaussian(border.squeeze(1), self.sigma)
        return mean_over_valid(weights * pixel_cross_entropy(logits, target), target)


def gaussian(distance: Float[Tensor, "b h w"], sigma: float) -> Float[Tensor, "b h w"]:
    """Return one where the distance is zero, falling to zero within a few sigma."""
    return (distance.float().square() / (-2 * sigma**2)).exp()
