"""Every number that a user tunes: frozen dataclasses, and the strict loader of ``params.yaml``.

One class per stage; a field's annotation holds its range, unit and meaning (see :mod:`segline.fields`). The
loader reports all faults at once and starts nothing. A key that is left out has the default written here.
"""

import json
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml

from segline import tables
from segline.errors import ParamsError
from segline.fields import Range, Unit, as_declared, fault, suggestion

Share = Range(0, 1)
# What can be learnt in the minutes that the default takes; the layout's own eight classes want more.
STREET_CLASSES = {
    "background": ("background",),
    "vehicle": ("car", "truck", "bus", "tricycle"),
    "two_wheeler": ("motorbicycle", "bicycle"),
    "person": ("person",),
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An entry of a table with its options, and its factor in a weighted sum."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """The street scenes of the source ``synthetic:``."""

    drives: Annotated[int, Range(3, 1000), "drives, each with its own street, weather and light"] = 80
    frames_per_drive: Annotated[int, Range(1, 10_000), "consecutive frames of a drive"] = 3
    height: Annotated[int, Range(96, 2710), Unit("px"), "height of a frame"] = 240
    width: Annotated[int, Range(128, 3384), Unit("px"), "width of a frame"] = 300
    missing_label_share: Annotated[float, Share, "share of frames in which one object has no label"] = 0.03


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Where the images come from."""

    source: Annotated[str, "a folder, or synthetic: for generated street scenes"] = "synthetic:"
    layout: Annotated[str, "how the folder is laid out, see LAYOUTS in segline/data/layouts"] = "wad"
    synthetic: Synthetic = field(default_factory=Synthetic)


@dataclass(frozen=True, kw_only=True)
class Validate:
    """What a pair of image and label map must fulfil."""

    min_pairs: Annotated[int, Range(1), "fewest whole pairs to go on with"] = 10
    min_side: Annotated[int, Range(1), Unit("px"), "shortest side of an image"] = 32
    max_quarantined_share: Annotated[float, Share, "above this share of bad pairs the line stops"] = 0.1


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shares of the split by group, for a layout that brings none."""

    train: Annotated[float, Range(0.01, 0.98), "share of the pairs to train on"] = 0.8
    val: Annotated[float, Range(0.01, 0.98), "share to choose epochs and members by"] = 0.1
    test: Annotated[float, Range(0.01, 0.98), "share to promote by"] = 0.1


@dataclass(frozen=True, kw_only=True)
class Label:
    """How label maps become what the network learns."""

    crop: Annotated[int, Range(16, 4096), Unit("px"), "side of the square crop with the most foreground"] = 96
    class_maps: Annotated[
        dict[str, dict[str, list[str]]],
        "layout -> new class -> the layout's classes in it, the rest ignored; a layout without a map keeps its own",
    ] = field(default_factory=lambda: {"wad": {name: list(classes) for name, classes in STREET_CLASSES.items()}})
    split: Split = field(default_factory=Split)
    shard_size: Annotated[int, Range(1, 100_000), "pairs in one shard file"] = 256


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training batch."""

    flip: Annotated[float, Share, "probability of a horizontal flip"] = 0.5
    scale: Annotated[float, Range(0, 0.9), "largest relative zoom in or out"] = 0.1
    shift: Annotated[float, Share, "largest shift as a share of the side"] = 0.05
    rotate: Annotated[float, Range(0, 180), Unit("degrees"), "largest rotation"] = 2.0
    colour: Annotated[float, Share, "largest relative change of brightness and contrast"] = 0.1


@dataclass(frozen=True, kw_only=True)
class Train:
    """The grid of architectures x losses, and how each cell is trained."""

    models: tuple[Choice, ...] = (
        Choice(name="unet_resnet34", options={"pretrained": False}),
        Choice(name="unet", options={"width": 16}),
    )
    losses: tuple[tuple[Choice, ...], ...] = (
        (Choice(name="bounding_box", options={"beta_bg": 0.05, "class_weights": False}),),
        (Choice(name="dice"),),
    )
    epochs: Annotated[int, Range(1, 100_000), "passes over the training split"] = 8
    batch_size: Annotated[int, Range(1, 4096), "images in a step"] = 8
    learning_rate: Annotated[float, Range(1e-8, 10), "peak of the cosine schedule"] = 2e-3
    weight_decay: Annotated[float, Range(0, 1), "of AdamW"] = 1e-2
    warmup: Annotated[float, Share, "share of the steps in which the rate rises"] = 0.1
    precision: Annotated[Literal["bf16", "fp32"], "of the forward pass"] = "bf16"
    augment: Augment = field(default_factory=Augment)
    cpus_per_trial: Annotated[int, Range(1, 1024), "cores of a trial"] = 1
    gpus_per_trial: Annotated[float, Range(0, 64), "GPUs of a trial"] = 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What evaluate shows."""

    batch_size: Annotated[int, Range(1, 4096), "images predicted at once"] = 16
    pictures: Annotated[int, Range(0, 1000), "overlay pictures for each candidate"] = 4


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """How many candidates are averaged."""

    pool: Annotated[int, Range(1, 1024), "candidates to choose from, the best on validation"] = 8
    max_members: Annotated[int, Range(1, 64), "most members of an ensemble"] = 3
    min_gain: Annotated[float, Share, "validation mIoU that a further member must add"] = 0.002


@dataclass(frozen=True, kw_only=True)
class Promote:
    """When a challenger becomes champion."""

    confidence: Annotated[float, Range(0.5, 0.9999), "of the paired bootstrap, one-sided"] = 0.95
    resamples: Annotated[int, Range(100, 1_000_000), "bootstrap samples of the test images"] = 2000


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of ``params.yaml``."""

    name: Annotated[str, "of the MLflow experiment and of the registered model"] = "streets"
    seed: Annotated[int, Range(0, 2**32 - 1), "of every random choice"] = 7
    ingest: Ingest = field(default_factory=Ingest)
    validate: Validate = field(default_factory=Validate)
    label: Label = field(default_factory=Label)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    ensemble: Ensemble = field(default_factory=Ensemble)
    promote: Promote = field(default_factory=Promote)


def load(origin: str | Path) -> Params:
    """Read parameters from a YAML file, or from their JSON text (it starts with ``{``).

    Raises:
        ParamsError: with every fault: unknown key, wrong type, out of range, unknown name.
    """
    text, where = _read(str(origin))
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ParamsError(where, [f"not valid YAML: {' '.join(str(error).split())}"]) from None
    faults: list[str] = []
    params: Params = _section(Params, {} if document is None else document, "", faults)
    wrong = [found.partition(":")[0] for found in faults]
    faults += [found for found in _contradictions(params) if not _follows(found.partition(":")[0], wrong)]
    if faults:
        raise ParamsError(where, faults)
    return params


def _follows(key: str, wrong: list[str]) -> bool:
    """Whether a fault of this key may come from one that is reported above it or below it."""
    return any(f"{key}.".startswith(f"{other}.") or other.startswith((f"{key}.", f"{key}[")) for other in wrong)


def as_json(section: Any) -> str:
    """A section as canonical JSON text, for records and fingerprints."""
    return json.dumps(asdict(section), sort_keys=True)


def _read(origin: str) -> tuple[str, str]:
    if origin.lstrip().startswith("{"):
        return origin, "the parameters' JSON text"
    try:
        return Path(origin).read_text(), origin
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ParamsError(origin, [f"cannot be read ({reason}); give --params the path of a params.yaml"]) from None


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it: ``1e-3`` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: key {twice[0]!r} is given twice")
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _section(kind: type, document: object, where: str, faults: list[str]) -> Any:
    """Build one dataclass from its mapping, adding to ``faults`` what does not fit."""
    if not isinstance(document, dict):
        faults.append(f"{where or 'the document'}: got {document!r}, expected a mapping of keys to values")
        return kind()
    hints = get_type_hints(kind, include_extras=True)
    known = {entry.name for entry in fields(kind)}
    faults += [f"{_join(where, key)}: unknown key{suggestion(key, known)}" for key in document if key not in known]
    given = {key: _value(hints[key], document[key], _join(where, key), faults) for key in document if key in known}
    return kind(**{key: value for key, value in given.items() if value is not _WRONG})


_WRONG = object()


def _value(annotation: Any, value: object, where: str, faults: list[str]) -> Any:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _section(annotation, value, where, faults)
    if where == "train.models":
        return tuple(_one_choice(item, f"{where}[{i}]", faults) for i, item in enumerate(_items(value, where, faults)))
    if where == "train.losses":
        return tuple(
            _choices("losses", item, f"{where}[{i}]", faults) for i, item in enumerate(_items(value, where, faults))
        )
    problem = fault(value, annotation)
    if where == "ingest.layout" and problem is None:
        layouts = tables.options("data.layouts")
        problem = None if value in layouts else f"unknown layout {value!r}{suggestion(value, layouts)}"
    if problem:
        faults.append(f"{where}: {problem}")
        return _WRONG
    return as_declared(value, annotation)


EXAMPLES = {"train.models": "unet", "train.losses": "dice"}


def _items(value: object, where: str, faults: list[str]) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    faults.append(f"{where}: got {value!r}, expected a list with at least one entry, such as [{EXAMPLES[where]}]")
    return []


def _one_choice(item: object, where: str, faults: list[str]) -> Choice:
    choices = _choices("models", item, where, faults)
    if len(choices) > 1:
        faults.append(f"{where}: got {len(choices)} models in one entry, expected one; begin each with '-'")
    return choices[0] if choices else Choice(name="")


def _choices(table: str, item: object, where: str, faults: list[str]) -> tuple[Choice, ...]:
    """``unet``, ``{unet: {width: 16}}``, or for a sum ``{dice: {weight: 0.5}, cross_entropy: {weight: 0.5}}``."""
    entries = {item: {}} if isinstance(item, str) else item
    if not isinstance(entries, dict) or not entries:
        faults.append(f"{where}: got {item!r}, expected a name, or a name with its options")
        return ()
    return tuple(_choice(table, name, {} if given is None else given, where, faults) for name, given in entries.items())


def _choice(table: str, name: object, given: object, where: str, faults: list[str]) -> Choice:
    offered = tables.options(table)
    singular = {"models": "model", "losses": "loss"}[table]
    if name not in offered or not isinstance(name, str):
        faults.append(f"{where}: unknown {singular} {name!r}{suggestion(name, offered)}")
        return Choice(name=str(name))
    if not isinstance(given, dict):
        faults.append(f"{where}.{name}: got {given!r}, expected a mapping of options")
        return Choice(name=name)
    annotations = offered[name] | ({"weight": Annotated[float, Range(0)]} if table == "losses" else {})
    for key, value in given.items():
        problem = (
            fault(value, annotations[key]) if key in annotations else f"unknown option{suggestion(key, annotations)}"
        )
        if problem:
            faults.append(f"{where}.{name}.{key}: {problem}")
    weight = given.get("weight", 1.0) if table == "losses" else 1.0
    options = {key: value for key, value in given.items() if key in offered[name]}
    return Choice(name=name, options=options, weight=float(weight) if isinstance(weight, int | float) else 1.0)


def _contradictions(params: Params) -> list[str]:
    """Faults between fields that are each right by themselves."""
    split = params.label.split
    total = split.train + split.val + split.test
    found = []
    if abs(total - 1) > 1e-6:
        found.append(f"label.split: got shares that add up to {total:g}, expected 1")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", params.name):
        found.append(f"name: got {params.name!r}, expected letters, digits, '.', '_' and '-'")
    cells = [(str(model), str(loss)) for model in params.train.models for loss in params.train.losses]
    if len(set(cells)) < len(cells):
        found.append("train: the same model with the same loss is listed twice; remove one")
    layouts = tables.options("data.layouts")
    found += [
        f"label.class_maps.{name}: unknown layout {name!r}{suggestion(name, layouts)}"
        for name in params.label.class_maps
        if name not in layouts
    ]
    return found


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)
