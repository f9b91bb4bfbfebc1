"""``synthetic:``: street scenes that Segline draws itself, see :mod:`streets`."""

from dataclasses import asdict
from os import cpu_count
from pathlib import Path

from segline.artifacts.code import code_hash
from segline.config.sections import Ingest
from segline.config.serialization import as_json
from segline.data.sources.kept import keep_files
from segline.data.sources.opened import ResolvedSource
from segline.errors import SourceError
from segline.files.trees import Folder
from segline.progress import bar
from streets import write_streets


def open_synthetic(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Draw the scenes that are not there yet; files of another recipe or source are removed first."""
    if settings.source != "synthetic:":
        raise SourceError(
            f"ingest.source: got {settings.source!r}, expected 'synthetic:' alone; the scenes' numbers "
            f"are in ingest.synthetic"
        )
    if settings.layout.name != "wad":
        raise SourceError(
            f"ingest.layout: got {settings.layout.name!r}, but synthetic: scenes have the layout 'wad'; say layout: wad"
        )
    wanted = settings.synthetic
    keep_files(files, f"synthetic: {as_json(wanted)} seed {seed} code {code_hash(('streets',))}")
    try:
        with bar("drawing street scenes", wanted.drives * wanted.frames_per_drive) as advance:
            write_streets(files, **asdict(wanted), seed=seed, workers=cpu_count() or 1, progress=advance)
    finally:
        for torn in files.rglob(".*.partial"):
            torn.unlink()
    return ResolvedSource(Folder(files), root="", revision="")
