"""The rules of ``.importlinter`` hold, and each of them would be noticed if it were broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "segline"
RULES = ROOT / ".importlinter"

# Each adds to a module of segline an import that it must not have.
BREACHES = [
    ("models.unet", "segline.losses"),
    ("losses.dice", "segline.metrics"),
    ("metrics.confusion", "segline.data"),
    ("data.crops", "segline.models"),
    ("params", "segline.data"),
    ("classes", "segline.reporting.report"),
    ("training.engine", "segline.stages"),
    ("data.shards", "segline.inference"),
    ("stages.label", "segline.cli"),
    ("report", "kfp"),
    ("losses.dice", "mlflow"),
    ("models.unet", "ray"),
    # Tracking imports mlflow, which the engine must not reach.
    ("training.engine", "segline.tracking.runs"),
    ("stages.promote", "mlflow"),
    ("stages.validate", "great_expectations"),
    ("stages.train", "ray"),
    ("stages.ingest", "boto3"),
    ("stages.train", "kubernetes"),
    ("cli", "torch"),
]


def lint(folder):
    """Check the copy of segline in ``folder``: whether all rules hold, and what is said."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(RULES)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0, done.stdout


def test_every_rule_holds():
    kept, said = lint(SOURCE.parent)
    assert kept, said


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What is said of a copy with every breach."""
    folder = tmp_path_factory.mktemp("src")
    shutil.copytree(SOURCE, folder / "segline", ignore=shutil.ignore_patterns("__pycache__"))
    for module, imported in BREACHES:
        with folder.joinpath("segline", *module.split(".")).with_suffix(".py").open("a") as stream:
            stream.write(f"\nimport {imported}\n")
    (folder / "segline" / "newcomer.py").touch()
    kept, said = lint(folder)
    assert not kept
    return said


@pytest.mark.parametrize(("module", "imported"), BREACHES, ids=lambda name: name)
def test_a_breach_is_noticed(broken, module, imported):
    assert f"segline.{module} -> {imported}" in broken


def test_every_rule_can_be_broken(broken):
    rules = RULES.read_text().count("[importlinter:contract:")
    assert f"Contracts: 0 kept, {rules} broken." in broken


def test_a_new_module_needs_its_place(broken):
    assert "newcomer" in broken
