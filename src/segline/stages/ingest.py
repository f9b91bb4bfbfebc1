"""Ingest: find the pairs of a source and write their manifest with checksums.

A folder is read in place. Run again, it looks only at files whose size or time of change is new, and when
nothing differs it says so and writes nothing.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from os import cpu_count
from pathlib import Path
from shutil import rmtree

import pandas as pd
from PIL import Image

from segline.data.layouts import LAYOUTS, Pair
from segline.data.manifest import COLUMNS, FETCHED, NAME, Manifest, Origin, read_manifest, write_manifest
from segline.data.synthetic import write_streets
from segline.errors import DataError, SourceError, StageError
from segline.outputs import file_hash, source_hash, write_file, write_text
from segline.params import Ingest, Params, as_json
from segline.progress import bar, say

SYNTHETIC = "synthetic:"
CHECKSUMS = "checksums.parquet"


def run(params: Params, *, out: Path) -> None:
    """Write ``out/manifest.parquet``; synthetic scenes go to ``out/files``.

    Raises:
        SourceError: the source is missing, empty or of a kind that is not known.
        DataError: the source does not follow the layout.
    """
    settings = params.ingest
    origin, root = _open_source(settings, params.seed, out)
    pairs = LAYOUTS[settings.layout].find(root)
    _refuse_twins(pairs, root)
    manifest = Manifest(rows=_rows(pairs, root, out), origin=origin)
    if _same(out, manifest):
        say(f"ingest: nothing changed in {settings.source} ({len(pairs)} pairs)")
        return
    write_manifest(out, manifest)
    groups = manifest.rows["group"].nunique()
    say(f"ingest: {len(pairs)} pairs in {groups} groups from {settings.source}, data {manifest.content_hash[:12]}")


def _open_source(settings: Ingest, seed: int, out: Path) -> tuple[Origin, Path]:
    """The origin to record, and the folder to read now."""
    source = settings.source
    if source == SYNTHETIC:
        if settings.layout != "wad":
            raise SourceError(f"ingest.layout: got {settings.layout!r}, but {SYNTHETIC} scenes have the layout 'wad'")
        _write_streets(settings, seed, out / FETCHED)
        return Origin(source=source, layout=settings.layout, root=""), out / FETCHED
    if not source or ":" in source.split("/")[0]:
        raise SourceError(f"ingest.source: {source!r} is of an unknown kind; give a folder, or {SYNTHETIC}")
    root = Path(source)
    if not root.is_dir():
        what = "is a file" if root.exists() else f"is not there, and is not {SYNTHETIC}"
        raise SourceError(f"ingest.source: {source} {what} (looked from {Path.cwd()}); give the folder with the data")
    if not any(root.iterdir()):
        raise SourceError(f"ingest.source: {source} is empty; put the data there or give another folder")
    return Origin(source=source, layout=settings.layout, root=source), root


def _write_streets(settings: Ingest, seed: int, folder: Path) -> None:
    """Draw the scenes that are not there yet; scenes of another recipe are removed first."""
    wanted = settings.synthetic
    recipe = f"{as_json(wanted)} seed {seed} code {source_hash('data.synthetic')}"
    mark = folder / "recipe.txt"
    if not mark.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise StageError(f"{folder} holds files that segline did not draw; move them or give --out another folder")
    if not mark.is_file() or mark.read_text() != recipe:
        rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(mark, recipe)
    with bar("drawing street scenes", wanted.drives * wanted.frames_per_drive) as advance:
        write_streets(folder, **asdict(wanted), seed=seed, workers=cpu_count() or 1, progress=advance)


def _refuse_twins(pairs: list[Pair], root: Path) -> None:
    seen: dict[str, Pair] = {}
    for pair in pairs:
        twin = seen.setdefault(pair.key, pair)
        if twin is not pair:
            raise DataError(f"{root}: {twin.image} and {pair.image} have the same name; rename one or remove it")


def _rows(pairs: list[Pair], root: Path, out: Path) -> pd.DataFrame:
    """The manifest's rows; a file that looks unchanged since the last run is not read again."""
    known = _read_checksums(out / CHECKSUMS)
    with bar("reading files", len(pairs)) as advance, ThreadPoolExecutor() as pool:
        rows, stamps = [], []
        for row, stamp in pool.map(lambda pair: _row(pair, root, known), pairs):
            rows.append(row)
            stamps.append(stamp)
            advance(1)
    out.mkdir(parents=True, exist_ok=True)
    fresh = pd.DataFrame(stamps)
    if known != _stamps(fresh):
        write_file(out / CHECKSUMS, lambda path: fresh.to_parquet(path))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _row(pair: Pair, root: Path, known: dict[str, dict[str, object]]) -> tuple[dict[str, object], dict[str, object]]:
    """The manifest's row of a pair, and its stamp for the next run."""
    try:
        return _read_row(pair, root, known)
    except OSError as error:
        where = f"{root}: {error.filename or pair.key}"
        raise SourceError(f"{where} cannot be read ({error.strerror}); mend or remove it") from None


def _read_row(
    pair: Pair, root: Path, known: dict[str, dict[str, object]]
) -> tuple[dict[str, object], dict[str, object]]:
    image, label = root / pair.image, root / pair.label
    stamp: dict[str, object] = {"image": pair.image, "label": pair.label, "root": str(root)}
    for name, path in (("image", image), ("label", label)):
        stat = path.stat()
        stamp |= {f"{name}_bytes": stat.st_size, f"{name}_ns": stat.st_mtime_ns}
    before = known.get(pair.image, {})
    if all(before.get(key) == value for key, value in stamp.items()):
        stamp = before
    else:
        height, width = _size(image)
        stamp |= {"image_sha256": file_hash(image), "label_sha256": file_hash(label), "height": height, "width": width}
    return asdict(pair) | {key: stamp[key] for key in COLUMNS if key in stamp and key not in ("image", "label")}, stamp


def _size(path: Path) -> tuple[int, int]:
    """Height and width from the file's head; (0, 0) when it is no image, which validate then reports."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, Image.DecompressionBombError):
        return 0, 0


def _read_checksums(path: Path) -> dict[str, dict[str, object]]:
    try:
        return _stamps(pd.read_parquet(path))
    except (OSError, ValueError):
        return {}


def _stamps(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    return {str(row["image"]): row for row in table.to_dict("records")}  # type: ignore[misc]


def _same(out: Path, manifest: Manifest) -> bool:
    if not (out / NAME).is_file():
        return False
    try:
        before = read_manifest(out)
    except StageError:
        return False
    return before.origin == manifest.origin and before.rows.equals(manifest.rows)
