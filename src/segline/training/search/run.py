"""The search: rounds of trials, each compared at the rungs of a scheduler, then the finalists with other seeds.

Everything is decided from the files that the trials leave, so that a search that was killed decides as an undisturbed
one does.
"""

import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

from segline.artifacts.candidates import CHECKPOINT, HISTORY, TRACEBACK, WEIGHTS
from segline.errors import StoppedError
from segline.training.ray_train import Records
from segline.training.ray_tune import LOST, Asha, Watch, run_trials
from segline.training.search import decisions, grid, schedulers
from segline.training.search.state import SearchState
from segline.training.trial import Trial, TrialConfig

MAX_ATTEMPTS = 3
"""The attempts at a trial whose process is killed."""


def run_search(state: SearchState) -> None:
    """Train all trials as far as the scheduler lets them, then the best ones again with other seeds."""
    settings = state.params.train
    finished: list[TrialConfig] = []
    for number in range(len(grid.round_sizes(settings, state.params.seed))):
        finished += _train_round(state, number)
    train_trials(state, [state.add_trial(config, settings.epochs) for config in _finalists(state, finished)])


def train_trials(state: SearchState, trials: Sequence[Trial]) -> None:
    """Train the trials that are not done, again if a process was killed; note those that fail."""
    for trial in trials:
        state.display.add(trial.name, trial.standing)
    missing = [trial for trial in trials if not trial.is_done]
    for trial in missing:
        (trial.folder / TRACEBACK).unlink(missing_ok=True)
    _prepare(state, missing)
    for attempt in range(MAX_ATTEMPTS):
        if not missing:
            break
        failed = _run(state, missing)
        state.store.fetch(state.work, whole=False)  # Decisions need what trials did on other nodes.
        missing = [trial for trial, reason in failed if reason == LOST and attempt + 1 < MAX_ATTEMPTS]
        for trial, reason in failed:
            if trial not in missing:
                state.record_failure(trial, reason)


def _prepare(state: SearchState, trials: Sequence[Trial]) -> None:
    """Run the preparation steps that the trials need, and record their scores with the grid's run."""
    if not trials:
        return
    from segline.training.prepare import prepare_trials

    settings = state.params.train
    scores = prepare_trials(
        [trial.config for trial in trials],
        state.inputs,
        state.store,
        seed=state.params.seed,
        threads=settings.cpus_per_worker,
    )
    for name, values in scores.items():
        state.runs.recorder.scores |= {f"{name}/{score}": value for score, value in values.items()}


def _train_round(state: SearchState, number: int) -> Sequence[TrialConfig]:
    """Train the trials of a round from rung to rung, and return those that came to the end."""
    settings, configs = state.params.train, _round(state, number)
    for rung, until in enumerate(schedulers.rungs(settings.search, settings.epochs), 1):
        trials, name = [state.add_trial(config, until) for config in configs], f"batch{number + 1}-rung{rung}"
        state.failed |= (state.decisions.find(name) or {}).get("failed", {})
        train_trials(state, [trial for trial in trials if trial.name not in state.failed])
        if until == settings.epochs:
            configs = [trial.config for trial in trials if trial.name not in state.failed]
        else:
            decision = state.decisions.once(name, partial(_decide, state, trials, rung))
            configs = _apply_decision(state, trials, decision)
    return configs


def _round(state: SearchState, number: int) -> Sequence[TrialConfig]:
    """Return the first trials, or those that Optuna proposes by the results of all before."""
    settings, seed = state.params.train, state.params.seed
    if not number:
        return grid.first_round(settings, seed)

    def propose() -> dict[str, Any]:
        results = [(trial.config, state.score(trial)) for trial in state.trials.values()]
        return {config.name: config.sampled for config in grid.next_round(settings, seed, number, results)}

    proposed = state.decisions.once(f"batch{number + 1}", propose)
    return [grid.config_of(settings, seed, name, sampled) for name, sampled in proposed.items()]


def _decide(state: SearchState, trials: Sequence[Trial], rung: int) -> dict[str, Any]:
    """Return who goes on after a rung, the children that replace others, and who had failed by then."""
    search = state.params.train.search
    failed = {trial.name: state.failed[trial.name] for trial in trials if trial.name in state.failed}
    children: dict[str, TrialConfig] = {}
    if search.scheduler == "pbt":
        scores = {trial.name: -1.0 if trial.name in failed else trial.last_score for trial in trials}
        children = schedulers.children([trial.config for trial in trials], scores, search, rung)
        kept = [name for name in scores if name not in children and name not in failed]
    else:
        scores = {trial.name: trial.best_score for trial in trials if trial.name not in failed}
        kept = schedulers.survivors(scores, search)
    described = {
        replaced: {"name": child.name, "parent": child.parent, "sampled": child.sampled}
        for replaced, child in children.items()
    }
    return {"kept": kept, "children": described, "failed": failed}


def _apply_decision(state: SearchState, trials: Sequence[Trial], decision: dict[str, Any]) -> list[TrialConfig]:
    """Make the children, end the trials that do not go on, and return those that do."""
    settings, seed = state.params.train, state.params.seed
    children = [grid.config_of(settings, seed, **child) for child in decision["children"].values()]
    for child in children:
        if state.is_stopping:
            raise StoppedError("stopped between two rungs; the same command continues")
        _exploit(state, child)
    state.replaced |= set(decision["children"])
    for trial in trials:
        if trial.name not in decision["kept"] and trial.name not in state.failed:
            state.eliminate(trial)
    return [trial.config for trial in trials if trial.name in decision["kept"]] + children


def _exploit(state: SearchState, child: TrialConfig) -> None:
    """Copy the weights and history of its parent to a child, unless it has them; first to the bucket, then at once."""
    copy, names = state.work / decisions.FOLDER / child.name, (WEIGHTS, CHECKPOINT, HISTORY)
    if not (state.work / child.name).is_dir():
        state.store.fetch(state.work, child.parent)
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in names:
            shutil.copyfile(state.work / child.parent / name, copy / name)
        state.store.upload(copy, names)
        copy.rename(state.work / child.name)


def _finalists(state: SearchState, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return the best trials with each of the seeds that follow."""
    search, seed = state.params.train.search, state.params.seed
    finished = [state.trials[config.name] for config in configs if state.trials[config.name].is_finished]
    chosen = schedulers.best({trial.name: trial.best_score for trial in finished}, search.finalists)
    return [
        grid.with_seed(config, seed + more)
        for config in configs
        if config.name in chosen
        for more in range(1, search.seeds)
    ]


def _run(state: SearchState, trials: Sequence[Trial]) -> list[tuple[Trial, str]]:
    settings = state.params.train
    asha = Asha("val_miou", settings.search.grace_period, settings.epochs, settings.search.reduction_factor)
    watch = Watch(
        on_record=state.record_epoch,
        on_end=partial(_on_end, state),
        is_stopping=lambda: state.is_stopping,
    )
    return run_trials(
        trials,
        _train_trial,
        workers=settings.workers_per_trial,
        cpus=settings.cpus_per_worker,
        gpus=settings.gpus_per_worker,
        watch=watch,
        asha=asha if settings.search.scheduler == "asha" else None,
    )


def _train_trial(trial: Trial) -> Records:
    """Import torch in the trial's process alone, which saves this one the seconds."""
    from segline.training.run_trial import train_trial

    yield from train_trial(trial)


def _on_end(state: SearchState, trial: Trial) -> None:
    """Record the end of a trial; asynchronous halving stops those that are not done."""
    state.store.fetch(state.work, trial.name, whole=False)
    if trial.is_finished:
        state.display.finish(trial.name, "done")
        state.record_end(trial)
    elif not trial.is_done and not state.is_stopping:
        state.eliminate(trial)
