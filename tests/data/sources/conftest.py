"""A few files with names that are not easy, and how they are opened."""

import json

import pytest

from segline.config.loader import load
from segline.data.sources import open_source


@pytest.fixture
def contents():
    """Path -> bytes; the paths have spaces, other scripts and signs."""
    return {"a b/c d.txt": b"1", "plain.txt": b"22" * 5000, "ü/日本.txt": b"", "x/y/z/100% #1?&+.txt": b"4"}


@pytest.fixture
def files(tmp_path):
    """Where the files of a source go that cannot be read in place."""
    return tmp_path / "out" / "files"


@pytest.fixture
def opening(files):
    """``opening(source, **settings)`` opens a source as ingest does."""

    def open_it(source, **settings):
        params = load(json.dumps({"ingest": {"source": str(source), **settings}}))
        return open_source(params.ingest, params.seed, files)

    return open_it


@pytest.fixture
def holds():
    """``holds(tree)``: path -> bytes of everything in it."""
    return lambda tree: {path: tree.read(path) for path in tree.files}


@pytest.fixture
def refused(opening):
    """``refused(source, **settings)``: the one line that says why it cannot be opened."""
    from segline.errors import SourceError

    def open_it(source, **settings):
        with pytest.raises(SourceError) as caught:
            opening(source, **settings)
        [line] = str(caught.value).splitlines()
        return line

    return open_it
