"""The manifest: one row per pair of image and label map, with checksums, and the origin of the rows."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from segline.data.layouts import LAYOUTS, LabelSpec, Layout
from segline.errors import StageError
from segline.files.atomic import write_file
from segline.files.trees import Checked, Tree

NAME = "manifest.parquet"
COLUMNS = {
    "key": "str",
    "image": "str",
    "label": "str",
    "slice_index": "int64",
    "group": "str",
    "split": "str",
    "image_bytes": "int64",
    "label_bytes": "int64",
    "image_hash": "str",
    "label_hash": "str",
}
IDENTITY = ["key", "slice_index", "group", "split", "image_hash", "label_hash"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a manifest's rows.

    Attributes:
        source: The source as the user gave it.
        layout: The name of the layout in ``LAYOUTS``.
        options: The options of the layout, as JSON text.
        legend: The text of the layout's legend file; empty when it has none.
        root: The root of the rows' paths: a folder, an ``s3://`` prefix, or empty for the folder ``files`` beside the
            manifest of ingest, which holds files that cannot be read in place.
        revision: The revision of the data in version control (``git:...``, ``dvc:...``); empty without version control.
    """

    source: str
    layout: str
    options: str = "{}"
    legend: str = ""
    root: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Manifest:
    """The pairs of a data set (columns as in ``COLUMNS``, sorted by key) and their origin."""

    rows: pd.DataFrame
    origin: Origin

    @cached_property
    def layout(self) -> Layout:
        """The layout that reads these files."""
        return LAYOUTS[self.origin.layout](**json.loads(self.origin.options))

    @cached_property
    def legend(self) -> LabelSpec:
        """The meaning of the label values."""
        return self.layout.legend(self.origin.legend)

    @property
    def content_hash(self) -> str:
        """The SHA-256 over the identity of every row and the way to read it: equal data have equal hashes."""
        # Version 0.1 named the column `plane`; that name stays in what is hashed, so that equal data keep their hash.
        header = ["plane" if name == "slice_index" else name for name in IDENTITY]
        text = self.rows[IDENTITY].to_csv(index=False, header=header, lineterminator="\n")
        reading = f"{self.origin.layout}\n{self.origin.options}\n{self.origin.legend}\n"
        return hashlib.sha256(f"{reading}{text}".encode()).hexdigest()


def checked(tree: Tree, manifest: Manifest) -> Tree:
    """Wrap the tree so that it reads the files of these rows only if they are as they were when they were ingested.

    A label of several files has one checksum for all of them, so these files are not checked.
    """
    sums = dict(zip(manifest.rows["image"], manifest.rows["image_hash"], strict=True))
    labels = zip(manifest.rows["label"], manifest.rows["label_hash"], strict=True)
    sums |= {path: checksum for path, checksum in labels if manifest.layout.label_files(path) == (path,)}
    return Checked(tree, sums)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.parquet`` into a folder, atomically."""
    table = pa.Table.from_pandas(manifest.rows[list(COLUMNS)], preserve_index=False)
    table = table.replace_schema_metadata({f"segline.{key}": value for key, value in asdict(manifest.origin).items()})
    write_file(folder / NAME, lambda temporary: pq.write_table(table, temporary))


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.parquet`` from a folder.

    Raises:
        StageError: The file is missing, or it is not a manifest of this version.
    """
    path = folder / NAME
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise StageError(f"{path} is missing or broken; run the stage that writes {folder} again") from None
    kept = {key.decode().removeprefix("segline."): text.decode() for key, text in (table.schema.metadata or {}).items()}
    ours = all(name in kept for name in Origin.__dataclass_fields__) and set(COLUMNS) == set(table.column_names)
    if not ours or kept["layout"] not in LAYOUTS:
        raise StageError(f"{path} was not written by this version of segline; run `segline ingest` again")
    origin = Origin(**{name: kept[name] for name in Origin.__dataclass_fields__})
    return Manifest(rows=table.to_pandas(), origin=origin)
