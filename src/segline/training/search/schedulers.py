"""The schedulers that decide from scores which trials go on: successive halving and population-based training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from segline.config.sections import Search
from segline.training.search.spaces import perturb, sample, with_samples
from segline.training.trial import TrialConfig

QUANTILE_FRACTION = 1 / 4
"""The fraction of a population that children of the best replace."""
RESAMPLE_PROBABILITY = 1 / 4
"""The probability that a child samples a hyperparameter anew (Jaderberg et al. 2017, appendix A.1)."""


def rungs(search: Search, epochs: int) -> list[int]:
    """Return the epochs after which trials are compared; the last one is the end.

    Successive halving (Jamieson and Talwalkar 2016): from ``grace_period`` on, each rung has ``reduction_factor`` times
    as many epochs. Population-based training compares every ``perturbation_interval`` epochs.
    """
    if search.scheduler == "pbt":
        return [*range(search.perturbation_interval, epochs, search.perturbation_interval), epochs]
    ends = []
    rung = search.grace_period
    while search.scheduler == "halving" and rung < epochs:
        ends.append(rung)
        rung *= search.reduction_factor
    return [*ends, epochs]


def survivors(scores: Mapping[str, float], search: Search) -> list[str]:
    """Return the trials that go on after a rung: one in ``reduction_factor``, and no fewer than the finalists.

    The best of each model x loss come first, then the second best of each, and so on: a loss whose score rises late is
    not stopped by others, whose scores mean something else so early.
    """
    ranks: dict[str, int] = {}
    families: Counter[str] = Counter()
    for name in best(scores, len(scores)):
        families[family(name)] += 1
        ranks[name] = families[family(name)]
    count = max(search.finalists, -(-len(scores) // search.reduction_factor))
    return sorted(scores, key=lambda name: (ranks[name], -scores[name], name))[:count]


def children(
    configs: Sequence[TrialConfig], scores: Mapping[str, float], search: Search, rung: int
) -> dict[str, TrialConfig]:
    """Return the children that replace the worst quarter of each model x loss (Jaderberg et al. 2017).

    A child continues with the weights of one of the best quarter and with its hyperparameters, each perturbed, or
    sampled anew once in four times (section 4.1.1 and appendix A.1).

    Args:
        configs: The trials of the population.
        scores: The scores by name; a trial that failed has a score below zero and gets no children.
        search: The search with its spaces.
        rung: The number of the rung, from 1.

    Returns:
        The children by the name of the trial that each replaces.
    """
    populations: dict[str, dict[str, TrialConfig]] = {}
    for config in configs:
        populations.setdefault(family(config.name), {})[config.name] = config
    replacements = {}
    for members in populations.values():
        ranked = best({name: scores[name] for name in members}, len(members))
        quarter = int(len(ranked) * QUANTILE_FRACTION)
        for worse, better in zip(ranked[len(ranked) - quarter :], ranked, strict=False):
            if scores[better] >= 0:
                replacements[worse] = _child(members[better], worse.partition("-child")[0], search, rung)
    return replacements


def best(scores: Mapping[str, float], count: int) -> list[str]:
    """Return the names of the highest scores; of equal ones the first name."""
    return sorted(scores, key=lambda name: (-scores[name], name))[:count]


def family(name: str) -> str:
    """Return the model x loss that a trial belongs to."""
    return name.partition("-draw")[0]


def _child(parent: TrialConfig, replaced: str, search: Search, rung: int) -> TrialConfig:
    samples = {}
    for key, value in parent.sampled.items():
        # The text only seeds the generator; it is that of version 0.1, so that the same values are drawn.
        random, space = Random(f"{parent.seed}/{replaced}-heir{rung}/{key}"), search.spaces[key]
        is_new = random.random() < RESAMPLE_PROBABILITY
        samples[key] = sample(space, random.random()) if is_new else perturb(space, value, above=random.random() < 0.5)
    return replace(with_samples(parent, samples), name=f"{replaced}-child{rung}", parent=parent.name)
