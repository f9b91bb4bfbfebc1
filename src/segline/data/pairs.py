"""The pairs of a manifest as they are read: by their layout, with its classes, and only if they have not changed."""

import json
from functools import cache
from pathlib import Path

from segline.artifacts.manifest import FILES, Manifest, Origin
from segline.data.layouts import LAYOUTS, LabelSpec, Layout
from segline.files.s3 import SCHEME, Bucket
from segline.files.trees import Checked, Folder, Tree


@cache
def layout_of(origin: Origin) -> Layout:
    """Return the layout that reads the files of an origin."""
    return LAYOUTS[origin.layout](**json.loads(origin.options))


@cache
def label_spec_of(origin: Origin) -> LabelSpec:
    """Return the meaning of the label values of an origin."""
    return layout_of(origin).label_spec(origin.legend)


def open_tree(root: str, manifest_dir: Path) -> Tree:
    """Return the files that a manifest speaks of.

    Args:
        root: The root of the manifest's origin.
        manifest_dir: The folder that ingest wrote.
    """
    if not root:
        return Folder(manifest_dir / FILES)
    return Bucket(root) if root.startswith(SCHEME) else Folder(Path(root))


def checked(tree: Tree, manifest: Manifest) -> Tree:
    """Return a tree that gives the files of these rows only as they were when they were ingested.

    A label of several files has one checksum for all of them, so those files are given as they are.
    """
    layout = layout_of(manifest.origin)
    sums = dict(zip(manifest.rows["image"], manifest.rows["image_hash"], strict=True))
    labels = zip(manifest.rows["label"], manifest.rows["label_hash"], strict=True)
    sums |= {path: checksum for path, checksum in labels if layout.label_files(path) == (path,)}
    return Checked(tree, sums)
