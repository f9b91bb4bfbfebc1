"""Sampling of images: the fullest crops, tiles, random crops, the middle, or the whole frame, scaled or as it is."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED
from segline.config.sections import Label
from segline.data.boxes import Box
from segline.data.crops import (
    ROWS,
    Foreground,
    by_class_corners,
    center_corner,
    cut,
    filled_side,
    max_foreground_corner,
    random_corners,
    resize_pair,
    scale_pair,
    scaled_shape,
    several_corners,
    tiles,
)
from segline.data.decoding import checked_shape
from segline.data.distances import DISTANCES, Maps, Truth
from segline.data.encoding import encode_png
from segline.data.exclusions import Exclusions
from segline.data.frames import Frame
from segline.data.layouts import UNKNOWN, LabelSpec, Layout
from segline.data.layouts.layout import read_image
from segline.data.shards import Crop
from segline.errors import DataError
from segline.files.trees import Tree

Row = dict[str, Any]
Corner = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Sampler:
    """The source of the crops and of the frames of pairs.

    Attributes:
        tree: The tree with the files.
        layout: The layout that reads the files.
        label_spec: The classes to learn.
        settings: The parameters of label.
        exclusions: The regions to ignore.
        seed: The seed of crops that are drawn; those of a pair depend on it and on the pair's key alone.
    """

    tree: Tree
    layout: Layout
    label_spec: LabelSpec
    settings: Label
    exclusions: Exclusions = field(default_factory=Exclusions)
    _: KW_ONLY
    seed: int = 0

    def crops(self, row: Row) -> list[Crop]:
        """Return the crops of a pair, given its row of the manifest.

        Raises:
            DataError: A file cannot be read any more, or image and label no longer match in size.
        """
        with self._explaining(row["key"]):
            return self._cut(row, self.layout.read_label(self.tree, row["label"], row["slice_index"]))

    def frame(self, row: Row) -> Frame:
        """Return the whole frame of a pair, given its row of the manifest.

        Its image keeps the bytes of the source's file where these stand for its very pixels, which an image that is
        scaled, or that the layout converts, has no more.

        Raises:
            DataError: A file cannot be read any more, or image and label no longer match in size.
        """
        with self._explaining(row["key"]):
            return self._whole(row, self.layout.read_label(self.tree, row["label"], row["slice_index"]))

    @contextmanager
    def _explaining(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.tree.where}: pair {key} cannot be read any more ({error.strerror or error}); run "
                "`segline ingest` and `segline validate` again"
            ) from None

    def _cut(self, row: Row, raw: NDArray[np.integer]) -> list[Crop]:
        read = partial(self.layout.read_image, self.tree, row["image"], row["slice_index"])
        if self.settings.sampling == "resize":
            return [self._shrink(row, raw, read())]
        boxes = [self._box(corner, raw.shape) for corner in self._corners(row["key"], raw)]
        if len(boxes) == 1:
            return [self._crop(row, raw, boxes[0], read(box=boxes[0]))]
        image = read()
        return [self._crop(row, raw, box, image[_part(box)]) for box in boxes]

    def _corners(self, key: str, raw: NDArray[np.integer]) -> list[Corner]:
        settings, size, (height, width) = self.settings, self.settings.crop_size, raw.shape
        if settings.sampling == "tiles":
            return tiles((height, width), size, settings.tile_overlap)
        if settings.sampling == "center":
            return [center_corner((height, width), size)]
        if settings.sampling == "random":
            return random_corners((height, width), size, settings.crops_per_image, self._rng(key))
        if settings.sampling == "by_class":
            ids, background = self._ids(raw, key, (0, 0)), self.label_spec.background
            return by_class_corners(ids, background, size, settings.crops_per_image, self._rng(key))
        foreground = self._is_foreground(raw)
        for box in self.exclusions.boxes(key):
            foreground[_part(box)] = False
        if settings.crops_per_image == 1:
            return [max_foreground_corner(foreground, size)]
        return several_corners(foreground, size, settings.crops_per_image)

    def _rng(self, key: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])])

    def _box(self, corner: Corner, shape: tuple[int, ...]) -> Box:
        """Return the part of an image that a crop covers; it may be smaller than the crop."""
        (top, left), (height, width) = corner, self.settings.crop_size
        return Box(top, left, min(height, shape[0] - top), min(width, shape[1] - left))

    def _crop(self, row: Row, raw: NDArray[Any], box: Box, image: NDArray[np.uint8]) -> Crop:
        part, size = raw[_part(box)], self.settings.crop_size
        ids = self._ids(part, row["key"], (box.top, box.left))
        if image.shape[:2] != ids.shape:
            raise OSError("the image is smaller than its label map")
        padded, ids = cut(image, ids, (0, 0), size)
        distances = self._distances(ids, lambda: cut(image, part, (0, 0), size)[1])
        return Crop(row["key"], row["group"], box.top, box.left, 1.0, image=padded, label=ids, distances=distances)

    def _shrink(self, row: Row, raw: NDArray[Any], image: NDArray[np.uint8]) -> Crop:
        size, (height, width) = self.settings.crop_size, raw.shape
        small, ids = resize_pair(image, self._ids(raw, row["key"], (0, 0)), size)
        length, side = filled_side((height, width), size)
        # Only the label of this second pair is used, so one pixel is enough for its image.
        distances = self._distances(ids, lambda: resize_pair(image[:1, :1], raw, size)[1])
        return Crop(row["key"], row["group"], 0, 0, length / side, image=small, label=ids, distances=distances)

    def _whole(self, row: Row, raw: NDArray[np.integer]) -> Frame:
        side, longer = self.settings.frames.max_side, max(raw.shape)
        if 0 < side < longer:
            return self._scaled_frame(row, raw, scaled_shape(raw.shape, longer, side), longer / side)
        data, shape = self._file(row)
        _refuse_other_size(shape, raw)
        ids = self._ids(raw, row["key"], (0, 0))
        distances = self._distances(ids, lambda: raw)
        return Frame(row["key"], row["group"], 1.0, image=data, label=ids, distances=distances)

    def _scaled_frame(self, row: Row, raw: NDArray[np.integer], shape: tuple[int, int], scale: float) -> Frame:
        image = self.layout.read_image(self.tree, row["image"], row["slice_index"])
        _refuse_other_size(image.shape[:2], raw)
        image, ids = scale_pair(image, self._ids(raw, row["key"], (0, 0)), shape)
        # Only the label of this second pair is used, so one pixel is enough for its image.
        distances = self._distances(ids, lambda: scale_pair(image[:1, :1], raw, shape)[1])
        return Frame(row["key"], row["group"], scale, image=encode_png(image), label=ids, distances=distances)

    def _file(self, row: Row) -> tuple[bytes, tuple[int, int]]:
        """Return a file of the pixels of an image, the source's own unless the layout converts it, and their shape.

        Validate has decoded the source's file, and its checksum is that of the same bytes.
        """
        if self.layout.read_image is read_image:
            data = self.tree.read(row["image"])
            return data, checked_shape(data)
        image = self.layout.read_image(self.tree, row["image"], row["slice_index"])
        return encode_png(image), image.shape[:2]

    def _distances(self, ids: NDArray[np.uint8], values: Callable[[], NDArray[np.integer]]) -> dict[str, Maps]:
        """Return the distance maps of a finished crop or frame, given a function that returns its raw values."""
        if not self.settings.distances:
            return {}
        truth = Truth(ids, values(), len(self.label_spec.classes), self.label_spec.background)
        return {name: DISTANCES[name](truth) for name in self.settings.distances}

    def _ids(self, raw: NDArray[np.integer], key: str, corner: Corner) -> NDArray[np.uint8]:
        """Return the class ids of a part of an image, given its raw values and its corner."""
        ids = np.empty(raw.shape, np.uint8)
        for start in range(0, len(raw), ROWS):
            rows = slice(start, start + ROWS)
            self._lut.take(raw[rows], out=ids[rows], mode="clip")
        masked = self.exclusions.mask(ids, key, corner)
        return ids if masked is None else masked

    @cached_property
    def _lut(self) -> NDArray[np.uint8]:
        """The lookup table from raw value to class id; values that the layout does not know are ignored."""
        return np.where(self.label_spec.lut == UNKNOWN, IGNORED, self.label_spec.lut).astype(np.uint8)

    @cached_property
    def _is_foreground(self) -> Foreground:
        return Foreground(self._lut, self.label_spec.background)


def _part(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


def _refuse_other_size(shape: tuple[int, ...], raw: NDArray[np.integer]) -> None:
    if shape != raw.shape:
        raise OSError("the image and its label map differ in size")
