"""Optuna: samples that follow from the results of those before. The only importer of optuna."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from segline.config.spaces import Space
from segline.errors import StageError

MAX_ATTEMPTS = 4
"""The attempts per proposal, because short lists of values make for repetitions."""


def check_installed() -> None:
    """Check that Optuna is there; it is an extra of its own.

    Raises:
        StageError: It is not installed.
    """
    if find_spec("optuna") is None:
        raise StageError("train.search.searcher: Optuna is not installed; install segline[optuna], or say random")


def propose(
    spaces: Mapping[str, Space], results: Sequence[tuple[dict[str, Any], float]], seed: str, count: int
) -> list[dict[str, Any]]:
    """Return values to try next, by the tree-structured Parzen estimator (Bergstra et al. 2011).

    The same seed proposes the same.

    Args:
        spaces: The spaces by hyperparameter.
        results: The values that were tried, each with its score; a higher score is better.
        seed: The seed of all draws.
        count: The number of proposals; there are fewer if no more are found that differ from one another and from the
            values that were tried.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16)
    # The first samples were random already; pending ones count as bad, so that others are proposed.
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=0, multivariate=True, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    distributions = {key: _distribution(space) for key, space in spaces.items()}
    for samples, score in results:
        study.add_trial(optuna.create_trial(params=samples, distributions=distributions, value=score))
    known = [samples for samples, _ in results]
    proposals: list[dict[str, Any]] = []
    for _ in range(MAX_ATTEMPTS * count):
        asked = study.ask(distributions).params
        samples = {key: asked[key] for key in spaces}
        if len(proposals) < count and samples not in known:
            proposals.append(samples)
            known.append(samples)
    return proposals


def _distribution(space: Space) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if space.values:
        return CategoricalDistribution(space.values)
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
