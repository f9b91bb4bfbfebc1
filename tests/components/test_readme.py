"""Each component's README is generated from its code."""

from pathlib import Path

import pytest

pytest.importorskip("kfp")

from components.readme import ALL, readme

FOLDER = Path(__file__).parents[2] / "components"


@pytest.mark.parametrize("name", ALL)
def test_the_readme_is_made_from_the_code(name):
    assert (FOLDER / name / "README.md").read_text() == readme(name), "run python -m components.readme"


@pytest.mark.parametrize("name", ALL)
def test_every_input_and_output_is_explained(name):
    rows = [line.split(" | ") for line in readme(name).splitlines() if line.startswith("| `")]
    assert rows
    assert all(row[-1].removesuffix(" |") for row in rows)
