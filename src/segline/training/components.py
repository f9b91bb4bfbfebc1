"""The models and losses of a trial, made from the tables by name and options."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from segline.artifacts.dataset import DatasetInfo
from segline.artifacts.preparation import Preparation
from segline.config.components import ComponentSpec
from segline.config.sections import Train
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS


def make_model(spec: ComponentSpec, info: DatasetInfo, encoders: dict[str, Path]) -> nn.Module:
    """Make a model; encoder weights are read from the file on this machine."""
    return MODELS[spec.name](len(info.classes), **with_local_weights(spec.options, encoders))


def with_local_weights(options: dict[str, Any], encoders: dict[str, Path]) -> dict[str, Any]:
    """Return options in which the address of encoder weights is that of the file on this machine."""
    file = encoders.get(str(options.get("pretrained")))
    return options | ({"pretrained": str(file)} if file else {})


def make_loss(terms: Sequence[ComponentSpec], info: DatasetInfo, prepared_dir: Path) -> WeightedSum:
    """Make a weighted sum of losses; ``prepared_dir`` holds the results of their preparation steps."""
    return WeightedSum([(term.weight, _make_term(term, info, prepared_dir)) for term in terms])


def all_options(component: Callable[..., Any], spec: ComponentSpec) -> dict[str, Any]:
    """Return all options of a component, also the defaults: a run then says that it started from random weights."""
    known = signature(component).parameters.values()
    return {option.name: option.default for option in known if option.kind is option.KEYWORD_ONLY} | spec.options


def preparation_step(component: Callable[..., Any]) -> Callable[..., Preparation] | None:
    """Return the preparation step of a model or loss, which few have, so that the types of the tables lack it."""
    step: Callable[..., Preparation] | None = getattr(component, "prepare", None)
    return step


def preparation_options(component: Callable[..., Any], spec: ComponentSpec) -> dict[str, Any] | None:
    """Return the options of a model or loss that its preparation step takes, or None if it has no such step."""
    step = preparation_step(component)
    if step is None:
        return None
    options, taken = all_options(component, spec), signature(step).parameters.values()
    return {option.name: options[option.name] for option in taken if option.kind is option.KEYWORD_ONLY}


def preparation_name(term: ComponentSpec) -> str:
    """Return the name of a loss's preparation, the same for equal options; empty if the loss has no such step."""
    return _named(term.name, preparation_options(LOSSES[term.name], term))


def features_name(model: ComponentSpec, settings: Train) -> str:
    """Return the name of a model's kept features, the same for equal options and augmentation; empty if it has none."""
    options = preparation_options(MODELS[model.name], model)
    kept = options is not None and options["max_gb"] > 0
    return _named(model.name, {**options, "augment": asdict(settings.augment)} if options and kept else None)


def _named(component: str, content: dict[str, Any] | None) -> str:
    if content is None:
        return ""
    return f"{component}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]}"


def _make_term(term: ComponentSpec, info: DatasetInfo, prepared_dir: Path) -> nn.Module:
    name = preparation_name(term)
    prepared = prepared_dir / name if name else None
    pixels = tuple(info.pixels.get("train", ()))
    task = Task(names=tuple(info.names), background=info.background, pixels=pixels, prepared=prepared)
    return LOSSES[term.name](task, **term.options)
