"""The section ``validate``: the rules that a pair of image and label map must keep."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from segline.config.fields import Fraction, Range, Unit

Severity = Literal["stop", "quarantine", "warn"]
StopOrQuarantine = Literal["stop", "quarantine"]
StopOrWarn = Literal["stop", "warn"]


@dataclass(frozen=True, kw_only=True)
class RuleSeverities:
    """The consequence of a broken rule: the stage stops, the pair is quarantined, or a warning is reported."""

    image_missing: Annotated[StopOrQuarantine, "a label map has no image"] = "quarantine"
    label_missing: Annotated[StopOrQuarantine, "an image has no label map"] = "quarantine"
    image_unreadable: Annotated[StopOrQuarantine, "an image cannot be decoded to its end"] = "quarantine"
    label_unreadable: Annotated[StopOrQuarantine, "a label map cannot be decoded to its end"] = "quarantine"
    unknown_values: Annotated[StopOrQuarantine, "a label map holds values that the layout does not know"] = "quarantine"
    size_mismatch: Annotated[StopOrQuarantine, "a label map differs in size from its image"] = "quarantine"
    too_small: Annotated[Severity, "an image has a side below min_side"] = "quarantine"
    empty_label: Annotated[Severity, "a label map has no labelled pixel"] = "quarantine"
    rotated: Annotated[Severity, "an image is stored rotated, as its EXIF tag says"] = "quarantine"
    label_conflict: Annotated[Severity, "the same image has different label maps"] = "quarantine"
    duplicate: Annotated[Severity, "an image and its label map occur more than once; all but one are broken pairs"] = (
        "quarantine"
    )
    near_duplicate: Annotated[Severity, "images that look alike are on two sides of a split"] = "warn"
    group_in_splits: Annotated[Severity, "a group is on two sides of the split that the layout gives"] = "warn"
    no_foreground: Annotated[Severity, "a label map has no more foreground than min_foreground_share"] = "warn"
    brightness: Annotated[Severity, "an image is too dark or too bright"] = "warn"
    sharpness: Annotated[Severity, "an image is blurred or empty"] = "warn"
    channels: Annotated[Severity, "an image is not RGB; it is converted"] = "warn"
    bit_depth: Annotated[Severity, "an image has more than 8 bits per channel; the upper 8 are used"] = "warn"
    drift: Annotated[StopOrWarn, "the statistics differ from those of the champion's training data"] = "warn"


@dataclass(frozen=True, kw_only=True)
class Validate:
    """The limits of the rules, and the consequence when one is broken."""

    min_pairs: Annotated[int, Range(1), "the number of good pairs below which the stage stops"] = 10
    max_quarantined_share: Annotated[float, Fraction, "the share of quarantined pairs above which the stage stops"] = (
        0.1
    )
    min_side: Annotated[int, Range(1), Unit("px"), "the smallest height and width of an image"] = 32
    min_foreground_share: Annotated[
        float, Fraction, "the share of the labelled pixels that the foreground must exceed"
    ] = 0.0
    min_brightness: Annotated[float, Range(0, 255), "the lowest mean grey level of an image, from 0 to 255"] = 3.0
    max_brightness: Annotated[float, Range(0, 255), "the highest mean grey level of an image, from 0 to 255"] = 252.0
    min_sharpness: Annotated[
        float,
        Range(0),
        "the lowest variance of the Laplacian of an image scaled to 128 px, in squared grey levels; sharp images have "
        "hundreds",
    ] = 20.0
    duplicate_distance: Annotated[
        int, Range(0, 32), Unit("bits"), "the number of bits, of 64, in which the hashes of similar images may differ"
    ] = 4
    max_drift: Annotated[
        float, Range(0), "the highest population stability index; drift is moderate from 0.1 on and large from 0.2 on"
    ] = 0.2
    severity: RuleSeverities = field(default_factory=RuleSeverities)

    def errors(self) -> Iterator[str]:
        """Yield what is wrong between fields that are each right by themselves."""
        if self.min_brightness > self.max_brightness:
            yield (
                f"validate.min_brightness: got {self.min_brightness:g}, expected no more than "
                f"validate.max_brightness, {self.max_brightness:g}"
            )
