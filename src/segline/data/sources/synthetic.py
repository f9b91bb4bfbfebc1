"""``synthetic:``: street scenes that Segline renders, see :mod:`streets`."""

from dataclasses import asdict
from os import cpu_count
from pathlib import Path
from shutil import rmtree

from segline.artifacts.code import code_hash
from segline.config.sections import Ingest, Synthetic
from segline.config.serialization import as_json
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import delete_manifest, mark_of, staged_origin
from segline.errors import SourceError
from segline.files.atomic import writing
from segline.files.pack_writer import packing
from segline.files.packs import Packs
from segline.files.trees import Folder
from segline.progress import progress_bar
from streets import write_streets

DRAWN = ".drawn"
"""The folder for scenes that are not in a pack yet; hidden, so that it is no part of the data."""


def open_synthetic(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Render the scenes into the packs of ``files``, unless they are there already."""
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
    origin = f"synthetic: {as_json(scenes)} seed {seed} code {code_hash(('streets',))}"
    if staged_origin(files) != origin:
        with writing(files, fingerprint=mark_of(origin)) as work:
            _draw(scenes, seed, work / DRAWN)
            with packing(work) as packs:
                for path, file in Folder(work / DRAWN).files.items():
                    with (work / DRAWN / path).open("rb") as stream:
                        packs.add(path, file.size, stream)
            rmtree(work / DRAWN)
            delete_manifest(files)
    return ResolvedSource(Packs(files), root="", revision="")


def _draw(scenes: Synthetic, seed: int, folder: Path) -> None:
    """Render the scenes that a killed run did not."""
    try:
        with progress_bar("drawing street scenes", scenes.drives * scenes.frames_per_drive) as advance:
            write_streets(folder, **asdict(scenes), seed=seed, workers=cpu_count() or 1, progress=advance)
    finally:
        for unfinished in folder.rglob(".*.partial"):
            unfinished.unlink()
