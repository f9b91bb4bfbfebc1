"""Boundary loss (Kervadec et al. 2019, "Boundary loss for highly unbalanced segmentation", equation 5; Seed S1, 7.6.3).

The paper's loss is binary; here each class has its own distance map, and the loss is the sum over the classes.
"""

from typing import Annotated, ClassVar

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.losses.masking import mean_over_valid, probabilities
from segline.losses.task import Task


class Boundary(nn.Module):
    r"""The mean over the valid pixels of each class's probability times the signed distance to its contour.

    .. math:: \frac1N \sum_i \sum_k \phi_{ik} \, p_{ik}

    The distance in px is negative inside the class. The loss is meant as a term of a sum, next to dice or
    cross-entropy: alone it sees only distances, is negative at the truth, and gives no gradient to a class that the
    image does not contain. Ignored pixels add nothing; if all are ignored the loss is zero.

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
        foreground_only: Annotated[bool, "leave out the background's map, as the paper does"] = False,
    ) -> None:
        super().__init__()
        self.excluded_class = task.background if foreground_only else None

    def forward(
        self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"], signed: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        moments = probabilities(logits) * signed
        if self.excluded_class is None:
            return mean_over_valid(moments.sum(1), target)
        return mean_over_valid(moments.sum(1) - moments[:, self.excluded_class], target)
