"""The names and options of the tables MODELS, LOSSES and LAYOUTS, read from their source without importing it.

A wrong name or option is refused before any work, also by a stage that runs in an image without torch. So the names
are read from the dict in ``segline/<package>/__init__.py``, and the options of an entry are the keyword-only
parameters of the class or function that it names. A test compares this with the imported objects.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from segline.config.fields import AlignCorners, Pretrained, Range, ScaleSkips, Unit

PACKAGE = Path(__file__).parents[1]
ANNOTATIONS = {
    "AlignCorners": AlignCorners,
    "Annotated": Annotated,
    "Literal": Literal,
    "Pretrained": Pretrained,
    "Range": Range,
    "ScaleSkips": ScaleSkips,
    "Unit": Unit,
}


@dataclass(frozen=True)
class _Entry:
    """The class or function of a table's entry, and the statements of the module that defines it."""

    definition: ast.ClassDef | ast.FunctionDef
    module: list[ast.stmt]

    def keyword_only(self) -> list[tuple[ast.arg, ast.expr | None]]:
        """Return the keyword-only parameters of the constructor or function, each with its default."""
        for node in ast.walk(self.definition):
            if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or node is self.definition):
                return list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
        return []


@cache
def options(package: str) -> dict[str, dict[str, Any]]:
    """Return the table of ``package`` ("models", "losses", "data.layouts") as name -> option -> annotation."""
    return {
        name: {argument.arg: _annotation(argument) for argument, _ in entry.keyword_only()}
        for name, entry in _entries(package).items()
    }


@cache
def defaults(package: str) -> dict[str, dict[str, Any]]:
    """Return the table of ``package`` as name -> option -> default."""
    return {
        name: {argument.arg: ast.literal_eval(default) for argument, default in entry.keyword_only() if default}
        for name, entry in _entries(package).items()
    }


@cache
def distances(loss: str) -> tuple[str, ...]:
    """Return the distance maps that a loss needs, which its class lists in ``distances``."""
    return tuple(_class_value("losses", loss, "distances", ()))


@cache
def needs_neighbors(loss: str) -> bool:
    """Return whether a loss needs more than single pixels: distance maps, or by its class ``needs_neighbors``."""
    return bool(distances(loss)) or _class_value("losses", loss, "needs_neighbors", False)


@cache
def class_names(layout: str) -> tuple[str, ...]:
    """Return the names of a layout's classes, or nothing when they come with the data."""
    calls = (
        node.args[0]
        for statement in _entries("data.layouts")[layout].module
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "CLASSES"
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LabelClass"
    )
    return tuple(ast.literal_eval(name) for name in calls)


@cache
def _entries(package: str) -> dict[str, _Entry]:
    """Return the entries of a table by name; the entry ``partial(Name, ...)`` stands for ``Name``."""
    folder = PACKAGE.joinpath(*package.split("."))
    body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
    modules = {
        alias.asname or alias.name: str(node.module).rpartition(".")[2]
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    table = next(node.value for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict))
    entries = {}
    for key, value in zip(table.keys, table.values, strict=True):
        target = ast.unparse(value.args[0] if isinstance(value, ast.Call) else value)
        module = ast.parse((folder / f"{modules[target]}.py").read_text(encoding="utf-8")).body
        definition = next(
            node for node in module if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == target
        )
        entries[ast.literal_eval(key)] = _Entry(definition, module)  # type: ignore[arg-type]
    return entries


def _class_value(package: str, name: str, attribute: str, default: Any) -> Any:
    """Return the value of an annotated attribute of the class of an entry."""
    values = (
        ast.literal_eval(statement.value)
        for statement in _entries(package)[name].definition.body
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == attribute and statement.value
    )
    return next(values, default)


def _annotation(argument: ast.arg) -> Any:
    assert argument.annotation is not None, f"option {argument.arg} has no annotation"
    return eval(ast.unparse(argument.annotation), dict(ANNOTATIONS))
