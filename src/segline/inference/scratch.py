"""The probabilities of many candidates on a split, in a bounded space on the disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import read_bundle
from segline.config.sections import Evaluate
from segline.data.split import Split
from segline.files.space import reserve
from segline.inference.bundle import load_models
from segline.inference.predict import TRAIN_AGAIN, naming_model, predict_tiles
from segline.progress import progress_bar

Planes = NDArray[np.float16]
"""Probabilities (items, classes, height, width)."""
SHARED_PART = 4
"""The part of the space, as its divisor, for the batches that are predicted anew in every pass."""


class Predictions:
    """The candidates' probabilities on a split, which are read in passes, batch by batch.

    The first batches, as many as there is space for, are predicted once. The others are predicted in every pass, in
    windows of several batches that share a place, so that a candidate's models are loaded once for a window. Batches
    depend on the split and the limits alone: the bits are the same in any space.
    """

    def __init__(
        self, folders: Sequence[Path], split: Split, limits: Evaluate, *, scratch: Path, max_bytes: int
    ) -> None:
        """Measure how many batches there is space for; at least one is kept at a time.

        Args:
            folders: The folders of the candidates, which have the same classes.
            split: The split.
            limits: The bounds of a forward pass, ``batch_size`` and ``max_pixels``.
            scratch: A folder for the probabilities, which exists.
            max_bytes: The space that they may take.
        """
        self.folders, self.split, self.limits, self.scratch = list(folders), split, limits, scratch
        self._classes = len(read_bundle(folders[0]).classes)
        self._batches = list(split.ranges(limits.batch_size, limits.max_pixels))
        # Of one candidate, in numbers.
        self._sizes = [self._classes * split.pixels(batch) for batch in self._batches]
        fitting = max_bytes // (len(folders) * np.dtype(np.float16).itemsize)
        self._window = max(fitting // SHARED_PART, *self._sizes)
        space = fitting if sum(self._sizes) <= fitting else fitting - self._window
        self.kept = int(np.searchsorted(np.cumsum(self._sizes), space, side="right"))
        """The batches that are predicted once."""
        self._places: dict[str, dict[str, Planes]] = {}

    @property
    def names(self) -> list[str]:
        """The names of the candidates."""
        return [folder.name for folder in self.folders]

    def batches(self) -> Iterator[tuple[range, Mapping[str, Planes]]]:
        """Yield the positions of each batch, and the candidates' probabilities there until the next one.

        Raises:
            OSError: The disk has no space for them.
        """
        is_first_pass = "kept" not in self._places
        predicted = self._batches if is_first_pass else self._batches[self.kept :]
        with progress_bar("predicting", sum(map(len, predicted)) * len(self.folders)) as advance:
            if self.kept:
                kept = range(self.kept)
                planes = self._planes("kept", kept)
                if is_first_pass:
                    self._predict(kept, planes, advance)
                yield from zip(self._batches[: self.kept], planes, strict=True)
            for window in self._windows():
                planes = self._planes("shared", window)
                self._predict(window, planes, advance)
                yield from zip(self._batches[window.start : window.stop], planes, strict=True)

    def _windows(self) -> Iterator[range]:
        """Yield the numbers of the batches that are predicted together in every pass."""
        start = self.kept
        while start < len(self._batches):
            stop = start + 1
            while stop < len(self._batches) and sum(self._sizes[start : stop + 1]) <= self._window:
                stop += 1
            yield range(start, stop)
            start = stop

    def _planes(self, kind: str, numbers: range) -> list[dict[str, Planes]]:
        """Return the planes of some batches, by candidate; those of a kind get their space when they are first needed.

        They lie in one file of each candidate, one after another.
        """
        if kind not in self._places:
            rest = sum(self._sizes[self.kept :])
            size = sum(self._sizes[: self.kept]) if kind == "kept" else min(self._window, rest)
            paths = {name: self.scratch / f"{name}.{kind}" for name in self.names}
            for path in paths.values():
                reserve(path, size * np.dtype(np.float16).itemsize)
            self._places[kind] = {
                name: np.memmap(path, np.float16, "r+", shape=(size,)) for name, path in paths.items()
            }
        planes, end = [], 0
        for number in numbers:
            batch, start, end = self._batches[number], end, end + self._sizes[number]
            shape = (len(batch), self._classes, *self.split.shape(batch.start))
            planes.append({name: place[start:end].reshape(shape) for name, place in self._places[kind].items()})
        return planes

    def _predict(self, numbers: range, planes: Sequence[Mapping[str, Planes]], advance: Callable[[int], None]) -> None:
        """Fill the planes; the models of one candidate are in memory at a time."""
        for folder in self.folders:
            models = load_models(folder, read_bundle(folder))
            for number, by_name in zip(numbers, planes, strict=True):
                batch = self._batches[number]
                images, _ = self.split.take(batch)
                keys, plane = self.split.keys(batch), by_name[folder.name]
                with naming_model(str(folder), TRAIN_AGAIN):
                    for region, predicted in predict_tiles(models, images, keys, max_pixels=self.limits.max_pixels):
                        plane[..., *region] = predicted.cpu().numpy()
                advance(len(batch))
