"""Dice loss (Seed S1, section 7.6.1; Seed S3; squared denominator: Milletari et al. 2016, V-Net)."""

from typing import Annotated

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.masking import gather_true_class, pixels_by_class, probabilities, valid
from segline.losses.task import Task


class Dice(nn.Module):
    r"""One minus the soft Dice coefficient, averaged over all classes.

    .. math:: 1 - \frac1K \sum_k \frac{2 \sum_i p_{ik} g_{ik} + s}{\sum_i p_{ik} + \sum_i g_{ik} + s}

    The sums run over all valid pixels of the batch. With ``squared`` the denominator has :math:`p^2` and :math:`g^2`.
    An absent class adds to the loss where it is predicted, and nothing where it is not, due to the smoothing s. If all
    pixels are ignored the loss is zero.

    Where a step has several passes or workers, the sums run over the pixels of each, and the loss of the step is the
    mean of theirs weighted by their valid pixels: not that of the whole batch.

    >>> import torch
    >>> target = torch.tensor([[[0, 1]]])
    >>> Dice(Task(names=("sky", "road")))(torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]]), target) < 1e-6
    tensor(True)
    """

    def __init__(
        self,
        task: Task,
        *,
        squared: Annotated[bool, "square the terms of the denominator, as in V-Net"] = False,
        smooth: Annotated[float, Range(1e-6, 1e6), "smoothing that is added to numerator and denominator"] = 1.0,
    ) -> None:
        super().__init__()
        self.squared = squared
        self.smooth = smooth

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        predicted, classes = probabilities(logits), logits.shape[1]
        overlap = sum_by_class(gather_true_class(predicted, target), target, classes)
        mass = (predicted.square() if self.squared else predicted) * valid(target).unsqueeze(1)
        size = mass.sum((0, 2, 3)) + pixels_by_class(target, classes)
        return 1 - ((2 * overlap + self.smooth) / (size + self.smooth)).mean()


def sum_by_class(values: Float[Tensor, "b h w"], target: Integer[Tensor, "b h w"], classes: int) -> Float[Tensor, " k"]:
    """Return the sum of pixel values over the pixels of each class; an ignored pixel must be zero.

    The values are summed row by row first: one running sum over a whole batch in single precision would lose digits.
    """
    rows = values.new_zeros(*values.shape[:2], classes)
    return rows.scatter_add(2, target.long().clamp(max=classes - 1), values).sum((0, 1))
