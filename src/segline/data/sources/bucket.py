"""``s3://bucket/prefix``: objects that are read in place, see :mod:`segline.files.s3`."""

from pathlib import Path

from segline.config.sections import Ingest
from segline.data.sources.resolved import ResolvedSource
from segline.errors import SourceError
from segline.files.s3 import SCHEME, Bucket


def open_bucket(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Return the objects below the prefix; nothing is copied."""
    source = settings.source
    if not source.removeprefix(SCHEME).partition("/")[0]:
        raise SourceError(f"ingest.source: got {source!r}, expected s3://bucket/prefix")
    tree = Bucket(source)
    if not tree.files:
        raise SourceError(f"ingest.source: {source} holds no objects; check the prefix, it ends at a '/'")
    return ResolvedSource(tree, root=source, revision="")
