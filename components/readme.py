"""``python -m components.readme`` writes the README of every component from its code."""

import ast
from pathlib import Path
from typing import Any

import docstring_parser

from components import COMPONENTS, changed, outcome

ROOT = Path(__file__).parent
ALL = {**COMPONENTS, "changed": changed, "outcome": outcome}


def readme(name: str) -> str:
    """Return a component's README: its purpose, image and command, and tables of parameters, inputs and outputs."""
    spec = ALL[name].component_spec
    container = spec.implementation.container
    inputs = dict(spec.inputs or {})
    parameters = {key: entry for key, entry in inputs.items() if not entry.type.startswith("system.")}
    artifacts = {key: entry for key, entry in inputs.items() if key not in parameters}
    documented = _documentation(name)
    meanings = {entry.arg_name: entry.description or "" for entry in documented.params}
    parts = [
        f"# {name}",
        "\n\n".join(text for text in (documented.short_description, documented.long_description) if text),
        f"Image `{container.image}`, command `{' '.join(container.command)}`; made by `python -m components.readme`.",
        _table("Parameters", parameters, meanings),
        _table("Inputs", artifacts, meanings),
        _table("Outputs", spec.outputs or {}, meanings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _documentation(name: str) -> docstring_parser.Docstring:
    """Return the docstring from the source: Kubeflow keeps the descriptions of inputs, but not those of outputs."""
    tree = ast.parse((ROOT / name / "component.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    return docstring_parser.parse(ast.get_docstring(function) or "")


def _table(heading: str, entries: dict[str, Any], meanings: dict[str, str]) -> str:
    rows = [f"| `{name}` | {_kind(entry.type)} | {meanings[name]} |" for name, entry in entries.items()]
    return "\n".join([f"## {heading}\n", "| name | type | meaning |", "|---|---|---|", *rows]) if rows else ""


def _kind(kind: str) -> str:
    """Return the short name of a type, such as Dataset for ``system.Dataset@0.0.1``."""
    return kind.removeprefix("system.").partition("@")[0]


if __name__ == "__main__":
    for name in ALL:
        (ROOT / name / "README.md").write_text(readme(name), encoding="utf-8")
