"""The Lyft-Udacity challenge: frames of the CARLA simulator, ``<folder>/CameraRGB/`` with ``<folder>/CameraSeg/``.

A label is the red channel, 0 to 12; 0 is the sky and everything without a class of its own. The hood of the ego vehicle
is labelled as a vehicle, as in the data. ``train``, ``val`` and ``test`` in a path are the split; the released folders
(``Train``, or ``dataA`` to ``dataE``) have no split for validation.

The name of a frame begins with a drive (``F61-12``, ``02_00_031``), which may span several folders, or it is a number;
then 100 consecutive numbers count as a drive. Frames close in time look alike, so a drive is a group.
"""

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segline.classes import LabelClass
from segline.data.decoding import decode_image
from segline.data.layouts.layout import LabelSpec, Layout, Pair, build_lut, by_name, flat, match, under
from segline.errors import DataError
from segline.files.trees import Tree

CLASSES = (
    LabelClass("None", (0, 0, 0)),
    LabelClass("Buildings", (70, 70, 70)),
    LabelClass("Fences", (190, 153, 153)),
    LabelClass("Other", (72, 0, 90)),
    LabelClass("Pedestrians", (220, 20, 60)),
    LabelClass("Poles", (153, 153, 153)),
    LabelClass("RoadLines", (157, 234, 50)),
    LabelClass("Roads", (128, 64, 128)),
    LabelClass("Sidewalks", (244, 35, 232)),
    LabelClass("Vegetation", (107, 142, 35)),
    LabelClass("Vehicles", (0, 0, 255)),
    LabelClass("Walls", (102, 102, 156)),
    LabelClass("TrafficSigns", (220, 220, 0)),
)
IMAGES, LABELS = "CameraRGB", "CameraSeg"
FRAMES_IN_A_ROW = 100


def lyft() -> Layout:
    """Return the layout of the Lyft-Udacity challenge."""
    lut = build_lut((index, index) for index in range(len(CLASSES)))
    return Layout(find=find_pairs, label_spec=lambda _: LabelSpec(CLASSES, 0, lut), read_label=read_red)


def find_pairs(tree: Tree) -> list[Pair]:
    """Pair the files of each ``CameraRGB`` with those of the ``CameraSeg`` beside it."""
    files = [path for path in under(tree, "", ".png") if PurePosixPath(path).parent.name in (IMAGES, LABELS)]
    images = [path for path in files if PurePosixPath(path).parent.name == IMAGES]
    if not images or len(images) == len(files):
        raise DataError(f"{tree.where}: no {IMAGES}/*.png with {LABELS}/*.png; expected the lyft layout")
    labels = [path for path in files if PurePosixPath(path).parent.name == LABELS]
    return flat(match(by_name(tree, images, _name), by_name(tree, labels, _name), _describe))


def read_red(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """Read the red channel of a label file; raises OSError."""
    return decode_image(tree.read(path))[..., 0]


def _name(path: PurePosixPath) -> str:
    """Return the path without the camera's folder and the suffix."""
    return str(path.parent.parent / path.stem)


def _describe(name: str) -> tuple[str, str]:
    """Return the drive and the split."""
    *folders, stem = name.lower().split("/")
    split = next((part for part in folders if part in ("train", "val", "test")), "")
    if stem.isdecimal():
        return f"{split} frames {int(stem) // FRAMES_IN_A_ROW * FRAMES_IN_A_ROW} on".lstrip(), split
    return stem.rstrip("0123456789").rstrip("-_") or stem, split
