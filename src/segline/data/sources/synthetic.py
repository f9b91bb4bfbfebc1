"""``synthetic:``: street scenes that Segline renders, see :mod:`streets`."""

from dataclasses import asdict
from os import cpu_count
from pathlib import Path

from segline.artifacts.code import code_hash
from segline.config.sections import Ingest
from segline.config.serialization import as_json
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import prepare_staging
from segline.errors import SourceError
from segline.files.trees import Folder
from segline.progress import progress_bar
from streets import write_streets


def open_synthetic(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Render the missing scenes into ``files``; files of other settings, or of another source, are removed first."""
    if settings.source != "synthetic:":
        raise SourceError(
            f"ingest.source: got {settings.source!r}, expected 'synthetic:' alone; the scenes' numbers "
            f"are in ingest.synthetic"
        )
    if settings.layout.name != "wad":
        raise SourceError(
            f"ingest.layout: got {settings.layout.name!r}, but synthetic: scenes have the layout 'wad'; set layout: wad"
        )
    scenes = settings.synthetic
    prepare_staging(files, f"synthetic: {as_json(scenes)} seed {seed} code {code_hash(('streets',))}")
    try:
        with progress_bar("drawing street scenes", scenes.drives * scenes.frames_per_drive) as advance:
            write_streets(files, **asdict(scenes), seed=seed, workers=cpu_count() or 1, progress=advance)
    finally:
        for unfinished in files.rglob(".*.partial"):
            unfinished.unlink()
    return ResolvedSource(Folder(files), root="", revision="")
