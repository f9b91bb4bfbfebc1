"""The validation, which validate writes: the pairs that passed, their statistics, and a report on all pairs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segline.artifacts.artifact import Artifact, Record
from segline.files.atomic import write_file, write_json, write_text

if TYPE_CHECKING:
    import pandas as pd

PAGE = "docs/index.html"
RECORD = "validation.json"
QUARANTINE = "quarantine.csv"
QUARANTINE_SHEET = "quarantine.jpg"
STATISTICS = "statistics.parquet"
"""The statistics of pairs. Label keeps the rows of the training pairs, and promote keeps these with a version."""
PIECES = "pieces"
"""The folder in which an unfinished run keeps the statistics of the pairs that it has measured."""
# Numbers are missing when a file is, so their types allow missing values.
STATISTICS_COLUMNS = {
    "key": "str",
    "image_error": "str",
    "label_error": "str",
    "height": "Int64",
    "width": "Int64",
    "mode": "str",
    "bits": "Int64",
    "orientation": "Int64",
    "brightness": "Float64",
    "contrast": "Float64",
    "sharpness": "Float64",
    "phash": "str",
    "label_height": "Int64",
    "label_width": "Int64",
    "unknown_values": "str",
    "labelled_pixels": "Int64",
    "ignored_pixels": "Int64",
    "foreground_share": "Float64",
    "classes": "str",
    "class_pixels": "object",
}
"""The columns of :func:`segline.data.statistics.measure` and their types.

======================================  =======================================================================
``image_error``, ``label_error``        the fault of the file; the numbers of a broken file are missing
``height``, ``width``                   the image's size in px; ``label_height``, ``label_width``: the label map's
``mode``, ``bits``                      Pillow's name of the image's channels, and the bits of each
``orientation``                         the EXIF orientation; 1 is upright
``brightness``, ``contrast``            mean and standard deviation of the gray levels, 0 to 255
``sharpness``                           :func:`sharpness`; a blurred image has little
``phash``                               :func:`phash`, 16 hex digits; empty for an image of one gray level
``unknown_values``                      raw label values that the layout does not know; empty for none
``labelled_pixels``, ``ignored_pixels`` counts of the label map's pixels
``foreground_share``                    foreground's share of the labelled pixels
``classes``                             the layout's classes as a JSON list, the same in every row
``class_pixels``                        a list with the label map's pixels of each class
======================================  =======================================================================
"""

COLUMNS_OF_0_1 = {"blur": "sharpness", "looks": "phash"}
"""The names that version 0.1 gave to two of the columns; such files are kept with a champion."""


def write_report(folder: Path, *, page: str, record: Record, quarantine: "pd.DataFrame") -> None:
    """Write the report on all pairs: the Data Docs page, ``validation.json`` and ``quarantine.csv``."""
    write_text(folder / PAGE, page)
    write_text(folder / QUARANTINE, quarantine.to_csv(index=False, lineterminator="\n"))
    write_json(folder / RECORD, record)


def write_statistics(folder: Path, table: "pd.DataFrame") -> None:
    """Write ``statistics.parquet`` into a folder, atomically."""
    write_file(folder / STATISTICS, partial(table[list(STATISTICS_COLUMNS)].to_parquet, index=False))


def read_statistics(folder: Path) -> "pd.DataFrame":
    """Read ``statistics.parquet`` from a folder; columns that 0.1 named otherwise have today's names.

    Args:
        folder: The folder of validate or label, or one with the file that MLflow keeps.

    Raises:
        StageError: The file is missing or broken.
    """
    import pandas as pd

    with VALIDATION.reading(folder / STATISTICS):
        table = pd.read_parquet(folder / STATISTICS).rename(columns=COLUMNS_OF_0_1)
        return table[list(STATISTICS_COLUMNS)]


def _metadata(folder: Path) -> Record:
    """Return the plain values of ``validation.json``."""
    record = VALIDATION.read_json(folder / RECORD)
    return {name: value for name, value in record.items() if isinstance(value, str | int | float | bool)}


VALIDATION = Artifact(
    name="validation",
    stage="validate",
    format=3,
    code=(
        "segline.artifacts.manifest",
        "segline.artifacts.validation",
        "segline.classes",
        "segline.data.boxes",
        "segline.data.decoding",
        "segline.data.layouts",
        "segline.data.pairs",
        "segline.data.statistics",
        "segline.data.validation",
        "segline.stages.validate",
    ),
    metadata=_metadata,
    page=PAGE,
)
