"""A source whose files can be read."""

from dataclasses import dataclass

from segline.files.trees import Tree


@dataclass(frozen=True)
class ResolvedSource:
    """A source whose files can be read, and what the origin of the manifest records about it.

    Attributes:
        tree: the files.
        root: the folder or URL of the files; empty for the folder ``files`` beside the manifest.
        revision: an identifier of this state of the source; empty if the source has none.
    """

    tree: Tree
    root: str
    revision: str
