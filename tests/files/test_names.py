"""Names of files from names in the data: a long one is cut so that every file system takes it, and stays its own."""

import pytest

from segline.files.names import bounded


@pytest.mark.parametrize("name", ["", "frame", "x" * 200, "ü" * 100])
def test_a_short_name_stays(name):
    assert bounded(name) == name


@pytest.mark.parametrize("letter", ["x", "ü", "路", "🚗"])
def test_a_long_name_can_be_written_with_what_is_added(tmp_path, letter):
    names = {bounded(letter * 266 + end) for end in ("a", "b")}
    assert len(names) == 2
    for name in names:
        (tmp_path / f".0001-{name}.png.4194304.tmp").touch()
        assert name.startswith(letter * 40)
