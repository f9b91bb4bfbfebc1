"""Cross-entropy plus the difference of Sobel gradients (Seed S4, section 4.1, its baseline; Seed S1, section 7.6.3).

S4 sums over the image; here both terms are divided by the number of valid pixels, which keeps their ratio. It gives
neither the kernels' scale nor their padding: here the entries 1 and 2 are divided by 8, so that a response is the
change per px and both terms have the same order of magnitude, and positions outside the image are treated like ignored
pixels, as zero in prediction and truth.
"""

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, Integer, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segline.config.fields import Range
from segline.losses.masking import count_valid, gather_true_class, log_probabilities, one_hot, valid
from segline.losses.task import Task

KERNEL_SUM = 8.0
"""The sum of the magnitudes of the unscaled kernel."""


class Sobel(nn.Module):
    r"""Cross-entropy plus the L1 distance between the Sobel gradients of probabilities and truth, class by class.

    .. math:: \frac1N \left( - \sum_i \log p_{i y_i}
              + \lambda_1 \sum_k \left( \|S_x * p_k - S_x * g_k\|_1 + \|S_y * p_k - S_y * g_k\|_1 \right) \right)

    Ignored pixels are zero in p and g before the filter, so they add nothing; if all are ignored the loss is zero.

    >>> Sobel(Task(names=("sky", "road")), lambda_1=0.0)(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long())
    tensor(0.6931)
    """

    needs_neighbors: ClassVar[bool] = True

    def __init__(
        self,
        task: Task,
        *,
        lambda_1: Annotated[
            float, Range(0), "weight of the gradient term; S4 tunes 0.5 to 4, under its own scaling"
        ] = 4.0,
    ) -> None:
        super().__init__()
        self.lambda_1 = lambda_1

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        logarithms = log_probabilities(logits)
        edges = self.lambda_1 / KERNEL_SUM * edge_distance(logarithms, target)
        return (edges - gather_true_class(logarithms, target).sum()) / count_valid(target)


def edge_distance(logarithms: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the L1 distance between the unscaled Sobel responses, summed over pixels, classes and directions."""
    distance: Tensor = EdgeDistance.apply(logarithms, target)
    return distance


class EdgeDistance(torch.autograd.Function):
    """The distance and its gradient, computed one image at a time.

    As filter and norm are piecewise linear, the distance is its own gradient times the error in the probabilities. The
    gradient is a whole number between -16 and 16, a byte; autograd would store several planes per class instead.
    """

    @staticmethod
    def forward(ctx: Any, logarithms: Tensor, target: Tensor) -> Tensor:
        """Save the gradient with respect to the probabilities, return the distance."""
        gradients = torch.empty_like(logarithms, dtype=torch.int8)
        total = logarithms.new_zeros(())
        for image, labels, gradient in zip(logarithms, target, gradients, strict=True):
            mask, truth = valid(labels[None]), one_hot(labels[None], len(image))[0]
            error = image.exp().mul_(mask).sub_(truth.view(torch.int8))
            torch.mul(l1_gradient(error), mask, out=gradient)
            total += error.mul_(gradient).sum()
        ctx.save_for_backward(logarithms, gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """Multiply the saved gradient by the probability, which gives that with respect to the logarithms."""
        logarithms, gradients = ctx.saved_tensors
        return logarithms.exp().mul_(gradients).mul_(upstream), None


def l1_gradient(planes: Float[Tensor, "k h w"]) -> Int8[Tensor, "k h w"]:
    """Return the gradient of the sum of both Sobel responses' magnitudes."""
    down, right = (sobel(planes, axis).sign_().to(torch.int8) for axis in (1, 2))
    # A Sobel kernel rotated by 180 degrees is its negative, so the transposed filter is too.
    return (sobel(down, 1) + sobel(right, 2)).neg_()


def sobel(planes: Shaped[Tensor, "k h w"], axis: int) -> Shaped[Tensor, "k h w"]:
    """Return the unscaled Sobel response along one axis, with zeros outside the image.

    >>> sobel(torch.tensor([[[0.0, 0, 1], [0, 0, 1], [0, 0, 1]]]), 2)
    tensor([[[0., 3., 0.],
             [0., 4., 0.],
             [0., 3., 0.]]])
    """
    padded, across = F.pad(planes, (1, 1, 1, 1)), 3 - axis
    before, here, after = (padded.narrow(across, start, planes.shape[across]) for start in range(3))
    smooth = (before + after).add_(here, alpha=2)
    return smooth.narrow(axis, 2, planes.shape[axis]) - smooth.narrow(axis, 0, planes.shape[axis])
