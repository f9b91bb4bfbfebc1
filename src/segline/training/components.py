"""The models and losses of a trial, made from the tables by name and options."""

import hashlib
import json
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from segline.artifacts.dataset import DatasetInfo
from segline.config.components import ComponentSpec
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS


def make_model(spec: ComponentSpec, info: DatasetInfo, encoders: dict[str, Path]) -> nn.Module:
    """Make a model; encoder weights are read from the file on this machine."""
    file = encoders.get(str(spec.options.get("pretrained")))
    return MODELS[spec.name](len(info.classes), **(spec.options | ({"pretrained": str(file)} if file else {})))


def make_loss(terms: Sequence[ComponentSpec], info: DatasetInfo, prepared_dir: Path) -> WeightedSum:
    """Make a weighted sum of losses; ``prepared_dir`` holds the results of their preparation steps."""
    return WeightedSum([(term.weight, _make_term(term, info, prepared_dir)) for term in terms])


def all_options(component: Callable[..., Any], spec: ComponentSpec) -> dict[str, Any]:
    """Return all options of a component, also the defaults: a run then says that it started from random weights."""
    known = signature(component).parameters.values()
    return {option.name: option.default for option in known if option.kind is option.KEYWORD_ONLY} | spec.options


def preparation_options(term: ComponentSpec) -> dict[str, Any] | None:
    """Return the options of a loss that its preparation step takes, or None if the loss has no such step."""
    step = getattr(LOSSES[term.name], "prepare", None)
    if step is None:
        return None
    options, taken = all_options(LOSSES[term.name], term), signature(step).parameters.values()
    return {option.name: options[option.name] for option in taken if option.kind is option.KEYWORD_ONLY}


def preparation_name(term: ComponentSpec) -> str:
    """Return the name of a loss's preparation, the same for equal options; empty if the loss has no such step."""
    options = preparation_options(term)
    if options is None:
        return ""
    return f"{term.name}-{hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]}"


def _make_term(term: ComponentSpec, info: DatasetInfo, prepared_dir: Path) -> nn.Module:
    name = preparation_name(term)
    prepared = prepared_dir / name if name else None
    pixels = tuple(info.pixels.get("train", ()))
    task = Task(names=tuple(info.names), background=info.background, pixels=pixels, prepared=prepared)
    return LOSSES[term.name](task, **term.options)
