"""A model, a loss or a layout as ``params.yaml`` names it: an entry of a table with its options."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from segline.config import tables
from segline.config.fields import Range, find_error, suggestion
from segline.errors import shown

LossWeight = Annotated[float, Range(0), "factor of this loss in a weighted sum"]


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """An entry of a table with its options, and its factor in a weighted sum."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


@dataclass(frozen=True)
class Table:
    """The table that a parameter chooses from, as a note of its annotation.

    Attributes:
        package: The package that holds the table, such as ``models``.
        noun: The word for one entry, for messages.
        example: The name of an entry, for messages.
        weighted: Whether an entry may be a weighted sum of several components.
    """

    package: str
    noun: str
    example: str
    weighted: bool = False

    def options(self) -> dict[str, dict[str, Any]]:
        """Return name -> option -> annotation of every component, with the factor where sums are accepted."""
        weight = {"weight": LossWeight} if self.weighted else {}
        return {name: options | weight for name, options in tables.options(self.package).items()}


LAYOUT = Table("data.layouts", "layout", "wad")
MODEL = Table("models", "model", "unet")
LOSS = Table("losses", "loss", "dice", weighted=True)


def parse_choice(table: Table, value: object, where: str, errors: list[str], *, single: bool) -> Any:
    """Read one component, or a list of components or sums; what is wrong is added to ``errors``."""
    if single:
        return _parse_component(table, value, where, errors)
    if not isinstance(value, list) or not value:
        errors.append(
            f"{where}: got {shown(value)}, expected a list with at least one entry, such as [{table.example}]"
        )
        return ()
    parse = _parse_sum if table.weighted else _parse_component
    return tuple(parse(table, item, f"{where}[{index}]", errors) for index, item in enumerate(value))


def _parse_component(table: Table, value: object, where: str, errors: list[str]) -> ComponentSpec:
    """Read one component, such as ``unet`` or ``{unet: {width: 16}}``."""
    components = _parse_sum(table, value, where, errors)
    if len(components) > 1:
        errors.append(f"{where}: got {len(components)} {table.noun}s in one entry, expected one")
    return components[0] if components else ComponentSpec(name="")


def _parse_sum(table: Table, value: object, where: str, errors: list[str]) -> tuple[ComponentSpec, ...]:
    """Read one component or several in a sum, such as ``{dice: {weight: 0.5}, cross_entropy: {weight: 0.5}}``."""
    entries = {value: {}} if isinstance(value, str) else value
    if not isinstance(entries, dict) or not entries:
        errors.append(f"{where}: got {shown(value)}, expected a name, or a name with its options")
        return ()
    return tuple(_parse_entry(table, name, options, where, errors) for name, options in entries.items())


def _parse_entry(table: Table, name: object, options: object, where: str, errors: list[str]) -> ComponentSpec:
    known = table.options()
    if name not in known or not isinstance(name, str):
        errors.append(f"{where}: unknown {table.noun} {shown(name)}{suggestion(name, known)}")
        return ComponentSpec(name=str(name))
    options = {} if options is None else options
    if not isinstance(options, dict):
        errors.append(f"{where}.{name}: got {shown(options)}, expected a mapping of options")
        return ComponentSpec(name=name)
    annotations = known[name]
    for key, value in options.items():
        error = (
            find_error(value, annotations[key])
            if key in annotations
            else f"unknown option{suggestion(key, annotations)}"
        )
        if error:
            errors.append(f"{where}.{name}.{key}: {error}")
    weight = options.get("weight", 1.0) if table.weighted else 1.0
    return ComponentSpec(
        name=name,
        options={key: value for key, value in options.items() if key in tables.options(table.package)[name]},
        weight=float(weight) if isinstance(weight, int | float) else 1.0,
    )
