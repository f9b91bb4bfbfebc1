"""The user's own data: images and masks of equal names in two folders, with ``classes.yaml`` beside them, such as::

    classes:                                      # in the order of their ids
      background: 0
      car: [1, 2]                                 # several values are one class
      lane: 10-19                                 # both ends belong to it
      person: {values: 3, color: [213, 94, 0]}    # the color in which it is shown; chosen where none is given
    background: background                        # the class that is not foreground; none when left out
    ignore: 255                                   # values that count nowhere, written like those of a class

A mask has one channel or a palette, and the values are its numbers. With the option ``colors: true`` the masks
are pictures, and ``classes.yaml`` holds a color for each class (``road: [128, 64, 128]``, or a list of colors). The
British ``colour``, ``colours`` and the older ``ignored`` are accepted as well.

Sub-folders may be nested, in the same way below both folders. If the first one is ``train``, ``val`` or ``test``, it is
the split; the next one is the group: a drive, a patient. A file without such a folder is a group of its own, so files
that belong together should share a sub-folder.
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
from segline.data.layouts.layout import UNKNOWN, LabelSpec, Layout, Pair, build_lut, by_name, flat, match, under
from segline.errors import LONGEST_LINE, DataError, clip, shown
from segline.files.trees import Tree

CLASSES_FILE = "classes.yaml"
LOSSLESS = (".bmp", ".gif", ".pgm", ".png", ".ppm", ".tif", ".tiff")
LOSSY = (".jpeg", ".jpg", ".webp")
IMAGES = (*LOSSLESS, *LOSSY)
SPLITS = ("train", "val", "test")
Color = tuple[int, int, int]
HINT = "; for [red, green, blue] set the layout's `colors: true`"


def folders(
    *,
    images: Annotated[str, "the folder of the images"] = "images",
    masks: Annotated[str, "the folder of the masks"] = "masks",
    mask_ending: Annotated[str, "what a mask's name has more than its image's, such as _mask"] = "",
    colors: Annotated[bool, "masks are pictures in the colors of the classes"] = False,
    colours: Annotated[bool, "the same as colors"] = False,
) -> Layout:
    """Return the layout of images and masks in two folders."""
    in_color = colors or colours
    return Layout(
        find=lambda tree: find_pairs(tree, images.strip("/"), masks.strip("/"), mask_ending),
        label_spec=lambda text: read_label_spec(text, in_color),
        classes_file=CLASSES_FILE,
        read_label=read_colors if in_color else read_values,
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
    """Return the reason why no masks were found."""
    lossy = under(tree, f"{masks}/", *(f"{mask_ending}{suffix}".lower() for suffix in LOSSY))
    named = f" whose names end with {mask_ending}" if mask_ending else ""
    hint = f" but such as {lossy[0]} (masks must be lossless: png, bmp or tif)" if lossy else ""
    return f"no masks in {masks}/{named}{hint}"


def _name(path: PurePosixPath, folder: str, ending: str) -> str:
    """Return the path below a folder without the ending and the suffix."""
    inner = path.relative_to(folder)
    return str(inner.parent / inner.stem[: len(inner.stem) - len(ending)])


def _describe(name: str) -> tuple[str, str]:
    """Return the group and the split."""
    parts = name.split("/")
    split = parts.pop(0) if parts[0] in SPLITS and len(parts) > 1 else ""
    return (parts[0] if len(parts) > 1 else name), split


def read_values(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """Read a mask whose numbers are the values; raises OSError."""
    data = tree.read(path)
    try:
        return decode_label(data)
    except OSError as error:
        if "channels (RGB" not in str(error):
            raise
        raise OSError(f"{error}; if its colors are the classes, set `colors: true`") from None


def read_colors(tree: Tree, path: str, slice_index: int) -> NDArray[np.integer]:
    """Read a mask that is a picture, with each color packed into a value; raises OSError."""
    return pack(decode_image(tree.read(path)))


def pack(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Pack colors into 16-bit values; two colors that differ by at most 20 in each channel never share one."""
    wide = rgb.astype(np.uint32)
    return (wide[..., 0] + 41 * wide[..., 1] + 41 * 41 * wide[..., 2]).astype(np.uint16)


def read_label_spec(text: str, colors: bool) -> LabelSpec:
    """Return the label spec that ``classes.yaml`` describes.

    Raises:
        DataError: The text has a fault; the first one is named.
    """
    document = _document(text)
    written = _classes(document.get("classes"))
    entries = {name: _class(entry, f"classes.{name}", colors) for name, entry in written.items()}
    background = document.get("background")
    if background is not None and background not in list(entries):
        _refuse("background", f"unknown class {shown(background)}{suggestion(background, entries)}")
    ignore_key = _one_of(document, "ignore", "ignored", "")
    ignored = _values(document[ignore_key], ignore_key, colors) if ignore_key else []
    claims = {ignore_key: ignored} | {f"classes.{name}": values for name, (values, _) in entries.items()}
    threes = not colors and any(isinstance(entry, list) and len(entry) == 3 for entry in written.values())
    _refuse_shared(claims, "value that cannot be distinguished from one", HINT if threes else "")
    given = {f"classes.{name}": [color] for name, (_, color) in entries.items() if color}
    _refuse_shared(given, "color")
    spare = _spare_colors({color for _, color in entries.values() if color})
    black = (0, 0, 0) if [(0, 0, 0)] not in given.values() else next(spare)
    classes = [
        LabelClass(name, color or (black if name == background else next(spare)))
        for name, (_, color) in entries.items()
    ]
    lut = [(value, IGNORED) for value in ignored]
    lut += [(value, index) for index, (values, _) in enumerate(entries.values()) for value in values]
    return LabelSpec(tuple(classes), list(entries).index(background) if background else None, build_lut(lut))


def _document(text: str) -> dict[Any, Any]:
    try:
        document = parse_yaml(text)
    except YamlError as error:
        _refuse("", str(error))
    if not isinstance(document, dict):
        _refuse("", "got no mapping, expected `classes:` with one class name and its values per line")
    known = ("classes", "background", "ignore", "ignored")
    for key in document:
        if key not in known:
            _refuse("", f"unknown key {shown(key)}{suggestion(key, known)}")
    return document


def _classes(value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        _refuse("classes", f"got {shown(value)}, expected one class name and its values per line")
    if len(value) > UNKNOWN:
        _refuse("classes", f"got {len(value)} classes, expected at most {UNKNOWN}")
    for name in value:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            _refuse("classes", f"got the name {shown(name)}, expected text; write it in quotes, before its values")
    return value


def _class(entry: object, where: str, colors: bool) -> tuple[list[int], Color | None]:
    """Return the values of a class, and its color if it has one."""
    if colors:
        return _values(entry, where, colors), _colors(entry, where)[0]
    if not isinstance(entry, dict):
        return _values(entry, where, colors), None
    if entry.keys() - {"values", "color", "colour"} or "values" not in entry:
        _refuse(where, f"got the keys {clip(', '.join(map(str, entry)))}, expected values and color")
    key = _one_of(entry, "color", "colour", where)
    color = _colors(entry[key], f"{where}.{key}")[0] if key else None
    return _values(entry["values"], f"{where}.values", colors), color


def _one_of(entry: dict[Any, Any], key: str, variant: str, where: str) -> str:
    """Return the key of the two spellings that an entry has; empty for none."""
    if key in entry and variant in entry:
        _refuse(where, f"got both {key} and {variant}, which mean the same; remove one")
    return next((name for name in (key, variant) if name in entry), "")


def _values(value: object, where: str, colors: bool) -> list[int]:
    """Return the mask values that an entry stands for, in order."""
    if colors:
        return [int(code) for code in pack(np.array(_colors(value, where), np.uint8))]
    items = value if isinstance(value, list) else [value]
    ranges = [_range(item) for item in items]
    found = np.zeros(65536, bool)
    for numbers in ranges:
        found[numbers.start : numbers.stop] = True
    if not all(ranges) or not ranges:
        hint = HINT if any(isinstance(item, list) for item in items) else ""
        _refuse(where, f"got {shown(value)}, expected values of 0 to 65535: 3, [3, 4] or 3-9{hint}")
    return [int(number) for number in np.flatnonzero(found)]


def _range(item: object) -> range:
    """Return the values that ``3`` or ``3-9`` stands for; none for any other text."""
    written = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", str(item)) if type(item) in (int, str) else None
    if not written:
        return range(0)
    low, high = int(written[1]), int(written[2] or written[1])
    return range(low, high + 1) if high <= 65535 else range(0)


def _colors(value: object, where: str) -> list[Color]:
    """Return the one color or the several colors that an entry stands for."""
    items = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    found: list[Color] = []
    for item in items:
        if not isinstance(item, list) or len(item) != 3 or any(type(part) is not int for part in item):
            _refuse(where, f"got {shown(value)}, expected a color: [red, green, blue]")
        if not 0 <= min(item) <= max(item) <= 255:
            _refuse(where, f"got {shown(value)}, expected channels of 0 to 255")
        found.append((item[0], item[1], item[2]))
    return found


def _refuse_shared(claims: dict[str, list[Any]], what: str, hint: str = "") -> None:
    owners: dict[Any, str] = {}
    for where, items in claims.items():
        for item in items:
            owner = owners.setdefault(item, where)
            if owner != where:
                _refuse(where, f"has a {what} of {owner}; give each value and each color to one of them{hint}")


def _spare_colors(taken: set[Color]) -> Iterator[Color]:
    """Generate the colors of PASCAL VOC after black: all different, the most distinct ones first."""
    for index in range(1, 2**9):
        red, green, blue = (sum((index >> 3 * bit + part & 1) << 7 - bit for bit in range(8)) for part in range(3))
        if (red, green, blue) not in taken:
            yield red, green, blue


def _refuse(where: str, fault: str) -> NoReturn:
    raise DataError(clip(f"{CLASSES_FILE}: {where}: {fault}" if where else f"{CLASSES_FILE}: {fault}", LONGEST_LINE))
