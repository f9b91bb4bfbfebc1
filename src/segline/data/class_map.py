"""Class maps: a layout's classes merged into those that are learnt."""

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.layouts import LabelSpec
from segline.errors import DataError


def merge(legend: LabelSpec, wanted: dict[str, list[str]], where: str) -> LabelSpec:
    """The legend with new classes made of its own; classes that no new one names are ignored.

    Args:
        legend: of the layout.
        wanted: new class -> the layout's classes in it; empty keeps the legend.
        where: the parameter's name, for messages.

    Raises:
        DataError: a class that the legend does not have.
    """
    if not wanted:
        return legend
    known = list(legend.names)
    unknown = [name for names in wanted.values() for name in names if name not in known]
    if unknown:
        raise DataError(f"{where}: unknown class {unknown[0]!r}; the data have {', '.join(known)}")
    table = legend.table.copy()
    table[legend.table < len(known)] = IGNORED
    for new_id, names in enumerate(wanted.values()):
        for name in names:
            table[legend.table == known.index(name)] = new_id
    classes = tuple(LabelClass(new, legend.classes[known.index(names[0])].colour) for new, names in wanted.items())
    before = None if legend.background is None else known[legend.background]
    background = next((i for i, names in enumerate(wanted.values()) if before in names), None)
    return LabelSpec(classes, background, table)


def merge_counts(pixels: NDArray[np.number], legend: LabelSpec, merged: LabelSpec) -> NDArray[np.float64]:
    """Pixels of the classes of a legend (n, classes), summed up to those of the merged one (n, merged classes)."""
    sums = np.zeros((len(pixels), len(merged.classes)))
    for before in range(len(legend.classes)):
        after = merged.table[legend.table == before]
        if len(after) and after[0] != IGNORED:
            sums[:, after[0]] += pixels[:, before].astype(np.float64)
    return sums
