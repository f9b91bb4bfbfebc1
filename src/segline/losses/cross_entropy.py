"""Pixel-wise cross-entropy (Seed S0, section 4.1), with optional fixed class weights.

S0 weights classes only by batch (``class_weight_schedule``) and does not mention fixed weights; the weighted mean here
equals that of ``torch.nn.CrossEntropyLoss``. Weights by the inverse root of a class's share lie between none and those
by the inverse share (Eigen and Fergus 2015), with which a rare class outweighs all others.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor, nn

from segline.config.fields import suggestion
from segline.errors import TrainingError
from segline.losses.class_weight_schedule import gather_weights
from segline.losses.masking import mean_over_valid, pixel_cross_entropy, valid
from segline.losses.task import Task


class CrossEntropy(nn.Module):
    r"""The mean over the valid pixels of :math:`-\log S(f)_y`, with the softmax S of S0, section 4.1.

    .. math:: \frac{- \sum_i w_{y_i} \log S(f_i)_{y_i}}{\sum_i w_{y_i}}

    Ignored pixels add nothing; if all are ignored the loss is zero.

    >>> CrossEntropy(Task(names=("sky", "road")))(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    tensor(0.6931)
    """

    weights: Tensor

    def __init__(
        self,
        task: Task,
        *,
        class_weights: Annotated[
            dict[str, float], "weights by class name, at least 0; 1 for a class that is not named"
        ] = {},  # noqa: B006 - it is only read
        balance: Annotated[
            Literal["none", "root_inverse"],
            "root_inverse: weights by the inverse root of each class's pixels in the training split, with the mean 1, "
            "times class_weights",
        ] = "none",
    ) -> None:
        super().__init__()
        self.weighted = bool(class_weights) or balance != "none"
        weights = torch.tensor(_by_class(class_weights, task.names))
        if balance == "root_inverse":
            if not any(task.pixels):
                raise TrainingError("cross_entropy.balance: the training split has no labelled pixel; set it to none")
            weights = weights * root_inverse(torch.tensor(task.pixels, dtype=torch.float64)).float()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        losses = pixel_cross_entropy(logits, target)
        if not self.weighted:
            return mean_over_valid(losses, target)
        weights = gather_weights(self.weights.to(losses), target) * valid(target)
        total = weights.sum()
        return (weights * losses).sum() / total.where(total > 0, 1)

    def denominator(self, target: Integer[Tensor, "b h w"]) -> Tensor:
        """Return what the sum over the pixels is divided by: the sum of the valid pixels' weights."""
        return (gather_weights(self.weights.double(), target) * valid(target)).sum()


def root_inverse(pixels: Float64[Tensor, " k"]) -> Float64[Tensor, " k"]:
    """Return a weight for each class, proportional to the inverse root of its pixels, with the mean 1.

    A class without pixels, which has no share in training, has the largest weight of the others.
    """
    roots = torch.where(pixels > 0, pixels, 1).rsqrt()
    present = pixels > 0
    weights = torch.where(present, roots, roots[present].max())
    return weights / weights[present].mean()


def _by_class(weights: dict[str, float], names: tuple[str, ...]) -> list[float]:
    """Return the weight of every class in the order of the ids."""
    for name, weight in weights.items():
        if name not in names:
            raise TrainingError(f"cross_entropy: class_weights has the unknown class {name!r}{suggestion(name, names)}")
        if weight < 0:
            raise TrainingError(f"cross_entropy: class_weights gives {name!r} {weight}, expected at least 0")
    return [float(weights.get(name, 1)) for name in names]
