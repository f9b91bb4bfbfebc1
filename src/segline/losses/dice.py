"""Dice loss (Seed S1, section 7.6.1; Seed S3; squared denominator: Milletari et al. 2016, V-Net)."""

from typing import Annotated

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.fields import Range
from segline.losses.masking import one_hot, valid


class Dice(nn.Module):
    r"""One minus the soft Dice coefficient, averaged over all classes.

    .. math:: 1 - \frac1K \sum_k \frac{2 \sum_i p_{ik} g_{ik} + s}{\sum_i p_{ik} + \sum_i g_{ik} + s}

    The sums run over all pixels of the batch that count. With ``squared`` the denominator holds
    :math:`p^2` and :math:`g^2`. An absent class that is predicted still costs; one that is not predicted
    costs nothing, by the smoothing s. If all pixels are ignored the loss is zero.

    >>> import torch
    >>> target = torch.tensor([[[0, 1]]])
    >>> Dice(None)(torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]]), target) < 1e-6
    tensor(True)
    """

    def __init__(
        self,
        background: int | None,
        *,
        squared: Annotated[bool, "squares in the denominator, as in V-Net"] = False,
        smooth: Annotated[float, Range(1e-6, 1e6), "added to numerator and denominator"] = 1.0,
    ) -> None:
        super().__init__()
        self.squared = squared
        self.smooth = smooth

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        predicted = logits.float().softmax(1) * valid(target).unsqueeze(1)
        truth = one_hot(target, logits.shape[1])
        overlap = (predicted * truth).sum((0, 2, 3))
        size = (predicted.square() if self.squared else predicted).sum((0, 2, 3)) + truth.sum((0, 2, 3))
        return 1 - ((2 * overlap + self.smooth) / (size + self.smooth)).mean()
