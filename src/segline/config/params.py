"""Every number that a user tunes: frozen dataclasses, and the strict loader of ``params.yaml``.

One class per stage; a field's annotation holds its range, unit and meaning (see :mod:`segline.config.fields`). The
loader reports all faults at once and starts nothing. A key that is left out has the default written here.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml

from segline.config import tables
from segline.config.fields import Range, Unit, as_declared, fault, suggestion
from segline.config.spaces import Space, parse_space
from segline.errors import ParamsError

Share = Range(0, 1)
WEIGHT = Annotated[float, Range(0), "factor in a weighted sum"]
# What can be learnt in the minutes that the default takes; the layout's own eight classes want more.
STREET_CLASSES = {
    "background": ("background",),
    "vehicle": ("car", "truck", "bus", "tricycle"),
    "two_wheeler": ("motorbicycle", "bicycle"),
    "person": ("person",),
}


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
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
class Dvc:
    """What to take of the source ``dvc://repository``."""

    path: Annotated[str, "the data's folder in the repository; empty for all of it"] = ""
    revision: Annotated[str, "a commit, tag or branch"] = "HEAD"


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Where the images come from."""

    source: Annotated[
        str, "a folder or an archive, https://..., s3://bucket/prefix, dvc://repository, or synthetic: to draw scenes"
    ] = "synthetic:"
    sha256: Annotated[str, "SHA-256 of the archive, in hex; empty to take whatever comes"] = ""
    dvc: Dvc = field(default_factory=Dvc)
    layout: ComponentSpec = ComponentSpec(name="wad")
    synthetic: Synthetic = field(default_factory=Synthetic)


Severity = Literal["stop", "quarantine", "warn"]
NeverKept = Literal["stop", "quarantine"]
NoPairs = Literal["stop", "warn"]


@dataclass(frozen=True, kw_only=True)
class Severities:
    """What follows when a rule is broken: the line stops, the pair is left out, or it is only reported."""

    image_missing: Annotated[NeverKept, "a label map without an image"] = "quarantine"
    label_missing: Annotated[NeverKept, "an image without a label map"] = "quarantine"
    image_unreadable: Annotated[NeverKept, "an image that cannot be decoded to its end"] = "quarantine"
    label_unreadable: Annotated[NeverKept, "a label map that cannot be decoded to its end"] = "quarantine"
    unknown_values: Annotated[NeverKept, "label values that the layout does not know"] = "quarantine"
    size_mismatch: Annotated[NeverKept, "a label map of another size than its image"] = "quarantine"
    too_small: Annotated[Severity, "an image with a side below min_side"] = "quarantine"
    empty_label: Annotated[Severity, "a label map without any labelled pixel"] = "quarantine"
    rotated: Annotated[Severity, "an image that EXIF says is stored rotated"] = "quarantine"
    label_conflict: Annotated[Severity, "the same image with different label maps"] = "quarantine"
    duplicate: Annotated[Severity, "the same image and label map again; one of them is kept"] = "quarantine"
    near_duplicate: Annotated[Severity, "images that look alike on two sides of a split"] = "warn"
    group_in_splits: Annotated[Severity, "a group on two sides of the layout's own split"] = "warn"
    no_foreground: Annotated[Severity, "a label map with too little foreground"] = "warn"
    brightness: Annotated[Severity, "an image that is too dark or too bright"] = "warn"
    sharpness: Annotated[Severity, "an image that is blurred or empty"] = "warn"
    channels: Annotated[Severity, "an image that is not RGB; it is converted"] = "warn"
    bit_depth: Annotated[Severity, "an image with more than 8 bits per channel; 8 are kept"] = "warn"
    drift: Annotated[NoPairs, "statistics that differ from those of the champion's training data"] = "warn"


@dataclass(frozen=True, kw_only=True)
class Validate:
    """What a pair of image and label map must fulfil."""

    min_pairs: Annotated[int, Range(1), "fewest whole pairs to go on with"] = 10
    max_quarantined_share: Annotated[float, Share, "above this share of bad pairs the line stops"] = 0.1
    min_side: Annotated[int, Range(1), Unit("px"), "shortest side of an image"] = 32
    min_foreground_share: Annotated[float, Share, "of the labelled pixels; foreground must have more than it"] = 0.0
    min_brightness: Annotated[float, Range(0, 255), "lowest mean grey level, of 0 to 255"] = 3.0
    max_brightness: Annotated[float, Range(0, 255), "highest mean grey level"] = 252.0
    min_sharpness: Annotated[
        float,
        Range(0),
        "lowest variance of the Laplacian at 128 px, squared grey levels; sharp images have hundreds",
    ] = 20.0
    duplicate_distance: Annotated[int, Range(0, 32), Unit("bits"), "of 64 in which look-alikes may differ"] = 4
    max_drift: Annotated[float, Range(0), "population stability index; from 0.1 on moderate, from 0.2 on large"] = 0.2
    severity: Severities = field(default_factory=Severities)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Who trains, validates and tests, where the layout brings no split of its own. Groups stay whole."""

    method: Annotated[
        Literal["stable", "balanced"],
        "stable: by a hash, so that groups keep their side when others come; balanced: shares and classes as even as "
        "groups allow",
    ] = "stable"
    train: Annotated[float, Range(0.01, 0.98), "share of the pairs to train on"] = 0.8
    val: Annotated[float, Range(0.01, 0.98), "share to choose epochs and members by"] = 0.1
    test: Annotated[float, Range(0.01, 0.98), "share to promote by"] = 0.1
    folds: Annotated[int, Range(0, 100), "k of a k-fold cross-validation instead of the shares; 0 for none"] = 0
    fold: Annotated[int, Range(0, 99), "the fold to validate on; the next one is tested on"] = 0


@dataclass(frozen=True, kw_only=True)
class Label:
    """How label maps become what the network learns."""

    sampling: Annotated[
        Literal["max_foreground", "tiles", "random", "resize"],
        "what is taken from an image: the fullest crops, all tiles, random crops, or the whole frame scaled",
    ] = "max_foreground"
    crop: Annotated[int, Range(16, 4096), Unit("px"), "side of a square crop"] = 96
    crops_per_image: Annotated[int, Range(1, 1000), "crops of an image, for max_foreground and random"] = 1
    tile_overlap: Annotated[int, Range(0, 4095), Unit("px"), "by which neighbouring tiles overlap"] = 0
    distances: Annotated[
        list[Literal["border", "signed", "touching"]], "maps of distances that some losses need, see docs/data.md"
    ] = field(default_factory=list)
    class_maps: Annotated[
        dict[str, dict[str, list[str]]],
        "layout -> new class -> the layout's classes in it, the rest ignored; a layout without a map keeps its own",
    ] = field(default_factory=lambda: {"wad": {name: list(classes) for name, classes in STREET_CLASSES.items()}})
    split: Split = field(default_factory=Split)
    shard_size: Annotated[int, Range(1, 100_000), "crops in one shard, about"] = 256
    workers: Annotated[int, Range(1, 10_000), "processes; more than one run on Ray, here or at RAY_ADDRESS"] = 1


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The network that the loss semeda compares label maps with; trained only when a loss of the grid asks for it."""

    steps: Annotated[int, Range(1, 1_000_000), "of training at most"] = 1000
    batch_size: Annotated[int, Range(1, 4096), "label maps in a step"] = 8
    learning_rate: Annotated[float, Range(1e-8, 10), "of Adam"] = 1e-2
    min_accuracy: Annotated[float, Share, "of edges on held-out label maps, at which training ends"] = 0.999


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training batch."""

    flip: Annotated[float, Share, "probability of a horizontal flip"] = 0.5
    flip_vertical: Annotated[float, Share, "probability of a vertical flip, for medical and aerial images"] = 0.0
    scale: Annotated[float, Range(0, 0.9), "largest relative zoom in or out"] = 0.1
    translate: Annotated[float, Share, "largest shift as a share of the side"] = 0.05
    rotate: Annotated[float, Range(0, 180), Unit("degrees"), "largest rotation"] = 2.0
    elastic: Annotated[
        float, Range(0, 1000), Unit("px"), "standard deviation of the displacements on a 3 x 3 grid that deform a crop"
    ] = 0.0
    brightness_contrast: Annotated[float, Share, "largest relative change of brightness and contrast"] = 0.1
    saturation: Annotated[float, Share, "largest relative change of saturation"] = 0.0
    hue: Annotated[float, Range(0, 0.5), "largest shift of hue as a share of the full circle"] = 0.0


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which trials a cell of the grid has, and which of them train to the end."""

    spaces: Annotated[
        dict[str, Space],
        "what is drawn: a hyperparameter of train, or <model>.<option>, <loss>.<option> -> a list of values or "
        "{low: ..., high: ..., log: true or false}",
    ] = field(default_factory=dict)
    num_samples: Annotated[int, Range(1, 10_000), "trials of a cell that has something to draw"] = 1
    searcher: Annotated[
        Literal["random", "optuna"],
        "who draws: chance, evenly spread; after trials_per_round such draws, Optuna by the results",
    ] = "random"
    trials_per_round: Annotated[int, Range(1, 10_000), "draws of a cell between two looks of Optuna at the results"] = 4
    scheduler: Annotated[
        Literal["halving", "asha", "pbt", "none"],
        "which trials go on: the best at each rung, with the same bits every time; the same asynchronously; all, but "
        "the worst quarter of a cell with weights and hyperparameters of the best (population-based training); all",
    ] = "halving"
    reduction_factor: Annotated[int, Range(2, 100), "one in how many trials goes on to the next rung"] = 2
    grace_period: Annotated[
        int,
        Range(1, 100_000),
        "epochs before halving or asha first compares trials; each rung has reduction_factor times as many",
    ] = 8
    perturbation_interval: Annotated[int, Range(1, 100_000), "epochs between two exploit steps of pbt"] = 8
    finalists: Annotated[int, Range(0, 1000), "best trials that are trained again with other seeds"] = 0
    seeds: Annotated[int, Range(1, 100), "seeds of a finalist, the first one counted"] = 3
    max_failed: Annotated[int, Range(0), "failed trials that are left out; with more, train fails at its end"] = 0


@dataclass(frozen=True, kw_only=True)
class Train:
    """The grid of architectures x losses, and how each cell is trained."""

    models: tuple[ComponentSpec, ...] = (
        ComponentSpec(name="unet_resnet34", options={"pretrained": False}),
        ComponentSpec(name="unet", options={"width": 16}),
    )
    losses: tuple[tuple[ComponentSpec, ...], ...] = (
        (ComponentSpec(name="bounding_box", options={"beta_bg": 0.05, "class_weights": False}),),
        (ComponentSpec(name="dice"),),
    )
    search: Search = field(default_factory=Search)
    epochs: Annotated[int, Range(1, 100_000), "passes over the training split"] = 8
    max_steps: Annotated[int, Range(0), "steps at which a trial ends before its epochs are over; 0: none"] = 0
    max_minutes: Annotated[
        float, Range(0), Unit("min"), "training, without validation, at which a trial ends; not repeatable; 0: none"
    ] = 0.0
    early_stopping_patience: Annotated[
        int, Range(0), "epochs without a better validation mIoU that end a trial; 0: none do"
    ] = 0
    batch_size: Annotated[int, Range(1, 4096), "images in a forward pass, over all workers of a trial"] = 8
    gradient_accumulation_steps: Annotated[int, Range(1, 1024), "forward passes in a step of the optimiser"] = 1
    learning_rate: Annotated[float, Range(1e-8, 10), "peak of the schedule"] = 2e-3
    schedule: Annotated[Literal["cosine", "poly", "constant"], "how the rate falls after its rise"] = "cosine"
    warmup_fraction: Annotated[float, Share, "share of the steps in which the rate rises"] = 0.1
    weight_decay: Annotated[float, Range(0, 1), "of AdamW"] = 1e-2
    epsilon: Annotated[float, Range(1e-12, 1), "of AdamW"] = 1e-8
    max_grad_norm: Annotated[float, Range(0), "largest norm of the gradient; 0: any"] = 0.0
    ema_decay: Annotated[
        float, Range(0, 0.99999), "decay of the averaged weights that are judged and kept; 0: none"
    ] = 0.0
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], "of the forward pass; auto: bf16 where the device computes in it, else fp32"
    ] = "auto"
    compile: Annotated[bool, "compile the network; pays in long runs on a GPU"] = False
    augment: Augment = field(default_factory=Augment)
    checkpoint_minutes: Annotated[float, Range(0), Unit("min"), "training at most between two checkpoints"] = 10.0
    checkpoints: Annotated[str, "s3://bucket/prefix that keeps what trials save as well; empty: none"] = ""
    workers_per_trial: Annotated[int, Range(1, 1024), "processes of a trial; more than one share each batch"] = 1
    cpus_per_worker: Annotated[int, Range(1, 1024), "cores of a worker"] = 1
    gpus_per_worker: Annotated[float, Range(0, 64), "GPUs of a worker"] = 0.0


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Which objects are listed as probably unlabelled; the best candidate on validation looks for them."""

    min_confidence: Annotated[float, Share, "least mean probability of an object"] = 0.8
    min_pixels: Annotated[int, Range(1), Unit("px"), "least area of an object"] = 100
    border: Annotated[int, Range(0, 1000), Unit("px"), "by which the border of a label may be off"] = 3
    max_labelled_share: Annotated[float, Share, "largest labelled share of what the model sees as one object"] = 0.5
    pictures: Annotated[int, Range(0, 1000), "pictures, of the surest"] = 12


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What evaluate shows."""

    batch_size: Annotated[int, Range(1, 4096), "images predicted at once"] = 16
    pictures: Annotated[int, Range(0, 1000), "overlay pictures for each candidate"] = 4
    audit: Audit = field(default_factory=Audit)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """How many candidates are averaged."""

    pool: Annotated[int, Range(1, 1024), "candidates to choose from, the best on validation"] = 8
    max_members: Annotated[int, Range(1, 64), "most members of an ensemble"] = 3
    min_gain: Annotated[float, Share, "validation mIoU that a further member must add"] = 0.002


@dataclass(frozen=True, kw_only=True)
class Promote:
    """When a challenger becomes champion."""

    enabled: Annotated[bool, "false only registers and judges: the champion stays who it is"] = True
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
    edges: Edges = field(default_factory=Edges)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    ensemble: Ensemble = field(default_factory=Ensemble)
    promote: Promote = field(default_factory=Promote)


def load(origin: str | Path, overrides: Sequence[str] = ()) -> Params:
    """Read parameters from a YAML file, or from their JSON text (it starts with ``{``).

    Args:
        origin: the path, or the text.
        overrides: such as ``train.epochs=40``, in place of what the file says.

    Raises:
        ParamsError: with every fault: unknown key, wrong type, out of range, unknown name.
    """
    document, where = read(origin, overrides), _where(str(origin))
    faults: list[str] = []
    params: Params = _section(Params, document, "", faults)
    wrong = [found.partition(":")[0] for found in faults]
    faults += [found for found in _contradictions(params) if not _follows(found.partition(":")[0], wrong)]
    if faults:
        raise ParamsError(where, faults)
    return params


def read(origin: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The document that :func:`load` checks, as it is written, with the overrides in it.

    Raises:
        ParamsError: it cannot be read, or an override is none.
    """
    text, where = _read(str(origin)), _where(str(origin))
    document = _parse(text, where)
    document = {} if document is None else document
    for override in overrides:
        _override(document, override)
    return document


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ParamsError(where, [f"not valid YAML: {' '.join(str(error).split())}"]) from None


def _override(document: Any, override: str) -> None:
    """Set one key; a value that is empty leaves it as it is, as a pipeline's parameter does that was not given."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ParamsError("--set", [f"{override!r}: expected KEY=VALUE, such as train.epochs=40"])
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
    document[last] = text.strip() if _declared(key.strip()) is str else _parse(text, f"--set {key}")


def _declared(key: str) -> Any:
    """The type of a parameter by its dotted key; None when there is none."""
    kind: Any = Params
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind


def _follows(key: str, wrong: list[str]) -> bool:
    """Whether a fault of this key may come from one that is reported above it or below it."""
    return any(f"{key}.".startswith(f"{other}.") or other.startswith((f"{key}.", f"{key}[")) for other in wrong)


def need_edges(losses: tuple[tuple[ComponentSpec, ...], ...]) -> bool:
    """Whether a loss of the grid compares edges, for which the stage edges trains a network."""
    return any(term.name == "semeda" for terms in losses for term in terms)


def as_json(section: Any) -> str:
    """A section as canonical JSON text, for records and fingerprints."""
    return json.dumps(asdict(section), sort_keys=True)


def _where(origin: str) -> str:
    return "the parameters' JSON text" if origin.lstrip().startswith("{") else origin


def _read(origin: str) -> str:
    if origin.lstrip().startswith("{"):
        return origin
    try:
        return Path(origin).read_text()
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
    if annotation is ComponentSpec:
        return _one_choice("data.layouts", value, where, faults)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _section(annotation, value, where, faults)
    if where == "train.models":
        return tuple(
            _one_choice("models", item, f"{where}[{i}]", faults) for i, item in enumerate(_items(value, where, faults))
        )
    if where == "train.search.spaces":
        return _spaces(value, where, faults)
    if where == "train.losses":
        return tuple(
            _choices("losses", item, f"{where}[{i}]", faults) for i, item in enumerate(_items(value, where, faults))
        )
    problem = fault(value, annotation)
    if problem:
        faults.append(f"{where}: {problem}")
        return _WRONG
    return as_declared(value, annotation)


# The hyperparameters of train that a search may draw, beside the options of models and losses.
TUNABLE = (
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
    "epsilon",
    "max_grad_norm",
    "ema_decay",
)


SMALLEST_POPULATION = 4
"""Of population-based training: its worst quarter is one."""


def _spaces(value: object, where: str, faults: list[str]) -> Any:
    """The spaces of a search; what may be drawn is known by its name, and so are its type and range."""
    if not isinstance(value, dict):
        faults.append(f"{where}: got {value!r}, expected a mapping of hyperparameters to lists or ranges")
        return _WRONG
    known = _tunable()
    faults += [f"{where}.{key}: unknown hyperparameter{suggestion(key, known)}" for key in value if key not in known]
    return {key: parse_space(value[key], known[key], f"{where}.{key}", faults) for key in value if key in known}


def _tunable() -> dict[str, Any]:
    """All that can be drawn, with its annotation: ``learning_rate``, ``augment.flip``, ``unet.width`` and so on."""
    hints = get_type_hints(Train, include_extras=True)
    losses = {name: found | {"weight": WEIGHT} for name, found in tables.options("losses").items()}
    parts = {"augment": get_type_hints(Augment, include_extras=True), **tables.options("models"), **losses}
    dotted = {f"{part}.{name}": annotation for part, found in parts.items() for name, annotation in found.items()}
    return {name: hints[name] for name in TUNABLE} | dotted


EXAMPLES = {"train.models": "unet", "train.losses": "dice"}


def _items(value: object, where: str, faults: list[str]) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    faults.append(f"{where}: got {value!r}, expected a list with at least one entry, such as [{EXAMPLES[where]}]")
    return []


SINGULAR = {"models": "model", "losses": "loss", "data.layouts": "layout"}


def _one_choice(table: str, item: object, where: str, faults: list[str]) -> ComponentSpec:
    choices = _choices(table, item, where, faults)
    if len(choices) > 1:
        faults.append(f"{where}: got {len(choices)} {SINGULAR[table]}s in one entry, expected one")
    return choices[0] if choices else ComponentSpec(name="")


def _choices(table: str, item: object, where: str, faults: list[str]) -> tuple[ComponentSpec, ...]:
    """``unet``, ``{unet: {width: 16}}``, or for a sum ``{dice: {weight: 0.5}, cross_entropy: {weight: 0.5}}``."""
    entries = {item: {}} if isinstance(item, str) else item
    if not isinstance(entries, dict) or not entries:
        faults.append(f"{where}: got {item!r}, expected a name, or a name with its options")
        return ()
    return tuple(_choice(table, name, {} if given is None else given, where, faults) for name, given in entries.items())


def _choice(table: str, name: object, given: object, where: str, faults: list[str]) -> ComponentSpec:
    offered = tables.options(table)
    if name not in offered or not isinstance(name, str):
        faults.append(f"{where}: unknown {SINGULAR[table]} {name!r}{suggestion(name, offered)}")
        return ComponentSpec(name=str(name))
    if not isinstance(given, dict):
        faults.append(f"{where}.{name}: got {given!r}, expected a mapping of options")
        return ComponentSpec(name=name)
    annotations = offered[name] | ({"weight": WEIGHT} if table == "losses" else {})
    for key, value in given.items():
        problem = (
            fault(value, annotations[key]) if key in annotations else f"unknown option{suggestion(key, annotations)}"
        )
        if problem:
            faults.append(f"{where}.{name}.{key}: {problem}")
    weight = given.get("weight", 1.0) if table == "losses" else 1.0
    options = {key: value for key, value in given.items() if key in offered[name]}
    return ComponentSpec(name=name, options=options, weight=float(weight) if isinstance(weight, int | float) else 1.0)


def _contradictions(params: Params) -> list[str]:
    """Faults between fields that are each right by themselves."""
    split = params.label.split
    total = split.train + split.val + split.test
    found = []
    if params.train.checkpoints and not re.fullmatch(r"s3://[^/]+(/.*)?", params.train.checkpoints):
        found.append(f"train.checkpoints: got {params.train.checkpoints!r}, expected s3://bucket/prefix, or nothing")
    if not re.fullmatch(r"|[0-9a-fA-F]{64}", params.ingest.sha256):
        found.append(f"ingest.sha256: got {params.ingest.sha256!r}, expected 64 digits in hex, or nothing")
    if abs(total - 1) > 1e-6:
        found.append(f"label.split: got shares that add up to {total:g}, expected 1")
    levels = params.validate
    if levels.min_brightness > levels.max_brightness:
        found.append(
            f"validate.min_brightness: got {levels.min_brightness:g}, expected no more than validate.max_brightness, "
            f"{levels.max_brightness:g}"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", params.name):
        found.append(f"name: got {params.name!r}, expected letters, digits, '.', '_' and '-'")
    cells = [(str(model), str(loss)) for model in params.train.models for loss in params.train.losses]
    if len(set(cells)) < len(cells):
        found.append("train: the same model with the same loss is listed twice; remove one")
    found += [*_faults_of_grid(params), *_faults_of_search(params.train)]
    for layout, wanted in params.label.class_maps.items():
        found += _faults_of_map(layout, wanted)
    if split.folds in (1, 2) or (split.folds and split.fold >= split.folds):
        found.append(
            f"label.split.fold: got fold {split.fold} of {split.folds}, expected no folds or 3 and more, counted from 0"
        )
    if params.label.tile_overlap >= params.label.crop:
        found.append(f"label.tile_overlap: got {params.label.tile_overlap}, expected less than label.crop")
    return found


def _faults_of_grid(params: Params) -> list[str]:
    """What the models and losses lack to be trained as they are asked for."""
    found = [
        f"train.models[{i}].unet_resnet50.pretrained: got false, which freezes three stages at random weights; "
        "expected weights, or modified: true"
        for i, model in enumerate(params.train.models)
        if model.name == "unet_resnet50" and not model.options.get("pretrained") and not model.options.get("modified")
    ]
    found += [
        f"label.distances: lacks {name!r}, which train.losses[{i}].{term.name} needs; add it"
        for i, terms in enumerate(params.train.losses)
        for term in terms
        if term.name in tables.options("losses")
        for name in tables.distances(term.name)
        if name not in params.label.distances
    ]
    return found


def _faults_of_search(settings: Train) -> list[str]:
    """What Optuna would do nothing for, and what cannot be where a trial goes on with the weights of another."""
    search, where = settings.search, "train.search"
    if search.scheduler != "pbt":
        unused = search.searcher == "optuna" and search.num_samples <= search.trials_per_round
        expected = (
            f"expected more than the {search.trials_per_round} of {where}.trials_per_round, after which Optuna proposes"
        )
        return [f"{where}.num_samples: got {search.num_samples}, {expected}"] if unused else []
    models = {model.name for model in settings.models}
    found = [
        f"{where}.spaces.{key}: pbt cannot change an architecture in mid-training; remove it, or use another scheduler"
        for key in search.spaces
        if key.rpartition(".")[0] in models
    ]
    if not search.spaces or search.num_samples < SMALLEST_POPULATION:
        found.append(
            f"{where}.num_samples: got {search.num_samples} draws of {len(search.spaces)} spaces, expected a "
            f"population of at least {SMALLEST_POPULATION} with something to draw for pbt"
        )
    if search.searcher != "random":
        found.append(f"{where}.searcher: got {search.searcher!r}, expected random, as pbt looks at results itself")
    if search.finalists:
        found.append(
            f"{where}.finalists: got {search.finalists}, expected 0, as what pbt trains has no settings to repeat"
        )
    found += [
        f"train.{name}: got {value}, expected 0, as a population of pbt trains to the same epoch"
        for name in ("max_steps", "max_minutes", "early_stopping_patience")
        if (value := getattr(settings, name))
    ]
    return found


def _faults_of_map(layout: str, wanted: dict[str, list[str]]) -> list[str]:
    """What is wrong with the class map of a layout."""
    where = f"label.class_maps.{layout}"
    layouts = tables.options("data.layouts")
    if layout not in layouts:
        return [f"{where}: unknown layout {layout!r}{suggestion(layout, layouts)}"]
    known = tables.class_names(layout)
    named = [name for names in wanted.values() for name in names]
    found = [f"{where}.{new}: got no classes, expected some of the layout's" for new in wanted if not wanted[new]]
    found += [f"{where}: names {name!r} twice; remove one" for name in sorted({n for n in named if named.count(n) > 1})]
    # A layout whose classes come with the data is checked when they are there.
    found += [
        f"{where}: unknown class {name!r}{suggestion(name, known)}" for name in named if known and name not in known
    ]
    return found


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)
