"""Ray: the cluster at RAY_ADDRESS, or one of our own on this machine for as long as it is needed."""

import gc
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from segline.errors import SeglineError, StageError

# Ray reads these when it is imported.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own handler ends the search as if it were done.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

GROWS = "SEGLINE_RAY_GROWS"
"""The variable that says that a cluster makes nodes when something waits for them."""

# Only records and names of files pass through Ray's object store; data stay in files.
OBJECT_STORE_BYTES = 200 * 2**20

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def ray_session() -> Iterator[dict[str, float]]:
    """Join the cluster, or start one on this machine; yields what it has ("CPU", "GPU"), and leaves it at the end.

    Ray listens on every interface of the machine, so a cluster of our own demands a token that no one else has; a
    foreign one, at RAY_ADDRESS, brings its own mode of authentication.
    """
    foreign = "RAY_ADDRESS" in os.environ
    own = {} if foreign else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in {**SETTINGS, **own}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise StageError("Ray is not installed here; install segline[train], or ask for one worker") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if not foreign:
        quiet |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(**quiet)
    try:
        yield ray.cluster_resources()
    finally:
        _shut_down(ray)


def _shut_down(ray: Any) -> None:
    """Leave Ray. It ends the whole process if another thread collects one of its references at this very moment."""
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def for_each(
    tasks: Sequence[Task], run: Callable[[Task], Result], on_done: Callable[[Result], None], *, workers: int
) -> None:
    """Run every task, one after the other in this process or ``workers`` at once on Ray.

    Args:
        tasks: what ``run`` is called with; they have to be picklable.
        run: has to be importable where the tasks run; what it makes goes to files that are named in its result.
        on_done: called in this process with each result as it comes, in no certain order.
        workers: 1 needs no Ray.

    Raises:
        SeglineError: what a task raised; those under way are ended.
    """
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            on_done(run(task))
        return
    with ray_session() as there:
        if there.get("CPU", 0) < 1:
            raise StageError("Ray has no CPU to run on; look at `ray status`")
        _run_on_ray(tasks, run, on_done, workers)


def _run_on_ray(tasks: Sequence[Any], run: Callable[[Any], Any], on_done: Callable[[Any], None], workers: int) -> None:
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3)(run)
    waiting, under_way = list(reversed(tasks)), list[Any]()
    while waiting or under_way:
        while waiting and len(under_way) < workers:
            under_way.append(remote.remote(waiting.pop()))
        done, under_way = ray.wait(under_way, num_returns=1)
        try:
            on_done(ray.get(done[0]))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SeglineError | OSError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise StageError(
                f"a worker died ({str(error).splitlines()[0]}); the same command continues, with fewer workers in less "
                "memory"
            ) from None
