"""The help on parameters: each parameter of a stage with its default, unit, meaning and range."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from segline.config import tables
from segline.config.components import ComponentSpec
from segline.config.fields import describe
from segline.config.params import Params

CHOICES = {"ingest": {"data.layouts": "layout"}, "train": {"models": "models", "losses": "losses"}}
"""The tables that a stage's parameters choose from, each with its parameter."""


def explain(stage: str) -> str:
    """Return a line for each parameter of a stage, and the entries of the tables that it chooses from."""
    section = getattr(Params(), stage)
    lines = [f"parameters, with their defaults (section `{stage}` of params.yaml):"]
    for table, key in CHOICES.get(stage, {}).items():
        lines += _explain_table(table, getattr(section, key), key)
    for key, default, annotation in _leaves(section):
        unit, expected, meaning = describe(annotation)
        shown = f"{key}: {default} {unit}".rstrip()
        lines.append(f"  {shown:<32} {meaning} ({expected})")
    return "\n".join(lines)


def _explain_table(table: str, chosen: Any, key: str) -> Iterator[str]:
    """Yield the default, the names in a table, and the options of each."""
    default = str(chosen)
    if isinstance(chosen, tuple) and chosen:
        sums = [choice if isinstance(choice, tuple) else (choice,) for choice in chosen]
        default = f"[{', '.join(' + '.join(map(str, terms)) for terms in sums)}]"
    yield f"  {key}: {default}; known are"
    for name, options in tables.options(table).items():
        yield f"    {name}"
        for option, annotation in options.items():
            _, expected, meaning = describe(annotation)
            yield f"      {option:<26} {meaning} ({expected})"


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, default and annotation of every parameter that is a single value."""
    hints = get_type_hints(type(section), include_extras=True)
    for entry in fields(section):
        value = getattr(section, entry.name)
        if isinstance(value, ComponentSpec):
            continue
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{entry.name}.")
        elif not isinstance(value, tuple):
            yield f"{prefix}{entry.name}", value, hints[entry.name]
