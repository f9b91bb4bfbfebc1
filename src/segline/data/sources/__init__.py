"""Sources of data: :func:`open_source` makes a source readable.

``SOURCES`` maps the beginning of ``ingest.source`` to the function that opens it; a source without a scheme is a path
of this machine. A folder or a bucket is read in place. The files of any other source are copied into packs in the
folder ``files`` beside the manifest of ingest (see :mod:`segline.data.sources.staging`). Later stages open the same
files with :func:`segline.data.pairs.open_tree`.
"""

import os.path
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from segline.config.sections import Ingest
from segline.data.sources.bucket import open_bucket
from segline.data.sources.dvc import open_dvc
from segline.data.sources.folder import open_path
from segline.data.sources.resolved import ResolvedSource
from segline.data.sources.staging import remove_staging, write_failed
from segline.data.sources.synthetic import open_synthetic
from segline.data.sources.web import open_web
from segline.errors import SourceError
from segline.redaction import has_login, redact

SOURCES: dict[str, Callable[[Ingest, int, Path], ResolvedSource]] = {
    "dvc://": open_dvc,
    "http://": open_web,
    "https://": open_web,
    "s3://": open_bucket,
    "synthetic:": open_synthetic,
}
__all__ = ["SOURCES", "ResolvedSource", "open_source"]


def open_source(settings: Ingest, seed: int, files: Path) -> ResolvedSource:
    """Make a source readable; files that cannot be read in place are copied into ``files``.

    Raises:
        SourceError: the source is missing, empty, unreadable or of an unknown kind, or a setting does not apply to it.
        StageError: ``files`` holds files that segline did not put there.
    """
    scheme = _scheme(settings.source)
    _check_settings_apply(settings, scheme)
    try:
        source = SOURCES[scheme](settings, seed, files) if scheme else open_path(settings, files)
        if source.root:
            remove_staging(files, source.root)
        return source
    except OSError as error:  # of writing ``files``: each source reports its own problems as a SourceError
        raise write_failed(files, error) from None


def _scheme(source: str) -> str:
    """Return the key of ``SOURCES`` that the source begins with; empty for a path of this machine."""
    known = next((scheme for scheme in SOURCES if source.startswith(scheme)), "")
    if not source or (not known and ":" in source.split("/")[0]):
        raise SourceError(
            f"ingest.source: {redact(source)!r} is of an unknown kind; give a folder or an archive by its path, or "
            f"what begins with {', '.join(SOURCES)}"
        )
    if known in ("http://", "https://", "s3://") and has_login(source):
        raise SourceError(
            f"ingest.source: {redact(source)} was given with a login, which params.yaml, dvc.lock and Kubeflow would "
            "show; leave it out, use a source of s3://, whose credentials come from the environment, or download the "
            "archive yourself"
        )
    return known


def _check_settings_apply(settings: Ingest, scheme: str) -> None:
    """Raise a SourceError for a setting that belongs to another kind of source, rather than ignore it."""
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
