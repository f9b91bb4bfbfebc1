"""The section ``train.search``: which hyperparameters are drawn, and which trials are trained to the end."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from segline.config.fields import Range
from segline.config.spaces import Space


@dataclass(frozen=True, kw_only=True)
class Search:
    """The hyperparameter search: the trials of each model x loss, and which of them are trained to the end."""

    spaces: Annotated[
        dict[str, Space],
        "the hyperparameters to draw: a key of train, augment.<key>, <model>.<option> or <loss>.<option> -> a list of "
        "values, or {low: ..., high: ..., log: true or false}",
    ] = field(default_factory=dict)
    num_samples: Annotated[
        int, Range(1, 10_000), "the number of trials of each model x loss that has a hyperparameter to draw"
    ] = 1
    searcher: Annotated[
        Literal["random", "optuna"],
        "how hyperparameters are drawn: random spreads them evenly by chance; optuna does so for the first "
        "trials_per_round trials, then goes by the results",
    ] = "random"
    trials_per_round: Annotated[
        int, Range(1, 10_000), "the number of trials of each model x loss that Optuna proposes at a time"
    ] = 4
    scheduler: Annotated[
        Literal["halving", "asha", "pbt", "none"],
        "which trials go on: with halving the best at each rung, the same ones in every run; with asha likewise, but "
        "asynchronously; with pbt (population-based training) all, but the worst quarter of each model x loss takes "
        "weights and hyperparameters of the best; with none all",
    ] = "halving"
    reduction_factor: Annotated[int, Range(2, 100), "one trial in this many goes on to the next rung"] = 2
    grace_period: Annotated[
        int,
        Range(1, 100_000),
        "the epochs before halving or asha first compares trials; each rung has reduction_factor times as many",
    ] = 8
    perturbation_interval: Annotated[int, Range(1, 100_000), "the epochs between two exploit steps of pbt"] = 8
    finalists: Annotated[int, Range(0, 1000), "the number of best trials that are trained again with other seeds"] = 0
    seeds: Annotated[int, Range(1, 100), "the number of seeds of a finalist, with its first one"] = 3
    max_failed: Annotated[int, Range(0), "the number of failed trials above which train fails at its end"] = 0
