"""The section ``evaluate``: what is shown of each candidate."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from segline.config.fields import Fraction, Range, Unit


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The limits above which an object that the best candidate on validation predicts is listed as a missing label."""

    min_confidence: Annotated[float, Fraction, "the lowest mean probability of an object"] = 0.8
    min_pixels: Annotated[int, Range(1), Unit("px"), "the smallest area of an object, in pixels"] = 100
    border: Annotated[int, Range(0, 1000), Unit("px"), "the distance by which the border of a label may be inexact"] = 3
    max_labelled_share: Annotated[float, Fraction, "the largest share of an object that may be labelled already"] = 0.5
    pictures: Annotated[int, Range(0, 1000), "the number of pictures, of the objects with the highest confidence"] = 12


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The predictions on validation and test images, and what is drawn of them."""

    on: Annotated[
        Literal["frames", "crops"],
        "what candidates, ensemble and champion are judged on: whole frames, or crops cut as those of training",
    ] = "frames"
    batch_size: Annotated[int, Range(1, 4096), "the number of images in a forward pass"] = 16
    max_pixels: Annotated[
        int, Range(2**14), Unit("px"), "the most pixels of a forward pass; a larger image is predicted by tiles"
    ] = 2_000_000
    pictures: Annotated[int, Range(0, 1000), "the number of overlay pictures for each candidate"] = 4
    audit: Audit = field(default_factory=Audit)
