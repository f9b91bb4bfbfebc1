"""What the tables MODELS, LOSSES and LAYOUTS offer, read from their source without importing it.

A wrong name or option must be refused before any work, also by a stage that runs in an image without torch.
So the names are read from the dict in ``segline/<package>/__init__.py``, and the options of an entry are the
keyword-only parameters of the class or function that it names. A test holds this against the imported objects.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from segline.config.fields import Pretrained, Range, Unit

PACKAGE = Path(__file__).parents[1]
ANNOTATIONS = {"Annotated": Annotated, "Literal": Literal, "Pretrained": Pretrained, "Range": Range, "Unit": Unit}


@cache
def options(package: str) -> dict[str, dict[str, Any]]:
    """The table of ``package`` ("models", "losses", "data.layouts"): name -> option -> annotation."""
    folder = PACKAGE.joinpath(*package.split("."))
    origin, body = _origins(folder)
    return {name: _keyword_only(folder / f"{origin[target]}.py", target) for name, target in _entries(body).items()}


def _origins(folder: Path) -> tuple[dict[str, str], list[ast.stmt]]:
    """What ``__init__.py`` imports, by name, from which file; and its statements."""
    body = ast.parse((folder / "__init__.py").read_text()).body
    files = {
        alias.asname or alias.name: str(node.module).rpartition(".")[2]
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return files, body


@cache
def distances(loss: str) -> tuple[str, ...]:
    """The maps of distances that a loss needs, as its class says in ``distances``."""
    folder = PACKAGE / "losses"
    origin, body = _origins(folder)
    target = _entries(body)[loss]
    values = (
        statement.value
        for node in ast.parse((folder / f"{origin[target]}.py").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == target
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "distances" and statement.value
    )
    return tuple(ast.literal_eval(next(values, ast.Tuple([]))))


@cache
def class_names(layout: str) -> tuple[str, ...]:
    """The classes of a layout; empty when they come with the data."""
    folder = PACKAGE / "data" / "layouts"
    origin, body = _origins(folder)
    calls = (
        node.args[0]
        for statement in ast.parse((folder / f"{origin[_entries(body)[layout]]}.py").read_text()).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "CLASSES"
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LabelClass"
    )
    return tuple(ast.literal_eval(name) for name in calls)


def _entries(body: list[ast.stmt]) -> dict[str, str]:
    """The keys of the table and the names that they stand for; of ``partial(Name, ...)`` that is ``Name``."""
    table = next(node.value for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict))
    return {
        ast.literal_eval(key): ast.unparse(value.args[0] if isinstance(value, ast.Call) else value)
        for key, value in zip(table.keys, table.values, strict=True)
        if key
    }


def _keyword_only(file: Path, target: str) -> dict[str, Any]:
    for node in ast.parse(file.read_text()).body:
        if getattr(node, "name", None) != target:
            continue
        function = next(
            (child for child in ast.walk(node) if isinstance(child, ast.FunctionDef) and child.name == "__init__"),
            node,
        )
        if isinstance(function, ast.FunctionDef):
            return {argument.arg: _annotation(argument) for argument in function.args.kwonlyargs}
    return {}


def _annotation(argument: ast.arg) -> Any:
    assert argument.annotation is not None, f"option {argument.arg} has no annotation"
    return eval(ast.unparse(argument.annotation), dict(ANNOTATIONS))
