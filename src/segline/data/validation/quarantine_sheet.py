"""The contact sheet of the quarantined pairs."""

from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from segline.artifacts.manifest import Manifest
from segline.data.pairs import label_spec_of, layout_of
from segline.data.statistics import reduction
from segline.data.validation.contact_sheet import HEIGHT, Thumbnail, colorize, write_sheet
from segline.data.validation.result import ValidationResult
from segline.files.trees import Tree

MAX_THUMBNAILS = 48


def write_quarantine_sheet(path: Path, result: ValidationResult, manifest: Manifest, tree: Tree) -> None:
    """Write the first quarantined pairs as pictures; without any the heading alone, as a pipeline expects the file."""
    table, bad = result.table, result.quarantined
    rows = table[table["key"].isin(bad["key"])].head(MAX_THUMBNAILS).to_dict("records")
    reasons = dict(zip(bad["key"], bad["reasons"], strict=True))
    thumbnails = [_thumbnail(row, reasons[row["key"]], manifest, tree) for row in rows]
    more = f", +{len(bad) - len(thumbnails)} more" if len(bad) > len(thumbnails) else ""
    write_sheet(path, thumbnails, heading=f"quarantined: {len(bad)} of {len(table)} pairs{more}")


def _thumbnail(row: dict[Hashable, Any], reason: str, manifest: Manifest, tree: Tree) -> Thumbnail:
    """Return a pair's thumbnail; a file that cannot be read is left out."""
    layout, image, label = layout_of(manifest.origin), None, None
    with suppress(OSError):
        if pd.notna(row["shortest_side"]):
            reduce = reduction(row["shortest_side"], HEIGHT)
            image = layout.read_image(tree, row["image"], row["slice_index"], reduce=reduce)
    with suppress(OSError):
        if pd.notna(row["labelled_pixels"]):
            label = colorize(layout.read_label(tree, row["label"], row["slice_index"]), label_spec_of(manifest.origin))
    return Thumbnail(row["key"], reason, image, label)
