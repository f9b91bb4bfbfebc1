"""The losses by name, in ``LOSSES``. A new one takes a file here and a line in the table.

A loss is built as ``LOSSES[name](task, **options)``, with a :class:`~segline.losses.task.Task`, and maps logits
(b, k, h, w) and class ids (b, h, w) to a scalar, in double precision for logits in double and else in single precision.
Its keyword-only parameters are its options in ``params.yaml``, where a trial's loss may be a weighted sum of several. A
loss that needs distance maps of the label stage names them in ``distances`` and takes them as further arguments:

- ``border`` (b, 1, h, w): px from the pixel's centre to the nearest contour between two classes; 1000 without one.
- ``touching`` (b, 1, h, w): sum of the px to the nearest and second nearest foreground instance; 1000 if fewer.
- ``signed`` (b, k, h, w): px to the contour of class k, negative inside; 0 for a class that the image lacks.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segline.losses.boundary import Boundary
from segline.losses.bounding_box import BoundingBox
from segline.losses.class_weight_schedule import ClassWeightSchedule
from segline.losses.cross_entropy import CrossEntropy
from segline.losses.dice import Dice
from segline.losses.distance_map import DistanceMap
from segline.losses.focal import Focal
from segline.losses.loss_max_pooling import LossMaxPooling
from segline.losses.lovasz_softmax import LovaszSoftmax
from segline.losses.semeda import Semeda
from segline.losses.sobel import Sobel
from segline.losses.touching_border import TouchingBorder

LOSSES: dict[str, type[nn.Module]] = {
    "boundary": Boundary,
    "bounding_box": BoundingBox,
    "class_weight_schedule": ClassWeightSchedule,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "distance_map": DistanceMap,
    "focal": Focal,
    "loss_max_pooling": LossMaxPooling,
    "lovasz_softmax": LovaszSoftmax,
    "semeda": Semeda,
    "sobel": Sobel,
    "touching_border": TouchingBorder,
}

NO_MAPS: Mapping[str, Tensor] = {}


class WeightedSum(nn.Module):
    """A weighted sum of losses."""

    def __init__(self, terms: Sequence[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.losses = nn.ModuleList(loss for _, loss in terms)

    @property
    def distances(self) -> tuple[str, ...]:
        """The names of the distance maps that the terms need, in alphabetical order."""
        return tuple(sorted({name for loss in self.losses for name in required_distances(loss)}))

    def forward(
        self,
        logits: Float[Tensor, "b k h w"],
        target: Integer[Tensor, "b h w"],
        distances: Mapping[str, Tensor] = NO_MAPS,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        terms = (
            weight * loss(logits, target, *(distances[name] for name in required_distances(loss)))
            for weight, loss in zip(self.weights, self.losses, strict=True)
        )
        return sum(terms, start=logits.new_zeros((), dtype=logits.dtype).float())


def required_distances(loss: nn.Module) -> tuple[str, ...]:
    """Return the names of the distance maps that a loss takes, in the order of its arguments."""
    return getattr(loss, "distances", ())
