"""HELEN as parsed by Smith et al. ("Exemplar-based face parsing", CVPR 2013): ``images/<name>.jpg`` and one folder
of masks per image, ``labels/<name>/<name>_lbl00.png`` to ``_lbl10.png``.

A mask holds the probability of one class, 0 to 255; a pixel has the most probable class, the first of equals. The lists
are the split: ``exemplars.txt`` for training, ``tuning.txt`` for validation and ``testing.txt`` for test, with
``number , name`` on each line. ``<photo>_<n>`` is a face in a photograph; the photograph is the group.
"""

import numpy as np
from numpy.typing import NDArray

from segline.classes import LabelClass
from segline.data.decoding import decode_label
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
    LabelClass("face skin", (240, 228, 66)),
    LabelClass("left eyebrow", (204, 121, 167)),
    LabelClass("right eyebrow", (120, 60, 100)),
    LabelClass("left eye", (0, 114, 178)),
    LabelClass("right eye", (86, 180, 233)),
    LabelClass("nose", (0, 158, 115)),
    LabelClass("upper lip", (213, 94, 0)),
    LabelClass("inner mouth", (255, 255, 255)),
    LabelClass("lower lip", (230, 159, 0)),
    LabelClass("hair", (130, 80, 30)),
)
LISTS = {"exemplars.txt": "train", "tuning.txt": "val", "testing.txt": "test"}
FIRST = "_lbl00.png"


def helen() -> Layout:
    """Return the layout of HELEN for face parsing."""
    lut = build_lut((index, index) for index in range(len(CLASSES)))
    return Layout(
        find=find_pairs,
        label_spec=lambda _: LabelSpec(CLASSES, 0, lut),
        read_label=read_most_probable,
        label_files=label_files,
    )


def find_pairs(tree: Tree) -> list[Pair]:
    """Return the pairs on the lists. A label has the path of its first mask, and is missing when any mask is."""
    root = prefix_of(tree, "labels/", "the helen layout (images/, labels/<name>/<name>_lbl00.png, exemplars.txt)")
    images = by_name(tree, under(tree, f"{root}images/", ".jpg"), lambda path: path.stem)
    masks = [
        path for path in under(tree, f"{root}labels/", FIRST) if all(part in tree.files for part in label_files(path))
    ]
    labels = by_name(tree, masks, lambda path: path.name[: -len(FIRST)])
    lists = {split: _names(tree, f"{root}{name}") for name, split in LISTS.items()}
    if not any(lists.values()):
        raise DataError(f"{tree.where}: no names in {root}{', '.join(LISTS)}; expected the lists of the helen layout")
    return from_lists(tree, lists, images, labels, lambda name: name.rpartition("_")[0] or name)


def label_files(path: str) -> tuple[str, ...]:
    """Return the masks of all classes, given the path of the first one."""
    return tuple(f"{path[: -len('00.png')]}{index:02d}{path[-len('.png') :]}" for index in range(len(CLASSES)))


def read_most_probable(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """Read the most probable class of each pixel; raises OSError."""
    best = decode_label(tree.read(path))
    classes = np.zeros(best.shape, np.uint8)
    for index, part in enumerate(label_files(path)[1:], start=1):
        mask = decode_label(tree.read(part))
        if mask.shape != best.shape:
            raise OSError(f"{part} has {mask.shape} px, the first mask {best.shape}")
        classes[mask > best] = index
        best = np.maximum(mask, best)
    return classes


def _names(tree: Tree, path: str) -> list[str]:
    lines = read_lines(tree, path) if path in tree.files else []
    return [line.rpartition(",")[2].strip() for line in lines]
