"""``LOSSES``: the losses by name. A new one is a file here and a line in the table.

A loss is built as ``LOSSES[name](background, **options)``, with the id of the background class or None, and maps
logits (b, k, h, w) and class ids (b, h, w) to a scalar. Its keyword-only parameters are its options in
``params.yaml``, where a grid cell may be a weighted sum of several.
"""

from collections.abc import Sequence

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.losses.bounding_box import BoundingBox
from segline.losses.class_weight_schedule import ClassWeightSchedule
from segline.losses.cross_entropy import CrossEntropy
from segline.losses.dice import Dice

LOSSES: dict[str, type[nn.Module]] = {
    "bounding_box": BoundingBox,
    "class_weight_schedule": ClassWeightSchedule,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
}


class WeightedSum(nn.Module):
    """A sum of losses, each with its weight."""

    def __init__(self, terms: Sequence[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.losses = nn.ModuleList(loss for _, loss in terms)

    def forward(self, logits: Float[Tensor, "b k h w"], target: Integer[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """The loss of a batch."""
        parts = (weight * loss(logits, target) for weight, loss in zip(self.weights, self.losses, strict=True))
        return sum(parts, start=logits.new_zeros((), dtype=logits.dtype).float())
