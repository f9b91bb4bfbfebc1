"""All tags of Segline stand in one module."""

import re
from pathlib import Path

import segline
from segline.tracking import tags

SOURCE = Path(segline.__file__).parent


def test_no_other_module_spells_a_tag():
    """Elsewhere in quotes only modules begin with ``segline.``."""
    for path in sorted(set(SOURCE.rglob("*.py")) - {Path(tags.__file__)}):
        for name in re.findall(r"[\"'`]segline\.(\w+)[\"'`]", path.read_text()):
            assert (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file(), f"{path}: segline.{name}"


def test_no_two_tags_have_one_name():
    names = [value for name, value in vars(tags).items() if name.isupper()]
    assert len(names) == len(set(names)) > 10
