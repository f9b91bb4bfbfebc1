"""The section ``label``: how label maps become the truth that a network learns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from segline.config import tables
from segline.config.fields import ClassMaps, Range, Size, Unit, height_and_width, suggestion
from segline.errors import shown

# These classes can be learned in the minutes that the default run takes; the layout's own eight need longer.
STREET_CLASSES = {
    "background": ("background",),
    "vehicle": ("car", "truck", "bus", "tricycle"),
    "two_wheeler": ("motorbicycle", "bicycle"),
    "person": ("person",),
}
SplitShare = Range(0.01, 0.98)
SEVERAL = ("max_foreground", "random", "by_class")
"""The kinds of sampling that give ``crops_per_image`` crops."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The split into training, validation and test, where the layout brings none. Groups stay whole.

    Groups that are named here go to their side wherever the layout or the method would put them.
    """

    method: Annotated[
        Literal["stable", "balanced"],
        "stable splits by a hash, so that a group keeps its side when others are added; balanced makes shares and "
        "classes as even as the groups allow",
    ] = "stable"
    train: Annotated[float, SplitShare, "the share of the pairs for training"] = 0.8
    val: Annotated[float, SplitShare, "the share for choosing epochs and members of the ensemble"] = 0.1
    test: Annotated[float, SplitShare, "the share for the comparison with the champion"] = 0.1
    folds: Annotated[int, Range(0, 100), "k of a k-fold cross-validation, which replaces the shares; 0: none"] = 0
    fold: Annotated[int, Range(0, 99), "the fold for validation, counted from 0; the next fold is for test"] = 0
    val_groups: Annotated[list[str], "the groups for validation, also where the layout brings a split"] = field(
        default_factory=list
    )
    test_groups: Annotated[list[str], "the groups for test, such as a drive that no model may see"] = field(
        default_factory=list
    )

    def errors(self) -> Iterator[str]:
        """Yield what is wrong between fields that are each right by themselves."""
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            yield f"label.split: got shares that add up to {total:g}, expected 1"
        if self.folds in (1, 2) or (self.folds and self.fold >= self.folds):
            yield (
                f"label.split.fold: got fold {self.fold} of {self.folds}, expected no folds or 3 and more, counted "
                "from 0"
            )
        if self.folds and self.val_groups:
            yield "label.split.val_groups: got groups beside label.split.folds, which choose the validation; remove one"
        for name in sorted({*self.val_groups} & {*self.test_groups}):
            yield f"label.split.test_groups: got {shown(name)}, which is in label.split.val_groups as well; remove one"


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The whole frames of validation and test."""

    max_side: Annotated[
        int, Range(0, 32768), Unit("px"), "the longest side of a frame, beyond which it is scaled; 0: no scaling"
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Label:
    """How images and label maps are cut, mapped to classes and split."""

    sampling: Annotated[
        Literal["max_foreground", "tiles", "random", "by_class", "center", "resize"],
        "the training crops of an image: those with the most foreground, all tiles, random ones, those around a random "
        "pixel of a random class, the middle, or the whole frame resized",
    ] = "random"
    crop: Annotated[Size, Range(16, 4096), Unit("px"), "the side of a square crop, or its height and width"] = 160
    crops_per_image: Annotated[
        int, Range(1, 1000), "the number of crops of an image, for max_foreground, random and by_class"
    ] = 1
    tile_overlap: Annotated[int, Range(0, 4095), Unit("px"), "the overlap of neighbouring tiles"] = 0
    frames: Frames = field(default_factory=Frames)
    distances: Annotated[
        list[Literal["border", "signed", "touching"]], "the distance maps that some losses need, see docs/data.md"
    ] = field(default_factory=list)
    class_maps: Annotated[
        ClassMaps,
        "layout -> new class -> the classes of the layout that it joins; all others are ignored. A layout without a "
        "map keeps its own classes",
    ] = field(default_factory=lambda: {"wad": {name: list(classes) for name, classes in STREET_CLASSES.items()}})
    split: Split = field(default_factory=Split)
    shard_size: Annotated[
        int, Range(1, 100_000), "the approximate number of crops in a shard, and the most frames in a pack"
    ] = 256
    workers: Annotated[
        int, Range(1, 10_000), "the number of processes; more than one run on Ray, on this machine or at RAY_ADDRESS"
    ] = 1

    @property
    def crop_size(self) -> tuple[int, int]:
        """The height and width of a crop, in px."""
        return height_and_width(self.crop)

    def errors(self) -> Iterator[str]:
        """Yield what is wrong between fields that are each right by themselves."""
        yield from self.split.errors()
        if self.tile_overlap >= min(self.crop_size):
            yield f"label.tile_overlap: got {self.tile_overlap}, expected less than label.crop"
        for layout, class_map in self.class_maps.items():
            yield from _class_map_errors(layout, class_map)


def _class_map_errors(layout: str, class_map: dict[str, list[str]]) -> Iterator[str]:
    where = f"label.class_maps.{layout}"
    layouts = tables.options("data.layouts")
    if layout not in layouts:
        yield f"{where}: unknown layout {shown(layout)}{suggestion(layout, layouts)}"
        return
    for new_class, classes in class_map.items():
        if not new_class.strip() or not new_class.isprintable():
            yield f"{where}: got the class name {shown(new_class)}, expected text that can be shown in one line"
        if not classes:
            yield f"{where}.{new_class}: got no classes, expected some of the layout's"
    listed = [name for classes in class_map.values() for name in classes]
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        yield f"{where}: names {shown(name)} twice; remove one"
    known = tables.class_names(layout)
    for name in listed if known else ():  # A layout whose classes come with the data is checked when they are read.
        if name not in known:
            yield f"{where}: unknown class {shown(name)}{suggestion(name, known)}"
