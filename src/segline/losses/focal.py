"""Focal loss (Lin et al. 2017, "Focal loss for dense object detection", equation 4), for many classes.

The paper's is binary and divides by the number of anchors assigned to an object; here it is the softmax's probability
of the true class, and the mean over the pixels that count.
"""

from typing import Annotated

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.masking import mean_over_valid, pixel_cross_entropy
from segline.losses.task import Task


class Focal(nn.Module):
    r"""Cross-entropy in which a pixel counts the less the surer its true class is.

    .. math:: - \frac1N \sum_i (1 - p_{i y_i})^\gamma \log p_{i y_i}

    Ignored pixels add nothing; if all are ignored the loss is zero.

    >>> Focal(Task(names=("sky", "road")))(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    tensor(0.1733)
    """

    def __init__(
        self,
        task: Task,
        *,
        gamma: Annotated[float, Range(0, 100), "focusing; 0 is cross-entropy, Lin et al. find 2 best"] = 2.0,
    ) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        losses = pixel_cross_entropy(logits, target)
        # A power below one has no slope at zero.
        wrong = -torch.expm1(-losses).clamp(max=-torch.finfo(losses.dtype).tiny)
        return mean_over_valid(wrong**self.gamma * losses, target)
