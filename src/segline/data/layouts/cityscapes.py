"""Cityscapes, finely annotated: ``leftImg8bit/<split>/<city>/`` with ``gtFine/<split>/<city>/``.

The classes are the 19 of the benchmark; the other ids, such as that of the ego vehicle, are ignored. The labels of the
test cities are not public (the files in ``gtFine/test`` are empty), so ``test`` is left out, and so is ``train_extra``.
A city is a group: its frames are from the same streets on the same day.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.layouts.layout import LabelSpec, Layout, Pair, build_lut, by_name, match, prefix_of, under
from segline.errors import DataError
from segline.files.trees import Tree

CLASSES = (
    LabelClass("road", (128, 64, 128)),
    LabelClass("sidewalk", (244, 35, 232)),
    LabelClass("building", (70, 70, 70)),
    LabelClass("wall", (102, 102, 156)),
    LabelClass("fence", (190, 153, 153)),
    LabelClass("pole", (153, 153, 153)),
    LabelClass("traffic light", (250, 170, 30)),
    LabelClass("traffic sign", (220, 220, 0)),
    LabelClass("vegetation", (107, 142, 35)),
    LabelClass("terrain", (152, 251, 152)),
    LabelClass("sky", (70, 130, 180)),
    LabelClass("person", (220, 20, 60)),
    LabelClass("rider", (255, 0, 0)),
    LabelClass("car", (0, 0, 142)),
    LabelClass("truck", (0, 0, 70)),
    LabelClass("bus", (0, 60, 100)),
    LabelClass("train", (0, 80, 100)),
    LabelClass("motorcycle", (0, 0, 230)),
    LabelClass("bicycle", (119, 11, 32)),
)
# The ids of these classes in the data set, which has 0 to 33.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LAST_ID = 33
# License plates are -1 in the data set, which is one of these values in a PNG.
NONE = (255, 65535)
IMAGE_ENDING = "_leftImg8bit.png"


def cityscapes(
    *, labels: Annotated[Literal["labelIds", "instanceIds", "labelTrainIds"], "which label maps to read"] = "labelIds"
) -> Layout:
    """Return the layout of Cityscapes."""
    lut = _train_id_lut() if labels == "labelTrainIds" else _id_lut()
    return Layout(find=lambda tree: find_pairs(tree, labels), label_spec=lambda _: LabelSpec(CLASSES, None, lut))


def find_pairs(tree: Tree, labels: str) -> list[Pair]:
    """Pair images with label maps by name; the official split is kept."""
    root = prefix_of(tree, "leftImg8bit/", "the cityscapes layout (leftImg8bit/train/<city>, gtFine/train/<city>)")
    pairs = [pair for split in ("train", "val") for pair in _of_split(tree, root, split, f"_gtFine_{labels}.png")]
    if not any(pair.label for pair in pairs):
        raise DataError(
            f"{tree.where}: no {root}gtFine/train/<city>/*_gtFine_{labels}.png; add them or change `labels`"
        )
    return sorted(pairs, key=lambda pair: pair.key)


def _of_split(tree: Tree, root: str, split: str, ending: str) -> list[Pair]:
    images = under(tree, f"{root}leftImg8bit/{split}/", IMAGE_ENDING.lower())
    labels = under(tree, f"{root}gtFine/{split}/", ending.lower())
    return match(
        by_name(tree, images, lambda path: path.name[: -len(IMAGE_ENDING)]),
        by_name(tree, labels, lambda path: path.name[: -len(ending)]),
        lambda name: (name.split("_")[0], split),
    )


def _train_id_lut() -> NDArray[np.uint8]:
    return build_lut([*((index, index) for index in range(len(CLASSES))), *((value, IGNORED) for value in NONE)])


def _id_lut() -> NDArray[np.uint8]:
    """Return the table of ids and of id * 1000 + instance; objects that were not separated have the bare id."""
    class_of = dict.fromkeys((*range(LAST_ID + 1), *NONE), IGNORED) | {raw: index for index, raw in enumerate(IDS)}
    instances = ((raw, class_of[raw // 1000]) for raw in range(1000, (LAST_ID + 1) * 1000))
    return build_lut([*class_of.items(), *instances])
