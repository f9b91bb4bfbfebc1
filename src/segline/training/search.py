"""Ray Tune over a list of trials: as many at once as the machine or cluster has room for."""

import re
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from segline.cluster import connected
from segline.errors import SeglineError, TrainingError

# How a trial's error ends, as Ray tells it.
ERROR_PREFIX = re.compile(rf"\b{re.escape(SeglineError.__module__)}\.\w+: ")

Trial = Any
Record = dict[str, Any]


def run_trials(
    trials: list[Trial],
    run: Callable[[Trial], Iterable[Record]],
    *,
    cpus: int,
    gpus: float,
    on_record: Callable[[Record], None],
) -> None:
    """Run every trial, each in a process of its own.

    Args:
        trials: what ``run`` is called with.
        run: yields a record after each epoch; it has to be importable where the trials run.
        cpus: cores of a trial.
        gpus: GPUs of a trial, which may be a share of one.
        on_record: called in this process with each record as it comes.

    Raises:
        TrainingError: a trial failed; the others have been run to their end.
    """
    with connected() as there, tempfile.TemporaryDirectory(prefix="segline-tune-") as storage:
        _refuse_too_large(there, cpus, gpus)
        from ray import tune

        tuner = tune.Tuner(
            tune.with_resources(_trainable(run), {"cpu": cpus, "gpu": gpus}),
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=storage, verbose=0, callbacks=[_forward_to(on_record)]),
        )
        results = tuner.fit()
    _raise(list(results.errors), len(trials))


def _raise(errors: list[Exception], trials: int) -> None:
    """One line for what users can mend; anything else is our own fault and keeps its traceback."""
    for error in errors:
        if not isinstance(error, SeglineError):
            raise error
    if errors:
        reasons = "; ".join(str(error).strip().splitlines()[-1] for error in errors)
        raise TrainingError(f"{len(errors)} of {trials} trials failed: {ERROR_PREFIX.sub('', reasons)}")


def _refuse_too_large(there: dict[str, float], cpus: int, gpus: float) -> None:
    """A trial that fits no machine would wait for ever."""
    for what, wanted in (("CPU", cpus), ("GPU", gpus)):
        if there.get(what, 0) < wanted:
            raise TrainingError(
                f"train.{what.lower()}s_per_trial: got {wanted}, but Ray has {there.get(what, 0):g}; lower it"
            )


def _trainable(run: Callable[[Trial], Iterable[Record]]) -> Callable[[dict[str, Trial]], None]:
    def train(config: dict[str, Trial]) -> None:
        from ray import tune

        for record in run(config["trial"]):
            tune.report(record)

    return train


def _forward_to(on_record: Callable[[Record], None]) -> Any:
    from ray import tune

    class Forward(tune.Callback):
        """Hands every record on; Tune pickles its callbacks, and what a display holds cannot be."""

        def __init__(self, hand_on: Callable[[Record], None]) -> None:
            self.hand_on = hand_on

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Record, **info: Any) -> None:
            self.hand_on(result)

    return Forward(on_record)
