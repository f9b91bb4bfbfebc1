"""Access to the pairs of a manifest: their layout, their classes, and their files if these have not changed."""

import json
from functools import cache
from pathlib import Path

from segline.artifacts.manifest import FILES, Manifest, Origin
from segline.data.layouts import LAYOUTS, LabelSpec, Layout
from segline.files.packs import Packs
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
    """Return the tree with the files of a manifest.

    Args:
        root: The root of the manifest's origin.
        manifest_dir: The folder that ingest wrote.
    """
    if not root:
        return Packs(manifest_dir / FILES)
    return Bucket(root) if root.startswith(SCHEME) else Folder(Path(root))


def checked(tree: Tree, manifest: Manifest) -> Tree:
    """Return a tree that refuses files of the manifest that have changed since they were ingested.

    A label map of several files has one checksum for all of them, so these files are not checked.
    """
    layout = layout_of(manifest.origin)
    sums = dict(zip(manifest.rows["image"], manifest.rows["image_hash"], strict=True))
    labels = zip(manifest.rows["label"], manifest.rows["label_hash"], strict=True)
    sums |= {path: checksum for path, checksum in labels if layout.label_files(path) == (path,)}
    return Checked(tree, sums)
