"""The probabilities of many candidates on a split, in a bounded space on the disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import read_bundle
from segline.data.split import Split
from segline.files.space import reserve
from segline.inference.bundle import load_models
from segline.inference.predict import TRAIN_AGAIN, naming_model, probabilities
from segline.progress import progress_bar

Planes = NDArray[np.float16]
"""Probabilities (crops, classes, height, width)."""
SHARED_PART = 4
"""The part of the space, as its divisor, for the crops that are predicted anew in every pass."""


class Predictions:
    """The candidates' probabilities on a split, which are read in passes, window by window.

    The first crops, as many as there is space for, are predicted once. The windows of the others share a place, and are
    predicted in every pass. All windows consist of whole batches, so that the bits are the same in any space.
    """

    def __init__(
        self, folders: Sequence[Path], split: Split, *, batch_size: int, scratch: Path, max_bytes: int
    ) -> None:
        """Measure how many crops there is space for; at least one batch is kept at a time.

        Args:
            folders: The folders of the candidates, which have the same classes.
            split: The split.
            batch_size: The crops that a model gets at once.
            scratch: A folder for the probabilities, which exists.
            max_bytes: The space that they may take.
        """
        self.folders, self.split, self.batch_size, self.scratch = list(folders), split, batch_size, scratch
        self._item = (len(read_bundle(folders[0]).classes), *split.take([0])[1].shape[1:])
        fitting = max_bytes // (len(folders) * prod(self._item) * np.dtype(np.float16).itemsize)
        self.window = min(len(split), max(batch_size, self._whole_batches(fitting // SHARED_PART)))
        """The crops of a window that is predicted in every pass."""
        self.kept = len(split) if fitting >= len(split) else max(0, self._whole_batches(fitting - self.window))
        """The crops that are predicted once."""
        self._places: dict[str, dict[str, Planes]] = {}

    @property
    def names(self) -> list[str]:
        """The names of the candidates."""
        return [folder.name for folder in self.folders]

    def windows(self) -> Iterator[tuple[range, Mapping[str, Planes]]]:
        """Yield the positions of each window, and the candidates' probabilities there until the next one.

        Raises:
            OSError: The disk has no space for them.
        """
        is_first_pass = "kept" not in self._places
        crops = len(self.split) - (0 if is_first_pass else self.kept)
        with progress_bar("predicting", crops * len(self.folders)) as advance:
            if self.kept:
                planes = self._place("kept", self.kept)
                if is_first_pass:
                    self._predict(range(self.kept), planes, advance)
                yield range(self.kept), planes
            for start in range(self.kept, len(self.split), self.window):
                positions = range(start, min(start + self.window, len(self.split)))
                planes = {name: plane[: len(positions)] for name, plane in self._place("shared", self.window).items()}
                self._predict(positions, planes, advance)
                yield positions, planes

    def _whole_batches(self, crops: int) -> int:
        return crops // self.batch_size * self.batch_size

    def _place(self, kind: str, crops: int) -> dict[str, Planes]:
        """Return the planes of a kind, which get their space when they are first needed."""
        if kind not in self._places:
            shape = (crops, *self._item)
            size = prod(shape) * np.dtype(np.float16).itemsize
            paths = {name: self.scratch / f"{name}.{kind}" for name in self.names}
            for path in paths.values():
                reserve(path, size)
            self._places[kind] = {name: np.memmap(path, np.float16, "r+", shape=shape) for name, path in paths.items()}
        return self._places[kind]

    def _predict(self, positions: range, planes: Mapping[str, Planes], advance: Callable[[int], None]) -> None:
        """Fill the planes; the models of one candidate are in memory at a time."""
        for folder in self.folders:
            models = load_models(folder, read_bundle(folder))
            for start in range(0, len(positions), self.batch_size):
                batch = positions[start : start + self.batch_size]
                images, _ = self.split.take(batch)
                keys = self.split.keys(batch)
                with naming_model(str(folder), TRAIN_AGAIN):
                    planes[folder.name][start : start + len(batch)] = probabilities(models, images, keys).cpu().numpy()
                advance(len(batch))
