"""Dataset layouts: how to find pairs, how to read their files, and the meaning of the label values."""

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, replace
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
"""The entry of a legend's lookup table for raw values that the legend does not know."""


@dataclass(frozen=True)
class Pair:
    """An image and its label map, as paths in the source's tree; one of them is empty when it is missing.

    Attributes:
        key: The pair's name, unique in the data set and valid as a file name.
        image: The path of the image.
        label: The path of the label map.
        group: The unit that must not be divided between splits: a drive, a city, a patient.
        split: The split that the layout gives ("train", "val", "test"), or empty.
        slice_index: The index of the slice in a volume, from 0; -1 for files that hold one image.
    """

    key: str
    image: str
    label: str
    group: str
    split: str = ""
    _: KW_ONLY
    slice_index: int = -1


@dataclass(frozen=True, eq=False)
class LabelSpec:
    """The meaning of raw label values.

    Attributes:
        classes: The classes in the order of their ids.
        background: The id of the class that is not foreground, or None when every class is.
        lut: The lookup table from raw value to class id, ``classes.IGNORED`` or ``UNKNOWN``; 65536 entries, uint8.
    """

    classes: tuple[LabelClass, ...]
    background: int | None
    lut: NDArray[np.uint8]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of their ids."""
        return tuple(entry.name for entry in self.classes)


class ImageReader(Protocol):
    """The reader of the images of a layout."""

    def __call__(
        self, tree: Tree, path: str, slice_index: int, *, box: Box | None = None, reduce: int = 1
    ) -> NDArray[np.uint8]:
        """Read an image of a tree as RGB, uint8 of shape (h, w, 3).

        ``box`` selects a part of it; ``reduce`` (1, 2, 4 or 8) divides its sides by about that number. Raises OSError
        with a short reason when the file cannot be read or decoded.
        """
        ...


def read_image(
    tree: Tree, path: str, slice_index: int, *, box: Box | None = None, reduce: int = 1
) -> NDArray[np.uint8]:
    """Read an ordinary image file; an :class:`ImageReader`."""
    return decode_image(tree.read(path), box=box, reduce=reduce)


def read_label(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """Read the values of a one-channel or palette label file, uint8 or uint16 of shape (h, w); raises OSError."""
    return decode_label(tree.read(path))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset layout.

    Attributes:
        find: Returns the pairs of a tree, sorted by key, from names and lists and without reading images. Raises
            DataError when the tree has another layout. A file without its partner becomes a pair that lacks the other
            file.
        legend: Returns the legend, given the text of ``legend_file`` (empty for a layout with classes of its own).
            Raises DataError when the text has a fault.
        legend_file: The path in the tree of a file that names the classes; empty for none.
        read_image: Reads an image, see :class:`ImageReader`.
        read_label: Reads the raw values of a label file, uint8 or uint16 of shape (h, w); raises OSError.
        label_files: Returns all files from which a label map is read, given the pair's ``label``, which is one of them.
    """

    find: Callable[[Tree], list[Pair]]
    legend: Callable[[str], LabelSpec]
    legend_file: str = ""
    read_image: ImageReader = read_image
    read_label: Callable[[Tree, str, int], NDArray[np.integer]] = read_label
    label_files: Callable[[str], tuple[str, ...]] = lambda path: (path,)


def build_lut(classes: Iterable[tuple[int, int]]) -> NDArray[np.uint8]:
    """Return the lookup table for (raw value, class id) pairs; every other value is ``UNKNOWN``."""
    lut = np.full(65536, UNKNOWN, np.uint8)
    for raw, class_id in classes:
        lut[raw] = class_id
    return lut


def read_lines(tree: Tree, path: str) -> list[str]:
    """Return the lines of a list that are not blank; raises DataError when the file is not text."""
    try:
        return [line for line in tree.read(path).decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{tree.where}: {path}: not UTF-8 text; write the list again") from None


def match(images: dict[str, str], labels: dict[str, str], describe: Callable[[str], tuple[str, str]]) -> list[Pair]:
    """Pair files by name.

    Args:
        images: The paths of the images by name.
        labels: The paths of the label maps by name.
        describe: Returns the group and the split of a name.
    """
    return [
        Pair(name, images.get(name, ""), labels.get(name, ""), *describe(name))
        for name in sorted(images.keys() | labels.keys())
    ]


def flat(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs with keys that are valid file names: ``drive/frame`` becomes ``drive__frame``."""
    renamed = (replace(pair, key=pair.key.replace("/", "__")) for pair in pairs)
    return sorted(renamed, key=lambda pair: pair.key)


def by_name(tree: Tree, paths: Iterable[str], name: Callable[[PurePosixPath], str]) -> dict[str, str]:
    """Return the paths by the name that ``name`` derives from each.

    Raises:
        DataError: Two files have the same name.
    """
    path_of: dict[str, str] = {}
    for path in paths:
        twin = path_of.setdefault(name(PurePosixPath(path)), path)
        if twin != path:
            raise DataError(f"{tree.where}: {twin} and {path} have the same name; rename one or remove it")
    return path_of


def under(tree: Tree, folder: str, *endings: str) -> list[str]:
    """Return the paths that begin with ``folder`` and end with one of ``endings``, which are in lower case."""
    return [path for path in tree.files if path.startswith(folder) and path.lower().endswith(endings)]


def prefix_of(tree: Tree, folder: str, expected: str) -> str:
    """Return the part of the paths before ``folder`` (such as ``images/``), as data often lie one folder deeper.

    Raises:
        DataError: There is no such folder, or there are two.
    """
    prefixes = sorted({path[:at] for path in tree.files if (at := f"/{path}".find(f"/{folder}")) >= 0})
    if not prefixes:
        raise DataError(f"{tree.where}: no {folder}; expected {expected}")
    if len(prefixes) > 1:
        first, second, *_ = prefixes
        raise DataError(f"{tree.where}: got both {first}{folder} and {second}{folder}; give the folder of one of them")
    return prefixes[0]


def from_lists(
    tree: Tree,
    splits: dict[str, list[str]],
    images: dict[str, str],
    labels: dict[str, str],
    group: Callable[[str], str],
) -> list[Pair]:
    """Return the pairs that lists name.

    Args:
        tree: The tree, for messages.
        splits: The names on the list of each split.
        images: The paths of the images by name.
        labels: The paths of the label maps by name.
        group: Returns the group of a name.

    Raises:
        DataError: A name is listed twice, or both its image and its label are missing.
    """
    pairs: dict[str, Pair] = {}
    for split, names in splits.items():
        for name in names:
            if name in pairs:
                raise DataError(f"{tree.where}: the lists name {name} twice ({pairs[name].split}, {split}); remove one")
            if name not in images and name not in labels:
                raise DataError(f"{tree.where}: the {split} list names {name}, which does not exist; add or remove it")
            pairs[name] = Pair(name, images.get(name, ""), labels.get(name, ""), group(name), split)
    return [pairs[name] for name in sorted(pairs)]
