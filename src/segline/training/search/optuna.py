"""Optuna, by way of Ray's integration: draws that follow from what came of those before. Its only importer."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from segline.config.spaces import Space
from segline.errors import StageError

TRIES = 4
"""Asked for each proposal, as short lists make for repetitions."""


def check_installed() -> None:
    """Optuna is an extra of its own.

    Raises:
        StageError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise StageError("train.search.searcher: Optuna is not installed; install segline[optuna], or say random")


def propose(
    spaces: Mapping[str, Space], results: Sequence[tuple[dict[str, Any], float]], seed: str, count: int
) -> list[dict[str, Any]]:
    """Values to try next, by the tree-structured Parzen estimator (Bergstra et al. 2011); the same for the same seed.

    Args:
        spaces: by hyperparameter.
        results: what was tried, with its score; more is better.
        seed: of all that is random.
        count: of proposals; fewer, if no more are found that differ from one another and from what was tried.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16)
    # The first draws were made by chance already; those under way count as bad, so that others are proposed.
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=0, multivariate=True, constant_liar=True)
    # Ray reads / and . of a name in ways of its own.
    search = OptunaSearch(
        {str(place): _distribution(space) for place, space in enumerate(spaces.values())},
        metric="score",
        mode="max",
        sampler=sampler,
        points_to_evaluate=[{str(place): drawn[key] for place, key in enumerate(spaces)} for drawn, _ in results],
        evaluated_rewards=[score for _, score in results],
    )
    known = [drawn for drawn, _ in results]
    proposals: list[dict[str, Any]] = []
    for number in range(TRIES * count):
        suggested = search.suggest(str(number))
        assert suggested is not None
        drawn = {key: suggested[str(place)] for place, key in enumerate(spaces)}
        if len(proposals) < count and drawn not in known:
            proposals.append(drawn)
            known.append(drawn)
    return proposals


def _distribution(space: Space) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if space.values:
        return CategoricalDistribution(space.values)
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
