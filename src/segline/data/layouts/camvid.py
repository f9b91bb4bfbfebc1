"""CamVid as SegNet released it: ``train/`` with ``trainannot/``, lists ``train.txt``, ``val.txt``, ``test.txt``.

A list holds ``image label`` per line, relative to the folder or (as in SegNet's own) under ``/SegNet/CamVid``.
Labels are 0 to 10; 11 is void and ignored. The file name carries the drive (``0001TP_006690``).
"""

from pathlib import Path

from segline.classes import IGNORED, LabelClass
from segline.data.layouts.layout import Layout, Pair, read_indices, read_lines, value_table
from segline.errors import DataError

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


def find_pairs(root: Path) -> list[Pair]:
    """The pairs that the lists name; the official split is kept."""
    lists = {split: root / f"{split}.txt" for split in ("train", "val", "test")}
    there = {split: path for split, path in lists.items() if path.is_file()}
    if not there:
        raise DataError(f"{root}: no train.txt, val.txt or test.txt; expected the camvid layout as SegNet released it")
    pairs = [_pair(line, split, path, root) for split, path in there.items() for line in read_lines(path)]
    return sorted(pairs, key=lambda pair: pair.key)


def _pair(line: str, split: str, path: Path, root: Path) -> Pair:
    words = [word.removeprefix("/SegNet/CamVid/") for word in line.split()]
    if len(words) != 2:
        raise DataError(f"{path}: got the line {line!r}, expected `image label`")
    for word in words:
        if not (root / word).is_file():
            raise DataError(f"{path}: names {word}, which is not in {root}; add the file or remove the line")
    key = Path(words[0]).stem
    return Pair(key=key, image=words[0], label=words[1], group=key.split("_")[0], split=split)


CAMVID = Layout(
    classes=CLASSES,
    background=None,
    find=find_pairs,
    read_label=read_indices,
    table=value_table([*((value, value) for value in range(VOID)), (VOID, IGNORED)]),
)
