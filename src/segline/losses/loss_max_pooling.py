"""Loss max-pooling (Rota Bulò et al. 2017, "Loss max-pooling for semantic image segmentation").

The valid pixels of the batch form one pool. Here the optimal weights follow from the optimality conditions with a
partial sort and a few passes; the authors sort all losses.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.masking import count_valid, pixel_cross_entropy
from segline.losses.task import Task


class LossMaxPooling(nn.Module):
    r"""The maximum of the weighted sum of the pixels' cross-entropies over bounded weights.

    .. math:: \max_w \sum_i w_i l_i \quad \text{with} \quad \|w\|_p \le n^{-1/q}, \;
              \|w\|_\infty \le n^{-1/q} m^{-1/p}, \; \frac1p + \frac1q = 1

    n pixels are valid, and at least m of them share the weight; uniform weights 1/n are allowed too, so the loss is
    never below cross-entropy. p = 1 is the mean of the m largest losses; a larger p brings the weights closer to
    uniform. The weights need no gradient: at the maximum a change in them does not change the sum. Ignored pixels add
    nothing; if all are ignored the loss is zero.

    Where a step has several passes or workers, each has a pool of its own, and the loss of the step is the mean of
    theirs weighted by their valid pixels: not that of the whole batch.

    >>> logits = torch.tensor([[[[9.0, 0.0]], [[0.0, 0.0]]]])
    >>> LossMaxPooling(Task(names=("sky", "road")), p=1.0, share=0.5)(logits, torch.zeros(1, 1, 2, dtype=torch.long))
    tensor(0.6931)
    """

    def __init__(
        self,
        task: Task,
        *,
        p: Annotated[float, Range(1, 10), "norm that bounds the weights; 1 is the mean of the worst pixels"] = 1.7,
        share: Annotated[float, Range(1e-6, 1), "smallest share of the pixels that carry weight"] = 0.3,
    ) -> None:
        super().__init__()
        self.p = p
        self.share = share

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        losses, pixels = pixel_cross_entropy(logits, target).flatten(), int(count_valid(target))
        supporting = max(1, round(self.share * pixels))
        worst = losses.topk(supporting, sorted=False).values
        if self.p == 1:
            return worst.mean()
        weights = optimal_weights(losses.detach(), worst.detach().amin(), self.p, pixels, supporting)
        return (weights * losses).sum()


def optimal_weights(
    losses: Float[Tensor, " n"], smallest: Float[Tensor, ""], p: float, pixels: int, supporting: int
) -> Float[Tensor, " n"]:
    r"""Return the weights of the maximum; ``smallest`` is the smallest of the ``supporting`` largest losses.

    They are :math:`\tau \min(1, (l_i / \theta)^{1 / (p - 1)})`, where the threshold solves
    :math:`\sum_i \min(1, (l_i / \theta)^q) = m`. The sum is concave and piecewise linear in :math:`\theta^{-q}`, so
    Newton's steps from below reach the solution and stop there. Powers are kept as logarithms, since q is large where p
    is close to 1.
    """
    q = p / (p - 1)
    powers = q * losses.clamp(min=torch.finfo(losses.dtype).tiny).log()
    threshold, previous = powers.masked_fill(losses > smallest, -math.inf).logsumexp(0), -1
    at_bound = powers >= threshold
    while previous < (current := int(at_bound.sum())) < supporting:
        rest = powers.masked_fill(at_bound, -math.inf).logsumexp(0)
        threshold, previous = rest - math.log(supporting - current), current
        at_bound = powers >= threshold
    tau: float = pixels ** (-1 / q) * supporting ** (-1 / p)
    weights: Tensor = tau * ((powers - threshold).clamp(max=0) / p).exp()
    return weights
