"""Loss max-pooling (Rota Bulò et al. 2017, "Loss max-pooling for semantic image segmentation").

The pixels of the batch that count are one pool. The optimal weights are found here from the optimality conditions
with a partial sort and a few passes; the authors sort all losses.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range
from segline.losses.masking import count, pixel_cross_entropy
from segline.losses.task import Task


class LossMaxPooling(nn.Module):
    r"""The greatest weighted sum of the pixels' cross-entropies that bounded weights can make.

    .. math:: \max_w \sum_i w_i l_i \quad \text{with} \quad \|w\|_p \le n^{-1/q}, \;
              \|w\|_\infty \le n^{-1/q} m^{-1/p}, \; \frac1p + \frac1q = 1

    n pixels count, and at least m of them share the weight; uniform weights 1/n are allowed too, so the loss is never
    below cross-entropy. p = 1 is the mean of the m greatest losses; with a greater p the weights come closer to
    uniform. The weights take part in no gradient: at the maximum their change does not change the sum. Ignored
    pixels add nothing; if all are ignored the loss is zero.

    >>> logits = torch.tensor([[[[9.0, 0.0]], [[0.0, 0.0]]]])
    >>> LossMaxPooling(Task(names=("sky", "road")), p=1.0, share=0.5)(logits, torch.zeros(1, 1, 2, dtype=torch.long))
    tensor(0.6931)
    """

    def __init__(
        self,
        task: Task,
        *,
        p: Annotated[float, Range(1, 10), "norm that bounds the weights; 1 is the mean of the worst pixels"] = 1.7,
        share: Annotated[float, Range(1e-6, 1), "least share of the pixels that carry weight"] = 0.3,
    ) -> None:
        super().__init__()
        self.p = p
        self.share = share

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        losses, pixels = pixel_cross_entropy(logits, target).flatten(), int(count(target))
        supporting = max(1, round(self.share * pixels))
        worst = losses.topk(supporting, sorted=False).values
        if self.p == 1:
            return worst.mean()
        weights = best_weights(losses.detach(), worst.detach().amin(), self.p, pixels, supporting)
        return (weights * losses).sum()


def best_weights(
    losses: Float[Tensor, " n"], least: Float[Tensor, ""], p: float, pixels: int, supporting: int
) -> Float[Tensor, " n"]:
    r"""The weights of the maximum; ``least`` is the smallest of the ``supporting`` greatest losses.

    They are :math:`\tau \min(1, (l_i / \theta)^{1 / (p - 1)})`, where the threshold solves
    :math:`\sum_i \min(1, (l_i / \theta)^q) = m`. In :math:`\theta^{-q}` the sum is concave and made of straight
    pieces, so that Newton's steps from below reach the solution and stop there. Powers are kept as logarithms: q is
    great where p is close to 1.
    """
    q = p / (p - 1)
    powers = q * losses.clamp(min=torch.finfo(losses.dtype).tiny).log()
    threshold, known = powers.masked_fill(losses > least, -math.inf).logsumexp(0), -1
    full = powers >= threshold
    while known < (now := int(full.sum())) < supporting:
        threshold, known = powers.masked_fill(full, -math.inf).logsumexp(0) - math.log(supporting - now), now
        full = powers >= threshold
    tau: float = pixels ** (-1 / q) * supporting ** (-1 / p)
    weights: Tensor = tau * ((powers - threshold).clamp(max=0) / p).exp()
    return weights
