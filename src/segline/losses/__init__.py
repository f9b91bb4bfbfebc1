"""The losses by name, in ``LOSSES``. A new one takes a file here and a line in the table.

A loss is built as ``LOSSES[name](task, **options)``, with a :class:`~segline.losses.task.Task`, and maps logits
(b, k, h, w) and class ids (b, h, w) to a scalar, in double precision for logits in double and else in single precision.
Its keyword-only parameters are its options in ``params.yaml``, where a trial's loss may be a weighted sum of several. A
loss that needs distance maps of the label stage names them in ``distances`` and takes them as further arguments:

- ``border`` (b, 1, h, w): px from the pixel's centre to the nearest contour between two classes; 1000 without one.
- ``touching`` (b, 1, h, w): sum of the px to the nearest and second nearest foreground instance; 1000 if fewer.
- ``signed`` (b, k, h, w): px to the contour of class k, negative inside; 0 for a class that the image lacks.

A loss that compares a pixel with its neighbours, or looks at the whole image, says so as ``needs_neighbors``: it
cannot be trained on the features of single pixels.

A step of the optimizer may consist of several passes, in several processes. Its loss is the mean of theirs, weighted by
what each divides by: the labelled pixels, or what a loss returns as ``denominator(target)``. For a loss that is a mean
this is the loss of one large batch. A loss whose weights follow the classes of the batch has ``counts_classes``, and
takes the labelled pixels of each class in the whole step as ``pixels``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
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
from segline.losses.masking import pixels_by_class, valid
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


@dataclass(frozen=True)
class Part:
    """The counts of a pass, as :meth:`WeightedSum.counts` returns them, and their sum over the step, each (n)."""

    own: Tensor
    step: Tensor


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
        part: Part | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch, or with ``part`` what a pass adds to the loss of its step."""
        shares = self._shares(part) if part else torch.ones(len(self.losses), device=logits.device)
        terms = (
            weight * share.to(value.dtype) * value
            for weight, share, value in zip(
                self.weights, shares, self._values(logits, target, distances, part), strict=True
            )
        )
        return sum(terms, start=logits.new_zeros((), dtype=logits.dtype).float())

    def counts(self, target: Integer[Tensor, "b h w"], classes: int) -> Float[Tensor, " n"]:
        """Return what the terms divide by, and the labelled pixels of each class if a term needs them.

        The counts of the passes of a step add up to those of the step; they are in double precision, which is exact.
        """
        denominators = torch.stack([_denominator(loss, target).double() for loss in self.losses])
        if not any(map(_counts_classes, self.losses)):
            return denominators
        return torch.cat([denominators, pixels_by_class(target, classes).double()])

    def _shares(self, part: Part) -> Tensor:
        own, step = part.own[: len(self.losses)], part.step[: len(self.losses)]
        return own / step.where(step > 0, 1)

    def _values(
        self, logits: Tensor, target: Tensor, distances: Mapping[str, Tensor], part: Part | None
    ) -> Iterator[Tensor]:
        for loss in self.losses:
            counted = {"pixels": part.step[len(self.losses) :].long()} if part and _counts_classes(loss) else {}
            yield loss(logits, target, *(distances[name] for name in required_distances(loss)), **counted)


def _denominator(loss: nn.Module, target: Integer[Tensor, "b h w"]) -> Tensor:
    own = getattr(loss, "denominator", None)
    denominator: Tensor = own(target) if own else valid(target).sum()
    return denominator


def _counts_classes(loss: nn.Module) -> bool:
    return getattr(loss, "counts_classes", False)


def required_distances(loss: nn.Module) -> tuple[str, ...]:
    """Return the names of the distance maps that a loss takes, in the order of its arguments."""
    return getattr(loss, "distances", ())
