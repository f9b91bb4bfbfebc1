"""U-Net's weights where objects touch (Seed S1, section 7.3.4; Ronneberger et al. 2015).

It follows equation 2 of the paper, which takes its class weights from the training set; here they follow the batch.
"""

from typing import Annotated, ClassVar

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.config.fields import Range, Unit
from segline.losses.class_weight_schedule import balance
from segline.losses.distance_map import gaussian
from segline.losses.masking import mean_over_valid, pixel_cross_entropy
from segline.losses.task import Task


class TouchingBorder(nn.Module):
    r"""Cross-entropy that gives rare classes more weight, and pixels between two close instances the most.

    .. math:: - \frac1N \sum_i \left( W_{y_i} + w_0 \, e^{-(d_{1i} + d_{2i})^2 / (2 \sigma^2)} \right) \log p_{i y_i}

    d1 and d2 are the distances in px to the nearest and the second nearest instance, zero to the one that contains the
    pixel; the label stage computes their sum. :math:`W_k = N / (K N_k)` balances the K classes of the batch. Ignored
    pixels add nothing; if all are ignored the loss is zero.

    >>> import torch
    >>> logits, target, far = torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long(), torch.full((1, 1, 1, 1), 1000.0)
    >>> TouchingBorder(Task(names=("sky", "road")))(logits, target, far)
    tensor(0.6931)
    """

    distances: ClassVar[tuple[str, ...]] = ("touching",)
    counts_classes: ClassVar[bool] = True

    def __init__(
        self,
        task: Task,
        *,
        w0: Annotated[float, Range(0), "extra weight where two instances touch"] = 10.0,
        sigma: Annotated[
            float, Range(0.1), Unit("px"), "gap between two instances at which the extra weight has fallen to 0.6"
        ] = 5.0,
    ) -> None:
        super().__init__()
        self.w0 = w0
        self.sigma = sigma

    def forward(
        self,
        logits: Float[Tensor, "b k h w"],
        target: Integer[Tensor, "b h w"],
        touching: Float[Tensor, "b 1 h w"],
        pixels: Integer[Tensor, " k"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch; ``pixels`` are those of each class in the whole step, if it has more passes."""
        weights = balance(target, logits.shape[1], pixels) + self.w0 * gaussian(touching.squeeze(1), self.sigma)
        return mean_over_valid(weights * pixel_cross_entropy(logits, target), target)
