"""The check of a grid before its first trial: each kind of model and of loss makes one pass where trials would run."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from segline.config.components import ComponentSpec
from segline.config.sections import Train
from segline.errors import TrainingError
from segline.progress import log
from segline.training.checkpoints import CheckpointStore
from segline.training.ray_tune import is_one_machine, run_apart
from segline.training.search import grid
from segline.training.search.state import SearchState
from segline.training.trial import Trial, TrialConfig, TrialInputs

NAME = "preflight"
"""The name of the check among the decisions of the search: what has passed is not tried again."""
KILLED = "its process is killed by one pass of two images, perhaps for want of memory; lower label.crop"


def check_trials(state: SearchState) -> None:
    """Try one pass of every kind of model and of loss, unless that was done in this folder before.

    Raises:
        TrainingError: Some cannot be trained; each is named with its reason.
    """
    state.decisions.once(
        NAME, partial(_check, state.params.train, state.params.seed, state.inputs, state.decisions.store)
    )


def kinds(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Return one trial for each kind of model and for each kind of loss, not for their product.

    Numbers that are no whole numbers, such as rates and weights, make no kind. A network that was tried with one loss
    is not compiled again for the next.
    """
    chosen, models, losses = list[TrialConfig](), set[str](), set[str]()
    for config in configs:
        model, terms = _kind(config.model), set(map(_kind, config.loss))
        if model not in models or not terms <= losses:
            compiled = config.settings.compile and model not in models
            chosen.append(replace(config, settings=replace(config.settings, compile=compiled)))
            models.add(model)
            losses |= terms
    return chosen


def _kind(spec: ComponentSpec) -> str:
    options = {name: value for name, value in spec.options.items() if not isinstance(value, float)}
    return str(ComponentSpec(name=spec.name, options=options))


def _check(settings: Train, seed: int, inputs: TrialInputs, store: CheckpointStore) -> dict[str, Any]:
    trials = [
        Trial(config=config, inputs=inputs, folder=Path(), until=1, store=store)
        for config in kinds(grid.first_round(settings, seed))
    ]
    if settings.compile or settings.gpus_per_worker or not is_one_machine():
        log(f"train: trying one pass of {len(trials)} kinds of trials before the first begins")
        faults = _try_apart(trials, settings)
    else:
        faults = _try_passes(trials)
    if faults:
        raise TrainingError("; ".join(_grouped(faults)))
    return {"passed": [trial.name for trial in trials]}


def _try_passes(trials: Sequence[Trial]) -> dict[str, str]:
    """Import torch only where the passes run."""
    from segline.training.preflight import try_passes

    return try_passes(trials)


def _try_apart(trials: Sequence[Trial], settings: Train) -> dict[str, str]:
    """Run the passes in a process of their own, which may have a GPU; find out which trial kills it."""
    faults = run_apart(
        _try_passes, trials, settings.workers_per_trial, settings.cpus_per_worker, settings.gpus_per_worker
    )
    if faults is not None:
        return faults
    if len(trials) == 1:
        return {trials[0].name: KILLED}
    return {name: fault for trial in trials for name, fault in _try_apart([trial], settings).items()}


def _grouped(faults: dict[str, str]) -> list[str]:
    """Return the faults in words, trials with the same one together."""
    return [
        f"{', '.join(name for name, other in faults.items() if other == fault)}: {fault}"
        for fault in dict.fromkeys(faults.values())
    ]
