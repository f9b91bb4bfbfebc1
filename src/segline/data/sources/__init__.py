"""Where data come from: ``open_source`` brings a source within reach; ``storage.open_tree`` finds it again later.

``SOURCES`` says by the beginning of ``ingest.source`` which file here knows it; anything without a scheme is a path
of this machine. A source that can be read where it lies (a folder, a bucket) is left there; of any other the files
are kept in the folder ``files`` beside the manifest of ingest, until another source needs none.
"""

import os.path
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from segline.config.sections import Ingest
from segline.data.sources.bucket import open_bucket
from segline.data.sources.dvc import open_dvc
from segline.data.sources.folder import open_path
from segline.data.sources.kept import no_room, remove_kept
from segline.data.sources.opened import ResolvedSource
from segline.data.sources.synthetic import open_synthetic
from segline.data.sources.web import open_web
from segline.errors import SourceError

SOURCES: dict[str, Callable[[Ingest, int, Path], ResolvedSource]] = {
    "dvc://": open_dvc,
    "http://": open_web,
    "https://": open_web,
    "s3://": open_bucket,
    "synthetic:": open_synthetic,
}
__all__ = ["SOURCES", "ResolvedSource", "open_source"]


def open_source(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Bring the source within reach; files that cannot be read in place are put into ``files``.

    Raises:
        SourceError: the source is missing, empty, unreadable or of a kind that is not known, or it cannot heed a
            setting.
        StageError: ``files`` holds what segline did not put there.
    """
    scheme = _scheme(settings.source)
    _refuse_unheeded(settings, scheme)
    try:
        opened = SOURCES[scheme](settings, seed, files) if scheme else open_path(settings, files)
        if opened.root:
            remove_kept(files, opened.root)
        return opened
    except OSError as error:  # what goes wrong with a source itself is told by its own file
        raise no_room(files, error) from None


def _scheme(source: str) -> str:
    """The key of ``SOURCES`` that the source begins with; empty for a path of this machine."""
    known = next((scheme for scheme in SOURCES if source.startswith(scheme)), "")
    if not source or (not known and ":" in source.split("/")[0]):
        raise SourceError(
            f"ingest.source: {source!r} is of an unknown kind; give a folder or an archive by its path, or what begins "
            f"with {', '.join(SOURCES)}"
        )
    return known


def _refuse_unheeded(settings: Ingest, scheme: str) -> None:
    """Refuse settings that are for sources of another kind; none is ignored in silence."""
    source = settings.source
    is_archive = scheme in ("http://", "https://") or (not scheme and not os.path.isdir(source))
    if settings.sha256 and not is_archive:
        raise SourceError(f"ingest.sha256: {source} is no archive, so it has no SHA-256; leave it empty")
    for field in fields(settings.dvc):
        value = getattr(settings.dvc, field.name)
        if value != field.default and scheme != "dvc://":
            raise SourceError(
                f"ingest.dvc.{field.name}: got {value!r}, but {source} is no dvc://repository; "
                f"leave it at {field.default!r}"
            )
