"""Class maps, which merge the classes of a layout into the classes to learn."""

import numpy as np
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.layouts import LabelSpec
from segline.errors import DataError


def merge(label_spec: LabelSpec, wanted: dict[str, list[str]], where: str) -> LabelSpec:
    """Return a label spec whose classes merge classes of another; classes that are not named become ignored.

    Args:
        label_spec: The label spec of the layout.
        wanted: Each new class with the layout's classes in it; empty keeps the label spec.
        where: The name of the parameter, for messages.

    Raises:
        DataError: A class is named that the label spec does not have.
    """
    if not wanted:
        return label_spec
    known = list(label_spec.names)
    unknown = [name for names in wanted.values() for name in names if name not in known]
    if unknown:
        raise DataError(f"{where}: unknown class {unknown[0]!r}; the data have {', '.join(known)}")
    lut = label_spec.lut.copy()
    lut[label_spec.lut < len(known)] = IGNORED
    for new_id, names in enumerate(wanted.values()):
        for name in names:
            lut[label_spec.lut == known.index(name)] = new_id
    classes = tuple(LabelClass(new, label_spec.classes[known.index(names[0])].color) for new, names in wanted.items())
    before = None if label_spec.background is None else known[label_spec.background]
    background = next((i for i, names in enumerate(wanted.values()) if before in names), None)
    return LabelSpec(classes, background, lut)


def merge_counts(pixels: NDArray[np.number], label_spec: LabelSpec, merged: LabelSpec) -> NDArray[np.float64]:
    """Sum up pixel counts (n, classes of ``label_spec``) to counts (n, classes of ``merged``)."""
    sums = np.zeros((len(pixels), len(merged.classes)))
    for before in range(len(label_spec.classes)):
        after = merged.lut[label_spec.lut == before]
        if len(after) and after[0] != IGNORED:
            sums[:, after[0]] += pixels[:, before].astype(np.float64)
    return sums
