"""A source within reach."""

from dataclasses import dataclass

from segline.files.trees import Tree


@dataclass(frozen=True)
class ResolvedSource:
    """A source within reach, with what the manifest's origin records of it.

    Attributes:
        tree: its files.
        root: where they lie; empty for the folder ``files`` beside the manifest.
        revision: what tells this state of the source from others; empty when the source has no name for it.
    """

    tree: Tree
    root: str
    revision: str
