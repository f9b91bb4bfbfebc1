"""The manifest: one row per pair of image and label map, with checksums, and what the rows belong to."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from segline.data.layouts import LAYOUTS, Layout
from segline.errors import StageError
from segline.outputs import write_file

NAME = "manifest.parquet"
FETCHED = "files"
COLUMNS = {
    "key": "str",
    "image": "str",
    "label": "str",
    "group": "str",
    "split": "str",
    "height": "int64",
    "width": "int64",
    "image_bytes": "int64",
    "label_bytes": "int64",
    "image_sha256": "str",
    "label_sha256": "str",
}


@dataclass(frozen=True)
class Origin:
    """Where a manifest's rows come from.

    Attributes:
        source: as the user gave it.
        layout: a name in ``LAYOUTS``.
        root: the folder that the rows' paths start from; empty for the folder beside the manifest of ingest,
            where files are kept that could not be read in place.
    """

    source: str
    layout: str
    root: str


@dataclass(frozen=True)
class Manifest:
    """The pairs of a data set (columns as in ``COLUMNS``, sorted by key) and their origin."""

    rows: pd.DataFrame
    origin: Origin

    @property
    def layout(self) -> Layout:
        """The layout that reads these files."""
        return LAYOUTS[self.origin.layout]

    @property
    def content_hash(self) -> str:
        """The SHA-256 over keys, groups, splits and both checksums of every row: equal data, equal hash."""
        identity = self.rows[["key", "group", "split", "image_sha256", "label_sha256"]]
        text = identity.to_csv(index=False, lineterminator="\n")
        return hashlib.sha256(f"{self.origin.layout}\n{text}".encode()).hexdigest()

    def root(self, ingested: Path) -> Path:
        """The folder that the rows' paths start from, given the folder that ingest wrote."""
        return Path(self.origin.root) if self.origin.root else ingested / FETCHED


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.parquet`` into a folder, atomically."""
    table = pa.Table.from_pandas(manifest.rows[list(COLUMNS)], preserve_index=False)
    kept: dict[str, Any] = asdict(manifest.origin)
    table = table.replace_schema_metadata({f"segline.{key}": value for key, value in kept.items()})
    write_file(folder / NAME, lambda temporary: pq.write_table(table, temporary))


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.parquet`` from a folder.

    Raises:
        StageError: there is none, or it is not one of Segline's.
    """
    path = folder / NAME
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise StageError(f"{path} is missing or broken; run the stage that writes {folder} again") from None
    kept = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    origin = Origin(*(kept.get(f"segline.{name}", "") for name in ("source", "layout", "root")))
    if origin.layout not in LAYOUTS:
        raise StageError(f"{path} was not written by this version of segline; run `segline ingest` again")
    return Manifest(rows=table.to_pandas(), origin=origin)
