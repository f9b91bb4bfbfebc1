"""The manifest, which ingest writes: one row per pair of image and label map, with checksums and their origin."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segline.artifacts.artifact import Artifact, Record
from segline.config import tables
from segline.errors import StageError, shown
from segline.files.atomic import write_file
from segline.files.packs import INDEX
from segline.redaction import redact

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FILE = "manifest.parquet"
PREFIX = "segline."
"""The start of the names in the file's metadata."""
FILES = "files"
"""The folder beside the manifest with the packs of files that cannot be read in place."""
CHECKSUMS = "checksums.parquet"
"""The checksums of the last run, so that ingest reads only files that changed."""
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
OUTSIDE = r"^/|(?:^|/)\.\.(?:/|$)|\x00"
"""What no path below a root has."""
IDENTITY = ["key", "slice_index", "group", "split", "image_hash", "label_hash"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a manifest's rows.

    Attributes:
        source: The source as the user gave it.
        layout: The layout's name in ``LAYOUTS``.
        options: The layout's options, as JSON text.
        legend: The text of the layout's file of classes; empty for a layout that has none.
        root: The root of the rows' paths: a folder, an ``s3://`` prefix, or empty for the packs in the folder
            ``files`` beside the manifest, which keep files that cannot be read in place.
        revision: The data's revision in version control (``git:...``, ``dvc:...``); empty when they are in none.
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

    rows: "pd.DataFrame"
    origin: Origin

    @property
    def content_hash(self) -> str:
        """The SHA-256 over all that identifies a row and the way to read it: equal data have equal hashes."""
        # Version 0.1 named the column `plane`; that name stays in what is hashed, so that equal data keep their hash.
        header = ["plane" if name == "slice_index" else name for name in IDENTITY]
        text = self.rows[IDENTITY].to_csv(index=False, header=header, lineterminator="\n")
        reading = f"{self.origin.layout}\n{self.origin.options}\n{self.origin.legend}\n"
        return hashlib.sha256(f"{reading}{text}".encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.parquet`` into a folder, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(manifest.rows[list(COLUMNS)], preserve_index=False)
    origin = {f"{PREFIX}{key}": value for key, value in asdict(manifest.origin).items()}
    table = table.replace_schema_metadata(origin | {f"{PREFIX}format": str(MANIFEST.format)})
    write_file(folder / FILE, lambda temporary: pq.write_table(table, temporary))


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.parquet`` from the folder of ingest or of validate.

    Raises:
        StageError: The file is missing or broken, or another version of Segline wrote it.
    """
    import pyarrow.parquet as pq

    path = folder / FILE
    with MANIFEST.reading(path):
        table = pq.read_table(path)
    metadata = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
    _refuse_other_format(path, metadata)
    origin = Origin(**{name: metadata[f"{PREFIX}{name}"] for name in Origin.__dataclass_fields__})
    if set(COLUMNS) != set(table.column_names) or origin.layout not in tables.options("data.layouts"):
        raise StageError(f"{path} has other columns, or a layout that is not known; run `segline ingest` again")
    _refuse_other_options(path, origin)
    if wrong := [name for name, kind in COLUMNS.items() if not _has_type(table.column(name), kind)]:
        raise StageError(
            f"{path} lacks values in the column {wrong[0]}, or has others than {COLUMNS[wrong[0]]}; "
            "run `segline ingest` again"
        )
    rows = table.to_pandas()
    _refuse_outside(path, rows)
    return Manifest(rows=rows, origin=origin)


def _refuse_outside(path: Path, rows: "pd.DataFrame") -> None:
    """Raise a StageError if a row names a file that is not below the manifest's root."""
    for column in ("image", "label"):
        outside = rows[column][rows[column].str.contains(OUTSIDE)]
        if len(outside):
            raise StageError(
                f"{path} names {shown(outside.iloc[0])}, which is not below its root; run `segline ingest` again"
            )


def _refuse_other_options(path: Path, origin: Origin) -> None:
    """Raise a StageError unless the options are a JSON mapping with names that the layout knows."""
    try:
        names = dict(json.loads(origin.options)).keys()
    except (ValueError, TypeError, RecursionError):
        names = {"": None}.keys()
    if not names <= tables.options("data.layouts")[origin.layout].keys():
        raise StageError(
            f"{path} has options that its layout {origin.layout} does not know; run `segline ingest` again"
        )


def _has_type(column: "pa.ChunkedArray", kind: str) -> bool:
    """Return whether a column has values of one of the types of ``COLUMNS``, and lacks none."""
    import pyarrow as pa

    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return not column.null_count and (is_text if kind == "str" else pa.types.is_int64(column.type))


def _refuse_other_format(path: Path, metadata: Mapping[str, str]) -> None:
    number = metadata.get(f"{PREFIX}format", "1" if f"{PREFIX}source" in metadata else "none")
    names = {f"{PREFIX}{name}" for name in Origin.__dataclass_fields__}
    if number != str(MANIFEST.format) or not names <= metadata.keys():
        raise StageError(
            f"{path} has format {number}, expected {MANIFEST.format}; run `segline ingest`, then `segline validate`"
        )


def _metadata(folder: Path) -> Record:
    """Return the content hash, the number of pairs and their origin."""
    manifest = read_manifest(folder)
    origin = manifest.origin
    return {
        "content_hash": manifest.content_hash,
        "pairs": len(manifest.rows),
        "source": redact(origin.source),
        "layout": origin.layout,
        "revision": origin.revision,
    }


MANIFEST = Artifact(
    name="manifest",
    stage="ingest",
    format=3,
    code=(
        "segline.artifacts.manifest",
        "segline.classes",
        "segline.data.boxes",
        "segline.data.decoding",
        "segline.data.layouts",
        "segline.data.sources",
        "segline.stages.ingest",
        "streets",
    ),
    metadata=_metadata,
    only=(FILE, f"{FILES}/{INDEX}"),
)
