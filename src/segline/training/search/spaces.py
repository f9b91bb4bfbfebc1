"""How values are drawn from the spaces of a search, and how a trial takes them."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from segline.config.components import ComponentSpec
from segline.config.sections import Search
from segline.config.spaces import Space
from segline.training.trial import TrialConfig

PERTURBATION = 1.2
"""The factor by which a value grows; it shrinks by ``2 - PERTURBATION`` (Jaderberg et al. 2017, section 4.1.1)."""


def sample(space: Space, fraction: float) -> Any:
    """Return the value at a fraction, in [0, 1), of the way through the space."""
    if space.values:
        return space.values[int(fraction * len(space.values))]
    low, high = space.low, space.high
    value = low * (high / low) ** fraction if space.log else low + (high - low) * fraction
    return round(value) if space.whole else value


def perturb(space: Space, value: Any, *, above: bool) -> Any:
    """Return the next value of a list, or a fifth more or less within the range, of a whole number at least one.

    See Jaderberg et al. 2017, section 4.1.1.
    """
    if space.values:
        position = space.values.index(value) + (1 if above else -1)
        return space.values[min(max(position, 0), len(space.values) - 1)]
    moved = value * (PERTURBATION if above else 2 - PERTURBATION)
    if space.whole:
        moved = max(round(moved), value + 1) if above else min(round(moved), value - 1)
    return type(value)(min(max(moved, space.low), space.high))


def latin_hypercube(seed: str, count: int) -> list[float]:
    """Return a random point in each of ``count`` equal parts of [0, 1), in random order (McKay et al. 1979)."""
    random = Random(seed)
    points = [(part + random.random()) / count for part in range(count)]
    return sorted(points, key=lambda point: random.random())


def spaces_of(config: TrialConfig, search: Search) -> dict[str, Space]:
    """Return the spaces of the hyperparameters that a trial has."""
    return {key: search.spaces[key] for key in sorted(search.spaces) if _applies(key, config)}


def with_samples(config: TrialConfig, samples: Mapping[str, Any]) -> TrialConfig:
    """Return the trial with values for some hyperparameters."""
    model, loss, settings = config.model, config.loss, config.settings
    for key, value in samples.items():
        owner, _, option = key.rpartition(".")
        if not owner:
            settings = replace(settings, **{option: value})
        elif owner == "augment":
            settings = replace(settings, augment=replace(settings.augment, **{option: value}))
        else:
            model = _with_option(model, owner, option, value)
            loss = tuple(_with_option(term, owner, option, value) for term in loss)
    return replace(config, model=model, loss=loss, settings=settings, sampled=dict(samples), parent="")


def _applies(key: str, config: TrialConfig) -> bool:
    """Whether a trial has this hyperparameter: those of train always, an option if its model or loss is used."""
    owner, _, option = key.rpartition(".")
    return not option or owner in ("", "augment", config.model.name, *(term.name for term in config.loss))


def _with_option(spec: ComponentSpec, owner: str, option: str, value: Any) -> ComponentSpec:
    if spec.name != owner:
        return spec
    if option == "weight":
        return replace(spec, weight=value)
    return replace(spec, options={**spec.options, option: value})
