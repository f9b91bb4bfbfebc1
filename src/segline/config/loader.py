"""The strict loader of ``params.yaml``: it reports all errors at once, and starts nothing.

A key that is left out has the default of its section.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from segline.config.components import ComponentSpec, Table, parse_choice
from segline.config.fields import as_declared, find_error, split_annotation, suggestion
from segline.config.params import Params
from segline.config.renamed import new_key_hint
from segline.config.sections.train import hyperparameters
from segline.config.spaces import Space, parse_space
from segline.config.yaml_reader import MAX_CHARACTERS, YamlError, parse_yaml
from segline.errors import ParamsError, clip, shown


def load(origin: str | Path, overrides: Sequence[str] = ()) -> Params:
    """Read parameters from a YAML file, or from their JSON text (it starts with ``{``).

    Args:
        origin: The path, or the text.
        overrides: Texts such as ``train.epochs=40``, which replace what the file says.

    Raises:
        ParamsError: with every error: unknown key, wrong type, out of range, unknown name.
    """
    return build(read(origin, overrides), describe_origin(origin))


def build(document: Any, where: str) -> Params:
    """Return the parameters of a document; ``where`` is its origin, for messages.

    Raises:
        ParamsError: with every error.
    """
    errors: list[str] = []
    params: Params = _parse_section(Params, {} if document is None else document, "", errors)
    wrong_keys = [error.partition(":")[0] for error in errors]
    errors += [error for error in params.errors() if not _is_related(error.partition(":")[0], wrong_keys)]
    if errors:
        raise ParamsError(where, errors)
    return params


def read(origin: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Return the document that :func:`load` checks, as it is written, with the overrides in it.

    Raises:
        ParamsError: it cannot be read, or an override is malformed.
    """
    document = parse(read_text(origin), describe_origin(origin))
    document = {} if document is None else document
    for override in overrides:
        _apply_override(document, override)
    return document


def is_json(origin: str | Path) -> bool:
    """Return whether the parameters are given as JSON text, not as a path."""
    return str(origin).lstrip().startswith("{")


def describe_origin(origin: str | Path) -> str:
    """Return what messages call the origin of the parameters."""
    return "the parameters' JSON text" if is_json(origin) else str(origin)


def read_text(origin: str | Path) -> str:
    """Return the text of a parameter file, or the JSON text itself.

    Raises:
        ParamsError: the file cannot be read.
    """
    if is_json(origin):
        return str(origin)
    try:
        with Path(origin).open("rb") as stream:
            return stream.read(4 * MAX_CHARACTERS).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ParamsError(
            str(origin), [f"cannot be read ({reason}); give --params the path of a params.yaml"]
        ) from None


def parse(text: str, where: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        ParamsError: it is not valid YAML.
    """
    try:
        return parse_yaml(text)
    except YamlError as error:
        raise ParamsError(where, [f"not valid YAML: {error}"]) from None


def _apply_override(document: Any, override: str) -> None:
    """Set one key; an empty value changes nothing, as Kubeflow passes one for a parameter that was not given."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ParamsError("--set", [f"{shown(override)}: expected KEY=VALUE, such as train.epochs=40"])
    if not text.strip():
        return
    *sections, last = key.strip().split(".")
    for section in sections:
        if isinstance(document, dict) and document.get(section) is None:
            document[section] = {}
        document = document[section] if isinstance(document, dict) else None
    if not isinstance(document, dict):
        raise ParamsError("--set", [f"{key}: there is no section of this name; expected such as train.epochs"])
    # A text is taken as it is: to YAML the source `synthetic:` is a mapping, and a commit may be a number.
    document[last] = text.strip() if _declared_type(key.strip()) is str else parse(text, f"--set {key}")


def _declared_type(key: str) -> Any:
    """Return the type of a parameter by its dotted key, or None when it is unknown."""
    kind: Any = Params
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind


def _is_related(key: str, wrong_keys: list[str]) -> bool:
    """Return whether an error of ``key`` may follow from one that is already reported for a key above or below it."""
    return any(f"{key}.".startswith(f"{wrong}.") or wrong.startswith((f"{key}.", f"{key}[")) for wrong in wrong_keys)


_INVALID = object()


def _parse_section(section: type, document: object, where: str, errors: list[str]) -> Any:
    """Build one dataclass from its mapping; what does not fit is added to ``errors`` and has its default instead."""
    if not isinstance(document, dict):
        errors.append(f"{where or 'the document'}: got {shown(document)}, expected a mapping of keys to values")
        return section()
    hints = get_type_hints(section, include_extras=True)
    known = {entry.name for entry in fields(section)}
    for key in document:
        if key not in known:
            dotted = _join(where, key)
            errors.append(f"{dotted}: unknown key{new_key_hint(dotted) or suggestion(key, known)}")
    given = {
        key: _parse_value(hints[key], document[key], _join(where, key), errors) for key in document if key in known
    }
    return section(**{key: value for key, value in given.items() if value is not _INVALID})


def _parse_value(annotation: Any, value: object, where: str, errors: list[str]) -> Any:
    kind, notes = split_annotation(annotation)
    for note in notes:
        if isinstance(note, Table):
            return parse_choice(note, value, where, errors, single=kind is ComponentSpec)
    if isinstance(kind, type) and is_dataclass(kind):
        return _parse_section(kind, value, where, errors)
    if kind == dict[str, Space]:
        return _parse_spaces(value, where, errors)
    error = find_error(value, annotation)
    if error:
        errors.append(f"{where}: {error}")
        return _INVALID
    return as_declared(value, annotation)


def _parse_spaces(value: object, where: str, errors: list[str]) -> Any:
    """Read the spaces of a search; the name of a hyperparameter says its type and range."""
    if not isinstance(value, dict):
        errors.append(f"{where}: got {shown(value)}, expected a mapping of hyperparameters to lists or ranges")
        return _INVALID
    known = hyperparameters()
    for key in value:
        if key not in known:
            dotted = f"{where}.{key}"
            errors.append(f"{dotted}: unknown hyperparameter{new_key_hint(dotted) or suggestion(key, known)}")
    return {key: parse_space(value[key], known[key], f"{where}.{key}", errors) for key in value if key in known}


def _join(where: str, key: object) -> str:
    name = clip(str(key))
    return f"{where}.{name}" if where else name
