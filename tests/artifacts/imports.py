"""The imports of segline's modules, read from their source."""

import ast
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
PACKAGES = ("segline", "streets")


@cache
def path_of(module):
    """The source file of a module, or None when there is no such module."""
    base = SOURCE.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def imports_of(module):
    """The modules of ours that a module imports anywhere in its file, also in functions."""
    found = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {name for name in found if name.split(".")[0] in PACKAGES and path_of(name)}
    return ours | {parent for name in ours for parent in parents(name)}


def parents(module):
    """The packages that a module lies in."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def closure(module, left_out=()):
    """A module, and all that it imports by way of others; modules that are left out are not entered."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and not is_left_out(name, left_out):
            seen.add(name)
            waiting += imports_of(name)
    return seen


def is_left_out(module, left_out):
    """Whether a module or a package around it is left out; "segline" stands for the package's own file alone."""
    return module in left_out or any(name in left_out for name in parents(module) - {"segline"})
