"""Ingest: find the pairs of a source and write their manifest with checksums.

Data are read in place where that is possible (see :mod:`segline.data.sources`). A second run reads only files whose
size or stamp has changed, and writes nothing when the manifest stays the same.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from segline.artifacts.manifest import (
    CHECKSUMS,
    COLUMNS,
    FILE,
    FILES,
    MANIFEST,
    Manifest,
    Origin,
    read_manifest,
    write_manifest,
)
from segline.config.params import Params
from segline.config.sections import Ingest
from segline.config.yaml_reader import MAX_CHARACTERS
from segline.data.layouts import LAYOUTS, Layout, Pair
from segline.data.sources import ResolvedSource, open_source
from segline.errors import DataError, SourceError, StageError
from segline.files.atomic import write_file
from segline.files.locks import output_lock
from segline.files.trees import Tree
from segline.progress import log, progress_bar

MAX_CLASSES_BYTES = 4 * MAX_CHARACTERS
"""The size of a file of classes that is read at all."""
BLOCK = 256
"""The number of files that a thread reads at a time."""


def run(params: Params, *, out: Path) -> None:
    """Write ``out/manifest.parquet``, and copy files that cannot be read in place to ``out/files``.

    Raises:
        SourceError: The source is missing, empty or of an unknown kind, or one of its files cannot be read.
        DataError: The source does not follow the layout.
    """
    with output_lock(out.resolve()):
        _ingest(params.ingest, params.seed, out)


def _ingest(settings: Ingest, seed: int, out: Path) -> None:
    source = open_source(settings, seed, out / FILES)
    layout = LAYOUTS[settings.layout.name](**settings.layout.options)
    origin = _origin(settings, layout, source)
    pairs = layout.find(source.tree)
    _check_keys(pairs, source.tree)
    checksums = _checksums(pairs, layout, source.tree, out)
    manifest = Manifest(rows=_rows(pairs, layout, source.tree, checksums), origin=origin)
    if _is_written(out, manifest):
        log(f"ingest: nothing changed in {settings.source} ({len(pairs)} pairs)")
        return
    write_manifest(out, manifest)
    MANIFEST.write_mark(out)
    _log_summary(manifest)


def _origin(settings: Ingest, layout: Layout, source: ResolvedSource) -> Origin:
    return Origin(
        source=settings.source,
        layout=settings.layout.name,
        options=json.dumps(settings.layout.options, sort_keys=True),
        legend=_read_classes(layout, source.tree),
        root=source.root,
        revision=source.revision,
    )


def _read_classes(layout: Layout, tree: Tree) -> str:
    """Return the text of the layout's file of classes; empty for a layout with classes of its own.

    Raises:
        DataError: The file is missing, cannot be read, or has a fault.
    """
    text, name = "", layout.classes_file
    if name:
        if name not in tree.files:
            raise DataError(f"{tree.where}: no {name}; write it, it names the classes")
        if tree.files[name].size > MAX_CLASSES_BYTES:
            raise DataError(f"{tree.where}: {name} has {tree.files[name].size:,} bytes; write a file of classes there")
        try:
            text = tree.read(name).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{tree.where}: {name} cannot be read ({error})") from None
    try:
        layout.label_spec(text)
    except DataError as error:
        raise DataError(f"{tree.where}: {error}") from None
    return text


def _check_keys(pairs: list[Pair], tree: Tree) -> None:
    """Refuse two pairs with the same key."""
    by_key: dict[str, Pair] = {}
    for pair in pairs:
        twin = by_key.setdefault(pair.key, pair)
        if twin is not pair:
            raise DataError(f"{tree.where}: {twin.image} and {pair.image} have the same name; rename one or remove it")


def _rows(pairs: list[Pair], layout: Layout, tree: Tree, checksums: dict[str, str]) -> pd.DataFrame:
    """Return the manifest's rows; a file that a pair lacks has no bytes and no checksum."""
    rows = pd.DataFrame([vars(pair) for pair in pairs], columns=list(COLUMNS))
    for part, files_of in (("image", _itself), ("label", layout.label_files)):
        files = [files_of(path) if path else () for path in rows[part]]
        rows[f"{part}_bytes"] = [sum(tree.files[file].size for file in group) for group in files]
        rows[f"{part}_hash"] = [_join([checksums[file] for file in group]) for group in files]
    return rows.astype(COLUMNS)


def _itself(path: str) -> tuple[str, ...]:
    return (path,)


def _join(sums: list[str]) -> str:
    """Return one checksum for several files."""
    return "".join(sums) if len(sums) < 2 else f"sha256:{hashlib.sha256(' '.join(sums).encode()).hexdigest()}"


def _checksums(pairs: list[Pair], layout: Layout, tree: Tree, out: Path) -> dict[str, str]:
    """Return the checksum of every file of the pairs; a file of unchanged size and stamp is not read again."""
    labels = {path for pair in pairs if pair.label for path in layout.label_files(pair.label)}
    wanted = sorted(labels | {pair.image for pair in pairs if pair.image})
    known = _read_checksums(out / CHECKSUMS, tree)
    stale = [path for path in wanted if known.get(path, ("",))[:2] != _size_and_stamp(tree, path)]
    fresh = dict(zip(stale, _read_files(stale, tree), strict=True))
    checksums = {path: fresh[path] if path in fresh else known[path][2] for path in wanted}
    if fresh or checksums.keys() != known.keys():
        rows = [(tree.where, path, *_size_and_stamp(tree, path), checksums[path]) for path in wanted]
        table = pd.DataFrame(rows, columns=["where", "path", "size", "stamp", "checksum"])
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / CHECKSUMS, lambda path: table.to_parquet(path, write_page_checksum=True))
    return checksums


def _size_and_stamp(tree: Tree, path: str) -> tuple[int, str]:
    return tree.files[path].size, tree.files[path].stamp


def _read_files(paths: list[str], tree: Tree) -> Iterator[str]:
    """Yield the checksums of files, which several threads read at once."""

    def checksum(path: str) -> str:
        try:
            return tree.checksum(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SourceError(f"{tree.where}: {path} cannot be read ({reason}); mend or remove it") from None

    blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
    with progress_bar("reading files", len(paths)) as advance, ThreadPoolExecutor() as pool:
        for sums in pool.map(lambda block: [checksum(path) for path in block], blocks):
            yield from sums
            advance(len(sums))


def _read_checksums(path: Path, tree: Tree) -> dict[str, tuple[int, str, str]]:
    """Return size, stamp and checksum by path, as the last run read them from the same tree."""
    try:
        table = pd.read_parquet(path, page_checksum_verification=True)
        table = table[table["where"] == tree.where]
        values = zip(table["size"].tolist(), table["stamp"].tolist(), table["checksum"].tolist(), strict=True)
        return dict(zip(table["path"].tolist(), values, strict=True))
    except (OSError, ValueError, KeyError):
        return {}


def _is_written(out: Path, manifest: Manifest) -> bool:
    """Return whether the last run wrote the same manifest."""
    if not (out / FILE).is_file():
        return False
    try:
        MANIFEST.check(out)
        before = read_manifest(out)
    except StageError:
        log(f"ingest: {out / FILE} is broken or of another version of segline; it is written anew")
        return False
    return before.origin == manifest.origin and before.rows.equals(manifest.rows)


def _log_summary(manifest: Manifest) -> None:
    rows, source = manifest.rows, manifest.origin.source
    incomplete = int(((rows["image"] == "") | (rows["label"] == "")).sum())
    note = f", {incomplete} of them without image or label" if incomplete else ""
    log(
        f"ingest: {len(rows)} pairs in {rows['group'].nunique()} groups from {source}{note}, "
        f"data {manifest.content_hash[:12]}"
    )
