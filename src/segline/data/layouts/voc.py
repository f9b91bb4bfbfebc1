"""PASCAL VOC: ``JPEGImages``, ``SegmentationClass`` and the lists in ``ImageSets/Segmentation``.

Labels are palette images: 0 is the background, 255 are the void borders of objects, which are ignored. Each photograph
shows another scene, so it is a group of its own. Names on the test list are used if their labels exist; the labels of
VOC 2012 are not public.

With ``augmented``, the training set is the larger set of Hariharan et al. ("Semantic contours from inverse detectors",
ICCV 2011), whose labels are in ``SegmentationClassAug``: the names on ``train_aug.txt`` or, without that list, every
label that ``val.txt`` does not name. Validation keeps its list and its labels and is never used for training.
"""

from pathlib import PurePosixPath
from typing import Annotated

from segline.classes import IGNORED, LabelClass
from segline.data.layouts.layout import (
    LabelSpec,
    Layout,
    Pair,
    build_lut,
    by_name,
    from_lists,
    prefix_of,
    read_lines,
    under,
)
from segline.errors import DataError
from segline.files.trees import Tree

CLASSES = (
    LabelClass("background", (0, 0, 0)),
    LabelClass("aeroplane", (128, 0, 0)),
    LabelClass("bicycle", (0, 128, 0)),
    LabelClass("bird", (128, 128, 0)),
    LabelClass("boat", (0, 0, 128)),
    LabelClass("bottle", (128, 0, 128)),
    LabelClass("bus", (0, 128, 128)),
    LabelClass("car", (128, 128, 128)),
    LabelClass("cat", (64, 0, 0)),
    LabelClass("chair", (192, 0, 0)),
    LabelClass("cow", (64, 128, 0)),
    LabelClass("diningtable", (192, 128, 0)),
    LabelClass("dog", (64, 0, 128)),
    LabelClass("horse", (192, 0, 128)),
    LabelClass("motorbike", (64, 128, 128)),
    LabelClass("person", (192, 128, 128)),
    LabelClass("pottedplant", (0, 64, 0)),
    LabelClass("sheep", (128, 64, 0)),
    LabelClass("sofa", (0, 192, 0)),
    LabelClass("train", (128, 192, 0)),
    LabelClass("tvmonitor", (0, 64, 128)),
)
LISTS = "ImageSets/Segmentation/"


def voc(*, augmented: Annotated[bool, "train on the labels in SegmentationClassAug too"] = False) -> Layout:
    """Return the layout of PASCAL VOC."""
    lut = build_lut([*((index, index) for index in range(len(CLASSES))), (255, IGNORED)])
    return Layout(find=lambda tree: find_pairs(tree, augmented), label_spec=lambda _: LabelSpec(CLASSES, 0, lut))


def find_pairs(tree: Tree, augmented: bool) -> list[Pair]:
    """Return the pairs on the lists; the official split is kept."""
    root = prefix_of(tree, LISTS, f"the voc layout (JPEGImages, SegmentationClass, {LISTS}train.txt)")
    images = by_name(tree, under(tree, f"{root}JPEGImages/", ".jpg"), _stem)
    labels = by_name(tree, under(tree, f"{root}SegmentationClass/", ".png"), _stem)
    lists = {split: _names(tree, f"{root}{LISTS}{split}.txt") for split in ("train", "val", "test")}
    if augmented:
        more = by_name(tree, under(tree, f"{root}SegmentationClassAug/", ".png"), _stem)
        if not more:
            raise DataError(f"{tree.where}: no {root}SegmentationClassAug/*.png; add them or set `augmented: false`")
        kept = {name for split in ("val", "test") for name in lists[split]}
        names = _names(tree, f"{root}{LISTS}train_aug.txt") or sorted(more)
        lists["train"] = [name for name in names if name not in kept]
        labels = more | {name: path for name, path in labels.items() if name in kept}
    lists["test"] = [name for name in lists["test"] if name in labels]
    if not any(lists.values()):
        raise DataError(f"{tree.where}: no names in {root}{LISTS}train.txt or val.txt; expected the names of VOC")
    return from_lists(tree, lists, images, labels, lambda name: name)


def _names(tree: Tree, path: str) -> list[str]:
    """Return the names on a list, if it exists; lists of the augmented set have paths: ``/JPEGImages/<name>.jpg``."""
    lines = read_lines(tree, path) if path in tree.files else []
    return [PurePosixPath(line.split()[0]).stem if "/" in line else line.strip() for line in lines]


def _stem(path: PurePosixPath) -> str:
    return path.stem
