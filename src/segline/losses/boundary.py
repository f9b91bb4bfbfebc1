"""Boundary loss (Kervadec et al. 2019, "Boundary loss for highly unbalanced segmentation", equation 5; Seed S1, 7.6.3).

The paper's is binary; here each class has its map, and the loss is the sum over the classes.
"""

from typing import Annotated, ClassVar

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.losses.masking import mean_over_valid, probabilities
from segline.losses.task import Task


class Boundary(nn.Module):
    r"""The mean over the pixels that count of each class's probability times the signed distance to its contour.

    .. math:: \frac1N \sum_i \sum_k \phi_{ik} \, p_{ik}

    The distance in px is negative inside the class. Meant as a term of a sum, next to dice or cross-entropy: alone
    it sees only distances, is below zero at the truth, and has no pull on a class that the image does not hold.
    Ignored pixels add nothing; if all are ignored the loss is zero.

    >>> import torch
    >>> logits, signed = torch.zeros(1, 2, 1, 2), torch.tensor([[[[-0.5, 0.5]], [[0.5, -0.5]]]])
    >>> Boundary(Task(names=("sky", "road")))(logits, torch.tensor([[[0, 1]]]), signed)
    tensor(0.)
    """

    distances: ClassVar[tuple[str, ...]] = ("signed",)

    def __init__(
        self,
        task: Task,
        *,
        foreground_only: Annotated[bool, "leave the background's map out, as the paper does"] = False,
    ) -> None:
        super().__init__()
        self.left_out = task.background if foreground_only else None

    def forward(
        self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"], signed: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch."""
        moments = probabilities(logits) * signed
        if self.left_out is None:
            return mean_over_valid(moments.sum(1), target)
        return mean_over_valid(moments.sum(1) - moments[:, self.left_out], target)
