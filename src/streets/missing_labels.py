"""Labels left out on purpose, as the real data does by accident."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streets.classes import BACKGROUND

VISIBLE = 0.004  # share of the picture; nobody would overlook a larger object


@dataclass(frozen=True)
class MissingLabel:
    """An object without a label: the value its pixels would have had, and their number."""

    image: str
    value: int
    class_id: int
    pixels: int


def drop_label(
    label: NDArray[np.uint16], rng: np.random.Generator, image: str
) -> tuple[NDArray[np.uint16], MissingLabel | None]:
    """Erase a clearly visible object from the label, or the largest if none is; a lone object is kept."""
    values, counts = np.unique(label[label >= 1000], return_counts=True)
    if len(values) < 2:
        return label, None
    enough = min(VISIBLE * label.size, int(counts.max()))
    index = int(rng.choice(np.flatnonzero(counts >= enough)))
    value = int(values[index])
    erased = np.where(label == value, np.uint16(BACKGROUND), label)
    return erased, MissingLabel(image, value, value // 1000, int(counts[index]))
