"""Ingest: find the pairs of a source and write their manifest with checksums.

Data are read in place where that is possible (see :mod:`segline.data.sources`). Run again, it looks only at files whose
size or stamp is new, and when nothing differs it says so and writes nothing.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from segline.artifacts.manifest import CHECKSUMS, COLUMNS, FILE, FILES, Manifest, Origin, read_manifest, write_manifest
from segline.config.params import Params
from segline.config.sections import Ingest
from segline.data.layouts import LAYOUTS, Layout, Pair
from segline.data.sources import ResolvedSource, open_source
from segline.errors import DataError, SourceError, StageError
from segline.files.atomic import write_file
from segline.files.locks import output_lock
from segline.files.trees import Tree
from segline.progress import log, progress_bar

BLOCK = 256


def run(params: Params, *, out: Path) -> None:
    """Write ``out/manifest.parquet``; what cannot be read in place goes to ``out/files``.

    Raises:
        SourceError: the source is missing, empty or of a kind that is not known, or a file of it cannot be read.
        DataError: the source does not follow the layout.
    """
    with output_lock(out.resolve()):
        _ingest(params.ingest, params.seed, out)


def _ingest(settings: Ingest, seed: int, out: Path) -> None:
    opened = open_source(settings, seed, out / FILES)
    layout = LAYOUTS[settings.layout.name](**settings.layout.options)
    origin = _origin(settings, layout, opened)
    _check_classes(layout, origin, opened.tree)
    pairs = layout.find(opened.tree)
    _refuse_twins(pairs, opened.tree)
    checksums = _checksums(pairs, layout, opened.tree, out)
    manifest = Manifest(rows=_rows(pairs, layout, opened.tree, checksums), origin=origin)
    if _same(out, manifest):
        log(f"ingest: nothing changed in {settings.source} ({len(pairs)} pairs)")
        return
    write_manifest(out, manifest)
    groups = manifest.rows["group"].nunique()
    half = sum(not pair.image or not pair.label for pair in pairs)
    note = f", {half} of them without image or label" if half else ""
    log(
        f"ingest: {len(pairs)} pairs in {groups} groups from {settings.source}{note}, data {manifest.content_hash[:12]}"
    )


def _origin(settings: Ingest, layout: Layout, opened: ResolvedSource) -> Origin:
    classes = ""
    if layout.classes_file:
        if layout.classes_file not in opened.tree.files:
            raise DataError(f"{opened.tree.where}: no {layout.classes_file}; write it, it names the classes")
        try:
            classes = opened.tree.read(layout.classes_file).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{opened.tree.where}: {layout.classes_file} cannot be read ({error})") from None
    return Origin(
        source=settings.source,
        layout=settings.layout.name,
        options=json.dumps(settings.layout.options, sort_keys=True),
        legend=classes,
        root=opened.root,
        revision=opened.revision,
    )


def _check_classes(layout: Layout, origin: Origin, tree: Tree) -> None:
    try:
        layout.label_spec(origin.legend)
    except DataError as error:
        raise DataError(f"{tree.where}: {error}") from None


def _refuse_twins(pairs: list[Pair], tree: Tree) -> None:
    seen: dict[str, Pair] = {}
    for pair in pairs:
        twin = seen.setdefault(pair.key, pair)
        if twin is not pair:
            raise DataError(f"{tree.where}: {twin.image} and {pair.image} have the same name; rename one or remove it")


def _rows(pairs: list[Pair], layout: Layout, tree: Tree, checksums: dict[str, str]) -> pd.DataFrame:
    """The manifest's rows; what a pair lacks has no bytes and no checksum."""
    rows = pd.DataFrame([vars(pair) for pair in pairs], columns=list(COLUMNS))
    for part, files_of in (("image", _itself), ("label", layout.label_files)):
        files = [files_of(path) if path else () for path in rows[part]]
        rows[f"{part}_bytes"] = [sum(tree.files[file].size for file in found) for found in files]
        rows[f"{part}_hash"] = [_join([checksums[file] for file in found]) for found in files]
    return rows.astype(COLUMNS)


def _itself(path: str) -> tuple[str, ...]:
    return (path,)


def _join(sums: list[str]) -> str:
    """One checksum for several files."""
    return "".join(sums) if len(sums) < 2 else f"sha256:{hashlib.sha256(' '.join(sums).encode()).hexdigest()}"


def _checksums(pairs: list[Pair], layout: Layout, tree: Tree, out: Path) -> dict[str, str]:
    """The checksum of every file of the pairs; one that looks unchanged since the last run is not read again."""
    labels = {path for pair in pairs if pair.label for path in layout.label_files(pair.label)}
    wanted = sorted(labels | {pair.image for pair in pairs if pair.image})
    known = _read_checksums(out / CHECKSUMS, tree)
    stale = [path for path in wanted if known.get(path, ("",))[:2] != _look(tree, path)]
    fresh = dict(zip(stale, _sum_up(stale, tree), strict=True))
    found = {path: fresh[path] if path in fresh else known[path][2] for path in wanted}
    if fresh or found.keys() != known.keys():
        stamps = [(tree.where, path, *_look(tree, path), found[path]) for path in wanted]
        table = pd.DataFrame(stamps, columns=["where", "path", "size", "stamp", "checksum"])
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / CHECKSUMS, lambda path: table.to_parquet(path))
    return found


def _look(tree: Tree, path: str) -> tuple[int, str]:
    return tree.files[path].size, tree.files[path].stamp


def _sum_up(paths: list[str], tree: Tree) -> Iterator[str]:
    """The checksums of these files, read by several threads at once."""

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
    """Path -> size, stamp and checksum as the last run found them in the same tree."""
    try:
        table = pd.read_parquet(path)
        table = table[table["where"] == tree.where]
        values = zip(table["size"].tolist(), table["stamp"].tolist(), table["checksum"].tolist(), strict=True)
        return dict(zip(table["path"].tolist(), values, strict=True))
    except (OSError, ValueError, KeyError):
        return {}


def _same(out: Path, manifest: Manifest) -> bool:
    if not (out / FILE).is_file():
        return False
    try:
        before = read_manifest(out)
    except StageError:
        log(f"ingest: {out / FILE} is broken or of another version of segline; it is written anew")
        return False
    return before.origin == manifest.origin and before.rows.equals(manifest.rows)
