"""Optuna, by way of Ray's integration: draws that follow from what came of those before. Its only importer."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from segline.errors import StageError
from segline.spaces import Space


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
        count: proposals, which keep away from one another.
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
    proposals = [search.suggest(str(number)) or {} for number in range(count)]
    return [{key: proposal[str(place)] for place, key in enumerate(spaces)} for proposal in proposals]


def _distribution(space: Space) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if space.values:
        return CategoricalDistribution(space.values)
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
