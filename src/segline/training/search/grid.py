"""The trials of a search: every model x loss, with the hyperparameters that are sampled for it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from segline.config.sections import Search, Train
from segline.training.search.optuna import propose
from segline.training.search.schedulers import family
from segline.training.search.spaces import latin_hypercube, sample, spaces_of, with_samples
from segline.training.trial import TrialConfig


def grid_configs(settings: Train, seed: int) -> list[TrialConfig]:
    """Return every model x loss, each as often as hyperparameters are sampled for it.

    The n-th sample is the same for every model x loss, so that they are compared fairly, and the samples of a
    hyperparameter are spread evenly over its space (McKay et al. 1979, Latin hypercube sampling).
    """
    return [config for base in _base_configs(settings, seed) for config in _sampled(base, settings.search)]


def round_sizes(settings: Train, seed: int) -> list[int]:
    """Return how many trials each round begins: all in one round, unless Optuna looks at results in between."""
    search, bases = settings.search, _base_configs(settings, seed)
    sampling = sum(bool(spaces_of(base, search)) for base in bases)
    step = search.num_samples if search.searcher == "random" or not sampling else search.trials_per_round
    sizes = [sampling * min(step, search.num_samples - first) for first in range(0, search.num_samples, step)]
    return [len(bases) - sampling + sizes[0], *sizes[1:]]


def first_round(settings: Train, seed: int) -> list[TrialConfig]:
    """Return the trials of the first round: with Optuna ``trials_per_round`` of each model x loss, else all."""
    search = settings.search
    first = search.num_samples if search.searcher == "random" else min(search.trials_per_round, search.num_samples)
    return grid_configs(replace(settings, search=replace(search, num_samples=first)), seed)


def next_round(
    settings: Train, seed: int, number: int, results: Sequence[tuple[TrialConfig, float]]
) -> list[TrialConfig]:
    """Return the trials of a later round, as Optuna proposes them.

    Args:
        settings: The settings of the grid and its search.
        seed: The seed of every draw.
        number: The number of the round, from 0.
        results: The trials so far, each with its score.
    """
    search = settings.search
    draws = range(number * search.trials_per_round, min((number + 1) * search.trials_per_round, search.num_samples))
    return [config for base in _base_configs(settings, seed) for config in _proposed(base, search, draws, results)]


def config_of(settings: Train, seed: int, name: str, sampled: Mapping[str, Any], parent: str = "") -> TrialConfig:
    """Return the trial of a name with the values that were sampled for it."""
    [base] = [base for base in _base_configs(settings, seed) if base.name == family(name)]
    return replace(with_samples(base, sampled), name=name, parent=parent)


def with_seed(config: TrialConfig, seed: int) -> TrialConfig:
    """Return the same trial with another seed."""
    return replace(config, name=f"{config.name}-seed{seed}", seed=seed)


def _base_configs(settings: Train, seed: int) -> list[TrialConfig]:
    """Return every model x loss once."""
    bases: dict[str, TrialConfig] = {}
    for model in settings.models:
        for loss in settings.losses:
            name = f"{model.name}-{'+'.join(term.name for term in loss)}".replace("/", "_")
            twins = sum(known.partition(".")[0] == name for known in bases)
            name = f"{name}.{twins + 1}" if twins else name
            bases[name] = TrialConfig(name=name, model=model, loss=loss, settings=settings, seed=seed)
    return list(bases.values())


def _sampled(base: TrialConfig, search: Search) -> list[TrialConfig]:
    spaces = spaces_of(base, search)
    if not spaces:
        return [base]
    fractions = {key: latin_hypercube(f"{base.seed}/{key}", search.num_samples) for key in spaces}
    return [
        _draw(base, number, {key: sample(space, fractions[key][number]) for key, space in spaces.items()})
        for number in range(search.num_samples)
    ]


def _proposed(
    base: TrialConfig, search: Search, draws: range, results: Sequence[tuple[TrialConfig, float]]
) -> list[TrialConfig]:
    spaces = spaces_of(base, search)
    if not spaces:
        return []
    own = [(config.sampled, score) for config, score in results if family(config.name) == base.name]
    proposals = propose(spaces, own, f"{base.seed}/{base.name}/{draws.start}", len(draws))
    return [_draw(base, number, samples) for number, samples in zip(draws, proposals, strict=False)]


def _draw(base: TrialConfig, number: int, samples: Mapping[str, Any]) -> TrialConfig:
    return replace(with_samples(base, samples), name=f"{base.name}-draw{number + 1}")
