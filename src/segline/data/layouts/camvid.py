"""CamVid as SegNet released it: ``train/`` with ``trainannot/``, lists ``train.txt``, ``val.txt``, ``test.txt``.

A list has ``image label`` on each line, relative to the folder or (as in SegNet's own) under ``/SegNet/CamVid``.
Labels are 0 to 10; 11 is void and ignored. The file name begins with the drive (``0001TP_006690``).
"""

from pathlib import PurePosixPath

from segline.classes import IGNORED, LabelClass
from segline.data.layouts.layout import LabelSpec, Layout, Pair, build_lut, read_lines
from segline.errors import DataError
from segline.files.trees import Tree

CLASSES = (
    LabelClass("sky", (128, 128, 128)),
    LabelClass("building", (128, 0, 0)),
    LabelClass("pole", (192, 192, 128)),
    LabelClass("road", (128, 64, 128)),
    LabelClass("pavement", (60, 40, 222)),
    LabelClass("tree", (128, 128, 0)),
    LabelClass("sign_symbol", (192, 128, 128)),
    LabelClass("fence", (64, 64, 128)),
    LabelClass("car", (64, 0, 128)),
    LabelClass("pedestrian", (64, 64, 0)),
    LabelClass("bicyclist", (0, 128, 192)),
)
VOID = 11


def camvid() -> Layout:
    """Return the layout of SegNet's CamVid."""
    lut = build_lut([*((value, value) for value in range(VOID)), (VOID, IGNORED)])
    return Layout(find=find_pairs, label_spec=lambda _: LabelSpec(CLASSES, None, lut))


def find_pairs(tree: Tree) -> list[Pair]:
    """Return the pairs on the lists; the official split is kept."""
    listed = [split for split in ("train", "val", "test") if f"{split}.txt" in tree.files]
    if not listed:
        raise DataError(
            f"{tree.where}: no train.txt, val.txt or test.txt; expected the camvid layout as SegNet released it"
        )
    pairs = [_pair(line, split, tree) for split in listed for line in read_lines(tree, f"{split}.txt")]
    return sorted(pairs, key=lambda pair: pair.key)


def _pair(line: str, split: str, tree: Tree) -> Pair:
    """Return the pair on a line of a list; a missing file has an empty path."""
    words = [word.removeprefix("/SegNet/CamVid/") for word in line.split()]
    if len(words) != 2:
        raise DataError(f"{tree.where}: {split}.txt: got the line {line!r}, expected `image label`")
    image, label = (word if word in tree.files else "" for word in words)
    if not image and not label:
        raise DataError(f"{tree.where}: {split}.txt names {words[0]}, which does not exist; add it or remove the line")
    key = PurePosixPath(words[0]).stem
    return Pair(key=key, image=image, label=label, group=key.split("_")[0], split=split)
