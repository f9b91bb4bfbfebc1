"""Cross-entropy plus the difference of Sobel gradients (Seed S4, section 4.1, its baseline; Seed S1, section 7.6.3).

S4 sums over the image; here both terms are divided by the number of pixels that count, which keeps their ratio. It
gives neither the kernels' scale nor their padding: here the entries 1 and 2 are divided by 8, so that a response is the
slope per px and both terms are of one order, and what lies outside the image is treated like an ignored pixel, as zero
in prediction and truth.
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, Integer, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segline.config.fields import Range
from segline.losses.masking import count, gather_true_class, log_probabilities, one_hot, valid
from segline.losses.task import Task

KERNEL_SIZE = 8.0
"""What the plain kernel's magnitudes add up to."""


class Sobel(nn.Module):
    r"""Cross-entropy plus the L1 distance between the Sobel gradients of probabilities and truth, class by class.

    .. math:: \frac1N \left( - \sum_i \log p_{i y_i}
              + \lambda_1 \sum_k \left( \|S_x * p_k - S_x * g_k\|_1 + \|S_y * p_k - S_y * g_k\|_1 \right) \right)

    Ignored pixels are zero in p and g before the filter, so they add nothing; if all are ignored the loss is zero.

    >>> Sobel(Task(names=("sky", "road")), lambda_1=0.0)(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long())
    tensor(0.6931)
    """

    def __init__(
        self,
        task: Task,
        *,
        lambda_1: Annotated[
            float, Range(0), "weight of the gradients' term; S4 tunes 0.5 to 4, under its own scaling"
        ] = 4.0,
    ) -> None:
        super().__init__()
        self.lambda_1 = lambda_1

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        logarithms = log_probabilities(logits)
        edges = self.lambda_1 / KERNEL_SIZE * edge_distance(logarithms, target)
        return (edges - gather_true_class(logarithms, target).sum()) / count(target)


def edge_distance(logarithms: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """The L1 distance between the plain Sobel responses, summed over pixels, classes and both directions."""
    distance: Tensor = EdgeDistance.apply(logarithms, target)
    return distance


class EdgeDistance(torch.autograd.Function):
    """The distance and its slope, an image at a time.

    As filter and norm are piecewise linear, the distance is its own slope times the error in the probabilities. The
    slope is a whole number between -16 and 16, a byte; autograd would keep several planes per class in its place.
    """

    @staticmethod
    def forward(ctx: Any, logarithms: Tensor, target: Tensor) -> Tensor:
        """Keep the slope in the probabilities, return the distance."""
        slopes = torch.empty_like(logarithms, dtype=torch.int8)
        total = logarithms.new_zeros(())
        for image, labels, slope in zip(logarithms, target, slopes, strict=True):
            mask, truth = valid(labels[None]), one_hot(labels[None], len(image))[0]
            error = image.exp().mul_(mask).sub_(truth.view(torch.int8))
            torch.mul(l1_slope(error), mask, out=slope)
            total += error.mul_(slope).sum()
        ctx.save_for_backward(logarithms, slopes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The slope in the logarithms is that in the probabilities times the probability."""
        logarithms, slopes = ctx.saved_tensors
        return logarithms.exp().mul_(slopes).mul_(gradient), None


def l1_slope(planes: Float[Tensor, "k h w"]) -> Int8[Tensor, "k h w"]:
    """The gradient of the sum of both Sobel responses' magnitudes."""
    down, right = (sobel(planes, along).sign_().to(torch.int8) for along in (1, 2))
    # A Sobel kernel turned by half is its negative, so the transposed filter is too.
    return (sobel(down, 1) + sobel(right, 2)).neg_()


def sobel(planes: Shaped[Tensor, "k h w"], along: int) -> Shaped[Tensor, "k h w"]:
    """The plain Sobel response in the direction of one axis, zeros outside.

    >>> sobel(torch.tensor([[[0.0, 0, 1], [0, 0, 1], [0, 0, 1]]]), 2)
    tensor([[[0., 3., 0.],
             [0., 4., 0.],
             [0., 3., 0.]]])
    """
    padded, across = F.pad(planes, (1, 1, 1, 1)), 3 - along
    before, here, after = (padded.narrow(across, start, planes.shape[across]) for start in range(3))
    smooth = (before + after).add_(here, alpha=2)
    return smooth.narrow(along, 2, planes.shape[along]) - smooth.narrow(along, 0, planes.shape[along])
