"""Class maps, which merge the classes of a layout into the classes to learn."""

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.layouts import LabelSpec
from segline.errors import DataError


def merge(legend: LabelSpec, wanted: dict[str, list[str]], where: str) -> LabelSpec:
    """Return a legend whose classes are merged from those of another; classes that are not named become ignored.

    Args:
        legend: The legend of the layout.
        wanted: Each new class with the layout's classes in it; empty keeps the legend.
        where: The name of the parameter, for messages.

    Raises:
        DataError: A class is named that the legend does not have.
    """
    if not wanted:
        return legend
    known = list(legend.names)
    unknown = [name for names in wanted.values() for name in names if name not in known]
    if unknown:
        raise DataError(f"{where}: unknown class {unknown[0]!r}; the data have {', '.join(known)}")
    lut = legend.lut.copy()
    lut[legend.lut < len(known)] = IGNORED
    for new_id, names in enumerate(wanted.values()):
        for name in names:
            lut[legend.lut == known.index(name)] = new_id
    classes = tuple(LabelClass(new, legend.classes[known.index(names[0])].color) for new, names in wanted.items())
    before = None if legend.background is None else known[legend.background]
    background = next((i for i, names in enumerate(wanted.values()) if before in names), None)
    return LabelSpec(classes, background, lut)


def merge_counts(pixels: NDArray[np.number], legend: LabelSpec, merged: LabelSpec) -> NDArray[np.float64]:
    """Sum up pixel counts (n, classes of the legend) to counts (n, classes of the merged legend)."""
    sums = np.zeros((len(pixels), len(merged.classes)))
    for before in range(len(legend.classes)):
        after = merged.lut[legend.lut == before]
        if len(after) and after[0] != IGNORED:
            sums[:, after[0]] += pixels[:, before].astype(np.float64)
    return sums
