"""The allowed imports outside ``src``: pipelines -> components -> kfp, and what checks parameters in segline."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "components": {"components", "kfp", "docstring_parser"},
    "pipelines": {
        "components",
        "docker",
        "kfp",
        "kfp_server_api",
        "pipelines",
        "requests",
        "segline",
        "segline.errors",
        "segline.config.loader",
        "segline.config.params",
        "segline.platforms.commands",
        "segline.utf8",
        "urllib3",
    },
}
FILES = [file for folder in ALLOWED for file in sorted((ROOT / folder).rglob("*.py"))]


def imports(file):
    """Yield the packages that a file imports, and of segline the modules."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [_module(node.module, alias.name) for alias in node.names]
        else:
            names = []
        for name in names:
            yield name if name.startswith("segline.") else name.partition(".")[0]


def _module(package, name):
    """Return the module that ``from package import name`` imports, or the package if it is no module of segline."""
    is_module = (ROOT / "src" / package.replace(".", "/") / f"{name}.py").exists()
    return f"{package}.{name}" if is_module else package


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_what_its_folder_may(file):
    allowed = ALLOWED[file.relative_to(ROOT).parts[0]]
    assert {name for name in imports(file) if name not in sys.stdlib_module_names} <= allowed


def test_mlflow_is_no_package():
    assert not list((ROOT / "mlflow").rglob("__init__.py"))
