"""A path of this machine: a folder, which is read in place, or an archive."""

from pathlib import Path

from segline.config.sections import Ingest
from segline.config.yaml_reader import parse_yaml
from segline.data.sources.archive import open_archive
from segline.data.sources.resolved import ResolvedSource
from segline.errors import SourceError
from segline.files.trees import Folder


def open_path(settings: Ingest, files: Path) -> ResolvedSource:
    """Return a folder in place, or an archive unpacked into ``files``."""
    source = settings.source
    root = Path(source)
    try:
        if root.is_dir():
            return _open_folder(source)
        if root.is_file():
            return open_archive(settings, files)
        problem = "is neither a folder nor a file" if root.exists() else "is not there"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    raise SourceError(
        f"ingest.source: {source} {problem} (looked from {Path.cwd()}); give the folder or the archive with the data"
    )


def _open_folder(source: str) -> ResolvedSource:
    tree = Folder(Path(source))
    if not tree.files:
        raise SourceError(f"ingest.source: {source} is empty; put the data there or give another folder")
    return ResolvedSource(tree, root=source, revision=_dvc_revision(Path(source)))


def _dvc_revision(root: Path) -> str:
    """Return ``dvc:<md5>`` from DVC's file beside a folder; empty if DVC does not track the folder itself."""
    path = root.resolve()
    try:
        document = parse_yaml(path.with_name(f"{path.name}.dvc").read_text(encoding="utf-8"), strict=False)
        return f"dvc:{document['outs'][0]['md5']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
