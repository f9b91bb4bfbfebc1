"""What a dataset layout says: how to find pairs, how to read their files, and what the label values mean."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segline.classes import LabelClass
from segline.data.boxes import Box
from segline.data.decoding import decode_image, decode_label
from segline.errors import DataError
from segline.files.trees import Tree

UNKNOWN = 254
"""Stands in a legend's table for raw values that it does not know."""


@dataclass(frozen=True)
class Pair:
    """An image and its label map, as paths in the source's tree; one of them is empty when it is missing.

    Attributes:
        key: names the pair, also as a file; no other of the data set has it.
        group: what must not be on two sides of a split: a drive, a city, a patient.
        split: the layout's own ("train", "val", "test"), or empty.
        slice_index: the slice of a volume, counted from 0; -1 for files that hold one image.
    """

    key: str
    image: str
    label: str
    group: str
    split: str = ""
    slice_index: int = -1


@dataclass(frozen=True, eq=False)
class LabelSpec:
    """What raw label values mean.

    Attributes:
        classes: in the order of their ids.
        background: the id that does not count as foreground, or None when every class does.
        lut: raw value to class id, ``classes.IGNORED`` or ``UNKNOWN``; 65536 entries, uint8.
    """

    classes: tuple[LabelClass, ...]
    background: int | None
    lut: NDArray[np.uint8]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of their ids."""
        return tuple(entry.name for entry in self.classes)


class ImageReader(Protocol):
    """Reads an image of a tree."""

    def __call__(
        self, tree: Tree, path: str, slice_index: int, *, box: Box | None = None, reduce: int = 1
    ) -> NDArray[np.uint8]:
        """The image as RGB, uint8 of shape (h, w, 3).

        ``box`` asks for a part of it, ``reduce`` (1, 2, 4 or 8) for about that fraction of its size. Raises OSError
        with a short reason when the file cannot be read or decoded.
        """
        ...


def read_image(
    tree: Tree, path: str, slice_index: int, *, box: Box | None = None, reduce: int = 1
) -> NDArray[np.uint8]:
    """The :class:`ImageReader` of ordinary image files."""
    return decode_image(tree.read(path), box=box, reduce=reduce)


def read_label(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """A one-channel or palette label file as its values, uint8 or uint16 of shape (h, w); raises OSError."""
    return decode_label(tree.read(path))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset layout.

    Attributes:
        find: the pairs of a tree, sorted by key; it looks at names and at lists, not into images. Raises DataError
            when the tree is not of this layout. A file without its partner makes a pair that lacks the other.
        legend: the legend, given the text of ``legend_file`` (empty for a layout that knows its own classes). Raises
            DataError when the text is wrong.
        legend_file: the path in the tree of a file that names the classes; empty for none.
        read_image: see :class:`ImageReader`.
        read_label: a label file's raw values, uint8 or uint16 of shape (h, w); raises OSError.
        label_files: all files that a label map is read from, given the pair's ``label``, which is one of them.
    """

    find: Callable[[Tree], list[Pair]]
    legend: Callable[[str], LabelSpec]
    legend_file: str = ""
    read_image: ImageReader = read_image
    read_label: Callable[[Tree, str, int], NDArray[np.integer]] = read_label
    label_files: Callable[[str], tuple[str, ...]] = lambda path: (path,)


def build_lut(classes: Iterable[tuple[int, int]]) -> NDArray[np.uint8]:
    """A table from (raw value, class id) pairs; every other value is ``UNKNOWN``."""
    lut = np.full(65536, UNKNOWN, np.uint8)
    for raw, class_id in classes:
        lut[raw] = class_id
    return lut


def read_lines(tree: Tree, path: str) -> list[str]:
    """The lines of a list that are not blank. Raises DataError when it is no text."""
    try:
        return [line for line in tree.read(path).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{tree.where}: {path}: not UTF-8 text; write the list again") from None


def match(images: dict[str, str], labels: dict[str, str], describe: Callable[[str], tuple[str, str]]) -> list[Pair]:
    """Pair files by name: ``images`` and ``labels`` are name -> path, ``describe`` a name's group and split."""
    return [
        Pair(name, images.get(name, ""), labels.get(name, ""), *describe(name))
        for name in sorted(images.keys() | labels.keys())
    ]


def flat(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs with keys that can name files, where they were paths: ``drive/frame`` becomes ``drive__frame``."""
    renamed = (replace(pair, key=pair.key.replace("/", "__")) for pair in pairs)
    return sorted(renamed, key=lambda pair: pair.key)


def by_name(tree: Tree, paths: Iterable[str], name: Callable[[PurePosixPath], str]) -> dict[str, str]:
    """The paths by what ``name`` makes of them.

    Raises:
        DataError: two files have the same name.
    """
    found: dict[str, str] = {}
    for path in paths:
        twin = found.setdefault(name(PurePosixPath(path)), path)
        if twin != path:
            raise DataError(f"{tree.where}: {twin} and {path} have the same name; rename one or remove it")
    return found


def under(tree: Tree, folder: str, *endings: str) -> list[str]:
    """The paths that begin with ``folder`` and end with one of ``endings``, which are in small letters."""
    return [path for path in tree.files if path.startswith(folder) and path.lower().endswith(endings)]


def prefix_of(tree: Tree, folder: str, expected: str) -> str:
    """What stands before ``folder`` (such as ``images/``) in the paths: data often lie a folder deeper than given.

    Raises:
        DataError: there is no such folder, or there are two.
    """
    found = sorted({path[:at] for path in tree.files if (at := f"/{path}".find(f"/{folder}")) >= 0})
    if not found:
        raise DataError(f"{tree.where}: no {folder}; expected {expected}")
    if len(found) > 1:
        raise DataError(f"{tree.where}: {found[0]}{folder} and {found[1]}{folder} are there; give the folder of one")
    return found[0]


def from_lists(
    tree: Tree,
    splits: dict[str, list[str]],
    images: dict[str, str],
    labels: dict[str, str],
    group: Callable[[str], str],
) -> list[Pair]:
    """The pairs that lists name: split -> names, with ``images`` and ``labels`` as for :func:`match`.

    Raises:
        DataError: a name is listed twice, or neither its image nor its label is there.
    """
    pairs: dict[str, Pair] = {}
    for split, names in splits.items():
        for name in names:
            if name in pairs:
                raise DataError(f"{tree.where}: the lists name {name} twice ({pairs[name].split}, {split}); remove one")
            if name not in images and name not in labels:
                raise DataError(f"{tree.where}: the {split} list names {name}, which is not there; add or remove it")
            pairs[name] = Pair(name, images.get(name, ""), labels.get(name, ""), group(name), split)
    return [pairs[name] for name in sorted(pairs)]
