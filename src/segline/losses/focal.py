"""Focal loss (Lin et al. 2017, "Focal loss for dense object detection", equation 4), for many classes.

The paper's loss is binary and divides by the number of anchors that are assigned to an object; here it uses the
softmax's probability of the true class and takes the mean over the valid pixels.
"""

from typing import Annotated

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.masking import mean_over_valid, pixel_cross_entropy
from segline.losses.task import Task


class Focal(nn.Module):
    r"""Cross-entropy in which a pixel has less weight the more probable its true class is.

    .. math:: - \frac1N \sum_i (1 - p_{i y_i})^\gamma \log p_{i y_i}

    Ignored pixels add nothing; if all are ignored the loss is zero.

    >>> Focal(Task(names=("sky", "road")))(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    tensor(0.1733)
    """

    def __init__(
        self,
        task: Task,
        *,
        gamma: Annotated[float, Range(0, 100), "focusing exponent; 0 is cross-entropy, Lin et al. find 2 best"] = 2.0,
    ) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        losses = pixel_cross_entropy(logits, target)
        # A power below one has no finite gradient at zero.
        error = -torch.expm1(-losses).clamp(max=-torch.finfo(losses.dtype).tiny)
        return mean_over_valid(error**self.gamma * losses, target)
