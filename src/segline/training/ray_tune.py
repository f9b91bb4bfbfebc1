"""Ray Tune over a list of trials: as many at once as the machine or cluster has room for."""

import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from segline.artifacts.candidates import TRACEBACK
from segline.errors import SeglineError, StoppedError, TrainingError, clip, one_line
from segline.files.atomic import write_text
from segline.parallel import AUTOSCALING
from segline.redaction import redact
from segline.training.ray_train import Record, Records, train_distributed
from segline.training.trial import Trial

# The prefix of an error's last line in Ray's report.
ERROR_PREFIX = re.compile(rf"\b{re.escape(SeglineError.__module__)}\.\w+: ")

COLORS = re.compile(r"\x1b\[[0-9;]*m")
"""The codes by which Ray colours a report."""

PATIENCE_S = 8.0
"""The seconds that trials have to save themselves: a spot node is gone ten seconds or more after its notice."""

HEAD = "node:__internal_head__"
"""Ray's resource of the head node, which its cluster does not outlive."""

LOST = "its process was killed, perhaps for want of memory; lower train.batch_size, or run fewer trials at once"

Argument = TypeVar("Argument")
Result = TypeVar("Result")

MAX_WAITING_TRIALS = 8
"""The trials of several workers that run at once in a cluster that grows; each has a waiting process on the head."""


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020): at each rung one in ``reduction_factor`` goes on at once."""

    metric: str
    grace_period: int
    max_t: int
    reduction_factor: int


@dataclass(frozen=True)
class Watch:
    """The callbacks of the driver.

    Attributes:
        on_record: A function that is called with each record of a trial.
        on_end: A function that is called with a trial that has run to its end or that the scheduler stopped.
        is_stopping: A function that says whether the trials were told to save themselves and end; none begins then.
    """

    on_record: Callable[[Record], None]
    on_end: Callable[[Trial], None] = lambda trial: None
    is_stopping: Callable[[], bool] = lambda: False


# Longer than forty lines by its description and the nested settings of Ray Tune.
def run_trials(
    trials: Sequence[Trial],
    run: Callable[[Trial], Records],
    *,
    workers: int = 1,
    cpus: int,
    gpus: float,
    watch: Watch,
    asha: Asha | None = None,
) -> list[tuple[Trial, str]]:
    """Run every trial, each in a process of its own, on the Ray that this process is connected to.

    A trial of several workers takes no resources itself: its workers are placed together, when all have room.

    Args:
        trials: The trials.
        run: A generator function that trains a trial and yields a record after each epoch; it must be importable where
            the trials run.
        workers: The number of workers of a trial.
        cpus: The cores of a worker.
        gpus: The GPUs of a worker, which may be a fraction of one.
        watch: The callbacks in this process.
        asha: The scheduler that stops the worse trials at its rungs; without it all run to their end.

    Returns:
        The trials that failed, each with its reason in one line; the others have run to their end.

    Raises:
        TrainingError: A trial wants more resources than the cluster has, and it does not grow.
        StoppedError: The trials were told to stop, and have, or did not in time.
    """
    import ray
    from ray import tune

    room = _room(ray.nodes(), cpus, gpus)
    grows = bool(os.environ.get(AUTOSCALING))
    if not grows:
        _refuse_too_large(ray.cluster_resources(), room, workers, cpus, gpus)
    is_alone = workers == 1
    start = run if is_alone else partial(train_distributed, run, workers=workers, cpus=cpus, gpus=gpus)
    with tempfile.TemporaryDirectory(prefix="segline-tune-") as storage:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(start), {"cpu": cpus, "gpu": gpus} if is_alone else {"cpu": 0, HEAD: 0.001}),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(
                # A process that is kept for the next trial keeps its workers.
                reuse_actors=is_alone,
                scheduler=_scheduler(asha),
                max_concurrent_trials=None if is_alone else MAX_WAITING_TRIALS if grows else room // workers,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[_callback(watch)],
                # The trials save themselves.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        results = tuner.fit()
    return _failures(results, trials)


def is_one_machine() -> bool:
    """Return whether the Ray that this process is connected to is one node that stays alone."""
    import ray

    return sum(node["Alive"] for node in ray.nodes()) == 1 and not os.environ.get(AUTOSCALING)


def run_apart(
    run: Callable[[Argument], Result], argument: Argument, workers: int, cpus: int, gpus: float
) -> Result | None:
    """Call a function in a process of its own, with the cores and the GPUs of one worker of a trial.

    Returns:
        What the function returns; None if its process was killed.

    Raises:
        TrainingError: A trial of so many workers wants more resources than the cluster has, and it does not grow.
    """
    import ray

    if not os.environ.get(AUTOSCALING):
        _refuse_too_large(ray.cluster_resources(), _room(ray.nodes(), cpus, gpus), workers, cpus, gpus)
    # A process that is used once leaves nothing in the memory of a GPU.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(run)
    try:
        result: Result = ray.get(remote.remote(argument))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError:
        return None
    return result


def _scheduler(asha: Asha | None) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    return asha and ASHAScheduler(
        time_attr="epoch",
        metric=asha.metric,
        mode="max",
        grace_period=asha.grace_period,
        max_t=asha.max_t,
        reduction_factor=asha.reduction_factor,
    )


def _failures(results: Any, trials: Sequence[Trial]) -> list[tuple[Trial, str]]:
    """Return the failures; that of an error that is not known leaves its traceback in the trial's folder."""
    from ray.exceptions import RayActorError

    failed = []
    for trial, result in zip(trials, results, strict=True):
        error = result.error
        if error is None:
            continue
        if isinstance(error, RayActorError):
            failed.append((trial, LOST))
            continue
        if not isinstance(error, SeglineError):
            failed.append((trial, _keep_traceback(trial, error)))
            continue
        reason = ERROR_PREFIX.sub("", str(error).strip().splitlines()[-1])
        if isinstance(error, StoppedError):
            raise StoppedError(reason)
        failed.append((trial, reason))
    return failed


def _keep_traceback(trial: Trial, error: BaseException) -> str:
    """Write the traceback of an error into the trial's folder; return the reason of the failure in a line."""
    cause = getattr(error, "cause", None) or error
    if not isinstance(cause, Exception):
        raise error
    path = trial.folder / TRACEBACK
    write_text(path, redact(COLORS.sub("", str(error)).strip()) + "\n")
    return f"{type(cause).__name__}: {clip(one_line(cause))}; its traceback is in {path}"


def _room(nodes: Sequence[dict[str, Any]], cpus: int, gpus: float) -> int:
    """Return how many workers the nodes have room for; each must fit on one node."""
    workers = 0
    for node in nodes:
        resources = node["Resources"] if node["Alive"] else {}
        fitting = [resources.get("CPU", 0) // cpus]
        if gpus:
            # A fraction is of one GPU; 1 // 0.1 is 9.
            has = resources.get("GPU", 0)
            fitting.append(has // gpus if gpus >= 1 else has * int(1 / gpus + 1e-9))
        workers += int(min(fitting))
    return workers


def _refuse_too_large(resources: dict[str, float], room: int, workers: int, cpus: int, gpus: float) -> None:
    """Refuse a trial that has no room anywhere: it would wait for ever."""
    for what, share in (("CPU", cpus), ("GPU", gpus)):
        wanted, has = workers * share, resources.get(what, 0)
        if has < wanted:
            raise TrainingError(
                f"train.{what.lower()}s_per_worker: a trial wants {wanted:g}, but Ray has {has:g}; lower it"
            )
    if room < workers:
        raise TrainingError(
            f"train.workers_per_trial: a trial wants {workers} of {cpus} CPUs and {gpus:g} GPUs, each on one node, "
            f"but Ray has room for {room}; lower it, or train.cpus_per_worker"
        )


def _trainable(start: Callable[[Trial], Records]) -> Any:
    from ray import tune
    from ray.tune.result import RESULT_DUPLICATE

    class Training(tune.Trainable):
        """A trial as Tune runs it, a record per step. Tune waits for the cleanup of a class, not of a function."""

        def setup(self, config: dict[str, Trial]) -> None:
            self.records = start(config["trial"])

        def step(self) -> Record:
            return next(self.records, {RESULT_DUPLICATE: True})

        def reset_config(self, config: dict[str, Trial]) -> bool:
            self.cleanup()
            self.setup(config)
            return True

        def cleanup(self) -> None:
            self.records.close()

    return Training


def _callback(watch: Watch) -> Any:
    from ray import tune

    class Callback(tune.Callback):
        """Call the driver's functions. Tune pickles its callbacks, and the content of a display cannot be pickled."""

        def __init__(self, watch: Watch) -> None:
            self.watch = watch
            self.stopping_since = 0.0

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Record, **info: Any) -> None:
            self.watch.on_record(result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            # An interrupt ends trials that are not done, too.
            if trial.last_result.get("done"):
                self.watch.on_end(trial.config["trial"])

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if not self.watch.is_stopping():
                return
            self.stopping_since = self.stopping_since or time.monotonic()
            if (
                not any(trial.status == "RUNNING" for trial in trials)
                or time.monotonic() - self.stopping_since > PATIENCE_S
            ):
                raise StoppedError("stopped and saved; the same command continues")

    return Callback(watch)
