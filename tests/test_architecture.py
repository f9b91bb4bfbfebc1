"""The rules of ``.importlinter`` hold, and each of them would be noticed if it were broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
RULES = ROOT / ".importlinter"

# Each adds to a module an import that it must not have.
BREACHES = [
    ("segline.models.unet", "segline.losses"),
    ("segline.losses.dice", "segline.metrics"),
    ("segline.metrics.confusion", "segline.data"),
    ("segline.data.crops", "segline.models"),
    ("segline.artifacts.dataset", "segline.data"),
    ("segline.config.fields", "segline.artifacts"),
    ("segline.files.trees", "segline.artifacts"),
    ("segline.classes", "segline.reporting.report"),
    ("segline.training.engine", "segline.stages"),
    ("segline.data.shards", "segline.inference"),
    ("segline.stages.label", "segline.cli"),
    ("segline.platforms.kubeflow", "segline.cli"),
    ("segline.reporting.report", "kfp"),
    ("segline.losses.dice", "mlflow"),
    ("segline.models.unet", "ray"),
    # Tracking imports mlflow, which the engine must not reach.
    ("segline.training.engine", "segline.tracking.runs"),
    ("segline.stages.promote", "mlflow"),
    ("segline.stages.validate", "great_expectations"),
    ("segline.stages.train", "ray"),
    ("segline.stages.ingest", "boto3"),
    ("segline.stages.train", "kubernetes"),
    ("segline.stages.ingest", "streets"),
    ("segline.cli", "torch"),
    ("streets.drive", "segline.progress"),
]


def lint(folder):
    """Check the packages in ``folder``: return whether all rules hold, and the report."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(RULES)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0, done.stdout


def test_every_rule_holds():
    kept, said = lint(SOURCE)
    assert kept, said


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What is said of a copy with every breach."""
    folder = tmp_path_factory.mktemp("src")
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for module, imported in BREACHES:
        with folder.joinpath(*module.split(".")).with_suffix(".py").open("a") as stream:
            stream.write(f"\nimport {imported}\n")
    (folder / "segline" / "newcomer.py").touch()
    kept, said = lint(folder)
    assert not kept
    return said


@pytest.mark.parametrize(("module", "imported"), BREACHES, ids=lambda name: name)
def test_a_breach_is_noticed(broken, module, imported):
    assert f"{module} -> {imported}" in broken


def test_every_rule_can_be_broken(broken):
    rules = RULES.read_text().count("[importlinter:contract:")
    assert f"Contracts: 0 kept, {rules} broken." in broken


def test_a_new_module_needs_its_place(broken):
    assert "newcomer" in broken
