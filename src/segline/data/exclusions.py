"""Exclusions: the images and parts of images that a person removed from the data, in one CSV file.

The columns are ``key``, ``top``, ``left``, ``height`` and ``width``: a box in px of the source image. A row without a
box excludes the whole image. Further columns are ignored, and the line with the names of the columns may be repeated,
so that the list which evaluate writes (``missing_labels.csv``) can be appended as it is.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED
from segline.data.boxes import Box
from segline.errors import DataError

KEY = "key"
SIDES = Box._fields
LEAST = Box(top=0, left=0, height=1, width=1)
UTF8_OF_SPREADSHEETS = "utf-8-sig"


@dataclass(frozen=True)
class Exclusions:
    """The excluded data.

    Attributes:
        keys: The keys of the images that are excluded as a whole.
        regions: The excluded boxes by the key of their image.
    """

    keys: frozenset[str] = frozenset()
    regions: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The SHA-256 over the excluded data; order, repetition and further columns do not change it."""
        content = (sorted(self.keys), sorted((key, sorted(set(boxes))) for key, boxes in self.regions.items()))
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def boxes(self, key: str) -> tuple[Box, ...]:
        """Return the boxes in the image of this key."""
        return self.regions.get(key, ())

    def unknown(self, keys: Iterable[str]) -> list[str]:
        """Return the excluded keys that are not among ``keys``, sorted."""
        return sorted((self.keys | self.regions.keys()) - set(keys))

    def mask(self, ids: NDArray[np.uint8], key: str, corner: tuple[int, int] = (0, 0)) -> NDArray[np.uint8] | None:
        """Return the class ids (h, w) with the boxes of the image set to ignored; None when no box overlaps them.

        Args:
            ids: The class ids of the whole image, or of a crop of it.
            key: The key of the image.
            corner: The corner of the crop, (top, left) in the image.
        """
        masked = ids.copy()
        overlaps = False
        for box in self.boxes(key):
            top, left = box.top - corner[0], box.left - corner[1]
            part = masked[max(top, 0) : max(top + box.height, 0), max(left, 0) : max(left + box.width, 0)]
            part[:] = IGNORED
            overlaps |= part.size > 0
        return masked if overlaps else None


def read_exclusions(path: Path) -> Exclusions:
    """Read the file; a file without rows excludes nothing.

    Raises:
        DataError: The file has another form; the message has the line, what was got and what was expected.
    """
    keys: set[str] = set()
    regions: dict[str, list[Box]] = {}
    columns: list[str] = []
    lines = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        for cells in lines:
            if not any(map(str.strip, cells)):
                continue
            row = dict(zip(columns, cells, strict=False))
            if not columns or row.get(KEY) == KEY:
                columns = _columns(cells)
                continue
            key, box = _key(row), _box(row)
            if box is None:
                keys.add(key)
            else:
                regions.setdefault(key, []).append(box)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}") from None
    return Exclusions(frozenset(keys), {key: tuple(boxes) for key, boxes in regions.items()})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding=UTF8_OF_SPREADSHEETS)
    except UnicodeDecodeError:
        raise DataError(f"{path}: got a file that is not UTF-8 text, expected CSV in UTF-8; save it again") from None


def _columns(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if KEY not in names or 0 < len(set(SIDES) & set(names)) < len(SIDES):
        raise ValueError(f"got the columns {', '.join(names)!r}, expected {', '.join([KEY, *SIDES])!r}")
    return names


def _key(row: dict[str, str]) -> str:
    key = row.get(KEY, "").strip()
    if not key:
        raise ValueError("got no key, expected the key of an image as in data/label/*/index.csv")
    return key


def _box(row: dict[str, str]) -> Box | None:
    """Return the box of a row; None when all its fields are empty."""
    cells = {side: row.get(side, "").strip() for side in SIDES}
    given = [side for side, cell in cells.items() if cell]
    if not given:
        return None
    if len(given) < len(SIDES):
        raise ValueError(f"got only {', '.join(given)}, expected {', '.join(SIDES)}, or none for the whole image")
    for side, least in LEAST._asdict().items():
        if not cells[side].isdecimal() or int(cells[side]) < least:
            raise ValueError(f"{side}: got {cells[side]!r}, expected a whole number of px, at least {least}")
    return Box(**{side: int(cell) for side, cell in cells.items()})
