"""Processes: Ray sessions, tasks that run in parallel on one, and the memory of a process."""

import ctypes
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from segline.errors import SeglineError, StageError
from segline.ray_start import Options, joined_ray, knock, local_ray

# Ray reads these when it is imported.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own handler ends the search as if it were complete.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

AUTOSCALING = "SEGLINE_RAY_AUTOSCALING"
"""The variable that says that the cluster adds nodes when tasks wait for resources."""

# Only records and file names pass through Ray's object store; the data stay in files.
OBJECT_STORE_BYTES = 200 * 2**20

# The options of glibc's mallopt(3), and their values in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_THRESHOLD = 2**31 - 1
MMAP_THRESHOLDS = (2**30, 32 * 2**20)

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def ray_session() -> Iterator[dict[str, float]]:
    """Join the Ray cluster at RAY_ADDRESS, or start one on this machine until the end of the session.

    Ray listens on every interface of the machine, so a cluster that is started here demands a token that nobody else
    knows; an existing cluster has its own mode of authentication.

    Yields:
        The resources of the cluster ("CPU", "GPU").

    Raises:
        StageError: Ray is not installed, does not start, or cannot be reached.
    """
    joins = "RAY_ADDRESS" in os.environ
    token = {} if joins else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in {**SETTINGS, **token}.items():
        os.environ.setdefault(name, value)
    if joins:
        knock(os.environ["RAY_ADDRESS"])
    try:
        import ray
    except ModuleNotFoundError:
        raise StageError("Ray is not installed here; install segline[train], or ask for one worker") from None
    options: Options = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if joins:
        session = joined_ray(ray, options, os.environ["RAY_ADDRESS"])
    else:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        session = local_ray(ray, options)
    with session:
        yield ray.cluster_resources()


def for_each(
    tasks: Sequence[Task], run: Callable[[Task], Result], on_done: Callable[[Result], None], *, workers: int
) -> None:
    """Run every task, one after another in this process or ``workers`` at once on Ray.

    Args:
        tasks: The arguments that ``run`` is called with, each picklable.
        run: A function that can be imported where the tasks run. It writes its data to files, which its result names.
        on_done: A function that is called in this process with each result as it comes, in no particular order.
        workers: The number of tasks at once; 1 needs no Ray.

    Raises:
        SeglineError: A task raised it; the tasks that were running are ended.
    """
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            on_done(run(task))
        return
    with ray_session() as resources:
        if resources.get("CPU", 0) < 1:
            raise StageError("Ray has no CPU to run on; look at `ray status`")
        _run_on_ray(tasks, run, on_done, workers)


def _run_on_ray(
    tasks: Sequence[Task], run: Callable[[Task], Result], on_done: Callable[[Result], None], workers: int
) -> None:
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3)(run)
    waiting, running = list(reversed(tasks)), list[ray.ObjectRef]()
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(remote.remote(waiting.pop()))
        done, running = ray.wait(running, num_returns=1)
        try:
            on_done(ray.get(done[0]))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SeglineError | OSError):
                raise error.cause from None
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise StageError(
                f"a worker died ({str(error).splitlines()[0]}); the same command continues, with fewer workers in less "
                "memory"
            ) from None


def tune_malloc() -> None:
    """Let this process keep the memory that it frees, as the next training step or image asks for blocks of equal size.

    By default, glibc returns large blocks to the kernel, which clears them page by page when they are asked for again:
    a tenth of a training step on a CPU, and a third of the time that it takes to label a large frame. The peak of the
    process's memory stays the same. Blocks of up to 1 GiB are kept; a glibc that accepts no more than 32 MiB gets that,
    because the trim threshold alone would switch off the heuristic by which glibc keeps smaller blocks. Other C
    libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS):
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
