"""Your own data: images and masks of equal names in two folders, and ``classes.yaml`` beside them, such as::

    classes:                                      # in the order of their ids
      background: 0
      car: [1, 2]                                 # several values are one class
      lane: 10-19                                 # both ends belong to it
      person: {values: 3, colour: [213, 94, 0]}   # how to show it; made up where none is given
    background: background                        # the class that is no foreground; none when left out
    ignored: 255                                  # values that count nowhere, written as those of a class

A mask has one channel or a palette, and the values are its numbers. With ``colours: true`` masks are pictures, and
``classes.yaml`` holds a colour for each class (``road: [128, 64, 128]``, or a list of colours).

Sub-folders may be nested, the same below both folders. ``train``, ``val`` and ``test`` are the split when they
come first; the next sub-folder is the group: a drive, a patient. A file without such a folder is a group of its
own, so put what belongs together into one.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.config.fields import suggestion
from segline.config.yaml_reader import YamlError, parse_yaml
from segline.data.decoding import decode_image, decode_label
from segline.data.layouts.layout import UNKNOWN, LabelSpec, Layout, Pair, by_name, flat, match, under, value_table
from segline.errors import DataError
from segline.files.trees import Tree

LEGEND = "classes.yaml"
LOSSLESS = (".bmp", ".gif", ".pgm", ".png", ".ppm", ".tif", ".tiff")
LOSSY = (".jpeg", ".jpg", ".webp")
IMAGES = (*LOSSLESS, *LOSSY)
SPLITS = ("train", "val", "test")
Colour = tuple[int, int, int]
HINT = "; for [red, green, blue] set the layout's `colours: true`"


def folders(
    *,
    images: Annotated[str, "the folder of the images"] = "images",
    masks: Annotated[str, "the folder of the masks"] = "masks",
    mask_ending: Annotated[str, "what a mask's name has more than its image's, such as _mask"] = "",
    colours: Annotated[bool, "masks are pictures in the colours of the classes"] = False,
) -> Layout:
    """The layout of images and masks in two folders."""
    return Layout(
        find=lambda tree: find_pairs(tree, images.strip("/"), masks.strip("/"), mask_ending),
        legend=lambda text: read_legend(text, colours),
        legend_file=LEGEND,
        read_label=read_colours if colours else read_values,
    )


def find_pairs(tree: Tree, images: str, masks: str, mask_ending: str) -> list[Pair]:
    """Pair images with masks by their path below the two folders, without the suffix."""
    endings = tuple(f"{mask_ending}{suffix}".lower() for suffix in LOSSLESS)
    found_masks = under(tree, f"{masks}/", *endings)
    no_images = set(found_masks) if mask_ending else set()  # both may lie in one folder
    found_images = [path for path in under(tree, f"{images}/", *IMAGES) if path not in no_images]
    missing = [] if found_images else [f"no images in {images}/"]
    missing += [] if found_masks else [_no_masks(tree, masks, mask_ending)]
    if missing:
        raise DataError(f"{tree.where}: {' and '.join(missing)}; expected the folders layout")
    image_of = by_name(tree, found_images, lambda path: _name(path, images, ""))
    mask_of = by_name(tree, found_masks, lambda path: _name(path, masks, mask_ending))
    return flat(match(image_of, mask_of, _describe))


def _no_masks(tree: Tree, masks: str, mask_ending: str) -> str:
    """What to tell when there are no masks."""
    lossy = under(tree, f"{masks}/", *(f"{mask_ending}{suffix}".lower() for suffix in LOSSY))
    named = f" whose names end with {mask_ending}" if mask_ending else ""
    hint = f" but such as {lossy[0]} (masks must be lossless: png, bmp or tif)" if lossy else ""
    return f"no masks in {masks}/{named}{hint}"


def _name(path: PurePosixPath, folder: str, ending: str) -> str:
    """The path below a folder without the ending and the suffix."""
    inner = path.relative_to(folder)
    return str(inner.parent / inner.stem[: len(inner.stem) - len(ending)])


def _describe(name: str) -> tuple[str, str]:
    """The group and the split."""
    parts = name.split("/")
    split = parts.pop(0) if parts[0] in SPLITS and len(parts) > 1 else ""
    return (parts[0] if len(parts) > 1 else name), split


def read_values(tree: Tree, path: str, plane: int) -> NDArray[np.integer]:
    """A mask whose numbers are the values; raises OSError."""
    data = tree.read(path)
    try:
        return decode_label(data)
    except OSError as error:
        if "channels (RGB" not in str(error):
            raise
        raise OSError(f"{error}; if its colours are the classes, set `colours: true`") from None


def read_colours(tree: Tree, path: str, plane: int) -> NDArray[np.integer]:
    """A mask that is a picture, each colour packed into a value; raises OSError."""
    return pack(decode_image(tree.read(path)))


def pack(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Colours as 16-bit values; those that differ by at most 20 in each channel never have the same one."""
    wide = rgb.astype(np.uint32)
    return (wide[..., 0] + 41 * wide[..., 1] + 41 * 41 * wide[..., 2]).astype(np.uint16)


def read_legend(text: str, colours: bool) -> LabelSpec:
    """The legend that ``classes.yaml`` describes.

    Raises:
        DataError: at the first fault.
    """
    document = _document(text)
    written = _classes(document.get("classes"))
    entries = {name: _class(entry, f"classes.{name}", colours) for name, entry in written.items()}
    background = document.get("background")
    if background is not None and background not in list(entries):
        _refuse("background", f"unknown class {background!r}{suggestion(background, entries)}")
    ignored = _values(document["ignored"], "ignored", colours) if "ignored" in document else []
    claims = {"ignored": ignored} | {f"classes.{name}": values for name, (values, _) in entries.items()}
    threes = not colours and any(isinstance(entry, list) and len(entry) == 3 for entry in written.values())
    _refuse_shared(claims, "value that cannot be told from one", HINT if threes else "")
    given = {f"classes.{name}": [colour] for name, (_, colour) in entries.items() if colour}
    _refuse_shared(given, "colour")
    spare = _spare_colours({colour for _, colour in entries.values() if colour})
    black = (0, 0, 0) if [(0, 0, 0)] not in given.values() else next(spare)
    classes = [
        LabelClass(name, colour or (black if name == background else next(spare)))
        for name, (_, colour) in entries.items()
    ]
    table = [(value, IGNORED) for value in ignored]
    table += [(value, index) for index, (values, _) in enumerate(entries.values()) for value in values]
    return LabelSpec(tuple(classes), list(entries).index(background) if background else None, value_table(table))


def _document(text: str) -> dict[Any, Any]:
    try:
        document = parse_yaml(text)
    except YamlError as error:
        _refuse("", str(error))
    if not isinstance(document, dict):
        _refuse("", "got no mapping, expected `classes:` with a name and its values per line")
    known = ("classes", "background", "ignored")
    for key in document:
        if key not in known:
            _refuse("", f"unknown key {key!r}{suggestion(key, known)}")
    return document


def _classes(value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        _refuse("classes", f"got {value!r}, expected a name and its values per line")
    if len(value) > UNKNOWN:
        _refuse("classes", f"got {len(value)} of them, expected at most {UNKNOWN}")
    for name in value:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            _refuse("classes", f"got the name {name!r}, expected text; write it in quotes, before its values")
    return value


def _class(entry: object, where: str, colours: bool) -> tuple[list[int], Colour | None]:
    """The values of a class, and its colour if it has one."""
    if colours:
        return _values(entry, where, colours), _colours(entry, where)[0]
    if not isinstance(entry, dict):
        return _values(entry, where, colours), None
    if entry.keys() - {"values", "colour"} or "values" not in entry:
        _refuse(where, f"got the keys {', '.join(map(str, entry))}, expected values and colour")
    colour = _colours(entry["colour"], f"{where}.colour")[0] if "colour" in entry else None
    return _values(entry["values"], f"{where}.values", colours), colour


def _values(value: object, where: str, colours: bool) -> list[int]:
    """The mask values that are meant, in order."""
    if colours:
        return [int(code) for code in pack(np.array(_colours(value, where), np.uint8))]
    items = value if isinstance(value, list) else [value]
    found = {number for item in items for number in _range(item)}
    if not found or not all(_range(item) for item in items):
        hint = HINT if any(isinstance(item, list) for item in items) else ""
        _refuse(where, f"got {value!r}, expected values of 0 to 65535: 3, [3, 4] or 3-9{hint}")
    return sorted(found)


def _range(item: object) -> range:
    """The values that ``3`` or ``3-9`` stands for; none when it is neither."""
    written = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", str(item)) if type(item) in (int, str) else None
    if not written:
        return range(0)
    low, high = int(written[1]), int(written[2] or written[1])
    return range(low, high + 1) if high <= 65535 else range(0)


def _colours(value: object, where: str) -> list[Colour]:
    """A colour, or several."""
    items = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    found: list[Colour] = []
    for item in items:
        if not isinstance(item, list) or len(item) != 3 or any(type(part) is not int for part in item):
            _refuse(where, f"got {value!r}, expected a colour: [red, green, blue]")
        if not 0 <= min(item) <= max(item) <= 255:
            _refuse(where, f"got {value!r}, expected parts of 0 to 255")
        found.append((item[0], item[1], item[2]))
    return found


def _refuse_shared(claims: dict[str, list[Any]], what: str, hint: str = "") -> None:
    owners: dict[Any, str] = {}
    for where, items in claims.items():
        for item in items:
            owner = owners.setdefault(item, where)
            if owner != where:
                _refuse(where, f"has a {what} of {owner}; give each value and each colour to one of them{hint}")


def _spare_colours(taken: set[Colour]) -> Iterator[Colour]:
    """The colours of PASCAL VOC after black: far apart first, all different."""
    for index in range(1, 2**9):
        red, green, blue = (sum((index >> 3 * bit + part & 1) << 7 - bit for bit in range(8)) for part in range(3))
        if (red, green, blue) not in taken:
            yield red, green, blue


def _refuse(where: str, fault: str) -> NoReturn:
    raise DataError(f"{LEGEND}: {where}: {fault}" if where else f"{LEGEND}: {fault}")
