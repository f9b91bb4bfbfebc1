"""WAD: the CVPR 2018 Workshop on Autonomous Driving segmentation data (Seed S0, section 3).

``train_color/<name>.jpg`` goes with ``train_label/<name>_instanceIds.png``, 16 bit, class * 1000 + instance;
a group of objects that were not separated has the bare id (161 to 168), and 0 and 255 are background.
``train_video_list/*.txt`` names the frames of each drive; without these lists the date and camera in the file
name (``170908_061502408_Camera_5``) identify the drive.
"""

from pathlib import PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from segline.classes import LabelClass
from segline.data.layouts.layout import LabelSpec, Layout, Pair, build_lut, by_name, match, read_lines, under
from segline.errors import DataError
from segline.files.trees import Tree

CLASSES = (
    LabelClass("background", (0, 0, 0)),
    LabelClass("car", (0, 114, 178)),
    LabelClass("motorbicycle", (230, 159, 0)),
    LabelClass("bicycle", (240, 228, 66)),
    LabelClass("person", (213, 94, 0)),
    LabelClass("truck", (0, 158, 115)),
    LabelClass("bus", (204, 121, 167)),
    LabelClass("tricycle", (86, 180, 233)),
)
# The ids in the data set. A group (id + 128) is a crowd of objects that were not separated.
MOVABLE = {33: 1, 34: 2, 35: 3, 36: 4, 37: 4, 38: 5, 39: 6, 40: 7}
GROUPS = {value + 128: class_id for value, class_id in MOVABLE.items()}
# The ids of immovable things, which S0 (section 5.7) found merged into the background.
UNMOVABLE = (0, 1, 17, 49, 50, 65, 66, 67, 81, 82, 83, 84, 85, 86, 97, 98, 99, 100, 113)
LABEL_SUFFIX = "_instanceIds.png"


def wad() -> Layout:
    """Return the layout of the WAD 2018 segmentation data."""
    return Layout(find=find_pairs, label_spec=lambda _: LabelSpec(CLASSES, 0, _lut()))


def find_pairs(tree: Tree) -> list[Pair]:
    """Pair ``train_color`` with ``train_label`` by name."""
    images = under(tree, "train_color/", ".jpg")
    labels = under(tree, "train_label/", LABEL_SUFFIX.lower())
    if not images:
        raise DataError(f"{tree.where}: no train_color/*.jpg; expected the wad layout (train_color/, train_label/)")
    drives = _drives(tree)
    return match(
        by_name(tree, images, lambda path: path.stem),
        by_name(tree, labels, lambda path: path.name[: -len(LABEL_SUFFIX)]),
        lambda name: (drives.get(name, _drive_in_name(name)), ""),
    )


def _drives(tree: Tree) -> dict[str, str]:
    """Return the drive of each frame name, from the lists; their paths may have either slash."""
    lists = [path for path in tree.files if path.startswith("train_video_list/") and path.endswith(".txt")]
    return {
        PureWindowsPath(line.split()[-1]).name.removesuffix(LABEL_SUFFIX): PureWindowsPath(path).stem.removesuffix(
            "_image_list_train"
        )
        for path in lists
        for line in read_lines(tree, path)
    }


def _drive_in_name(key: str) -> str:
    date, _, camera = key.partition("_Camera_")
    return f"{date.partition('_')[0]}_{camera}"


def _lut() -> NDArray[np.uint8]:
    """Return the table of class * 1000 + instance, and of the bare class ids of groups and the background."""
    class_of = dict.fromkeys(UNMOVABLE, 0) | MOVABLE | GROUPS | {255: 0}
    separate = [(raw, class_of[raw // 1000]) for raw in range(1000, 65536) if raw // 1000 in class_of]
    return build_lut([*class_of.items(), *separate])
