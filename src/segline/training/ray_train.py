"""A trial on several workers: a Ray Train ``TorchTrainer``, which the trial's own process starts, watches and ends.

Ray Train places the workers, all or none, and connects their processes; the engine sees them through
:mod:`segline.training.ddp`. The losses equal those of one process with the same batches where a loss is a mean over
pixels or images: not where it looks at a whole batch at once, as Dice and Lovász do.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

from segline.errors import SeglineError, TrainingError
from segline.parallel import SETTINGS
from segline.training.trial import Trial

MAX_LOSSES = 3
"""The number of times in a row that workers may be lost before an epoch is done."""
PATIENCE_S = 1.0
"""The seconds to wait for a record before a look at whether the trainer has ended."""

# Ray Train reads this in the process that makes the trainer: the seconds between looks at its workers, by default 2.
TRAIN_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}

Record = dict[str, Any]
Records = Generator[Record, None, None]


def train_distributed(
    run: Callable[[Trial], Records], trial: Trial, *, workers: int, cpus: int, gpus: float
) -> Records:
    """Run a trial on several workers, yielding its records as one worker would.

    The workers wait after a record until the next one is asked for, and have ended when this iterator has ended or is
    closed. When one of them is lost, all begin again as soon as Ray has room for them; ``run`` must then continue from
    its checkpoint.

    Args:
        run: A function that every worker calls, all in step; the records of rank 0 count. A record has an ``epoch``;
            those of epochs that were yielded already are left out.
        trial: The trial.
        workers: The number of workers.
        cpus: The cores of each worker.
        gpus: The GPUs of each worker, which may be a fraction of one.

    Raises:
        SeglineError: ``run`` raised it in some worker.
        TrainingError: Workers were lost again and again.
    """
    from ray.train import TrainingFailedError

    losses, last = 0, 0
    while True:
        try:
            with closing(_attempt(run, trial, workers, {"CPU": cpus, "GPU": gpus})) as records:
                for record in records:
                    if record["epoch"] > last:
                        losses, last = 0, record["epoch"]
                        yield record
                return
        except TrainingFailedError as error:
            losses += 1
            _raise_unless_lost(trial, error, losses)


def _attempt(run: Callable[[Trial], Records], trial: Trial, workers: int, share: dict[str, float]) -> Records:
    """Yield the records of a trainer, which has ended when this iterator has, however it ends."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for name, value in {**SETTINGS, **TRAIN_SETTINGS}.items():
        os.environ.setdefault(name, value)
    relay, on_gpu = _new_relay(), share["GPU"] > 0
    with tempfile.TemporaryDirectory(prefix="segline-train-") as storage, ThreadPoolExecutor(1) as thread:
        trainer = TorchTrainer(
            partial(_work, run, trial, relay),
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpu, resources_per_worker=share),
            run_config=RunConfig(storage_path=storage),
        )
        ended = thread.submit(trainer.fit)
        try:
            while (record := ray.get(relay.get.remote(PATIENCE_S))) or not ended.done():
                if record:
                    yield record
        finally:
            ray.get(relay.close.remote())
        ended.result()


def _work(run: Callable[[Trial], Records], trial: Trial, relay: Any) -> None:
    """Train in a worker: rank 0 sends its records, and all stop when nobody asks for more."""
    import ray

    from segline.training import ddp

    for record in run(trial):
        goes_on = ddp.rank() > 0 or ray.get(relay.put.remote(record))
        if any(ddp.all_reduce_max([not goes_on])):
            return


class _Relay:
    """An actor to which rank 0 hands its records, and from which it learns whether to go on."""

    def __init__(self) -> None:
        self.records: asyncio.Queue[tuple[Record, asyncio.Event]] = asyncio.Queue()
        self.answered = asyncio.Event()
        self.is_open = True

    async def put(self, record: Record) -> bool:
        """Hand over a record; return whether to go on, once the next one is asked for."""
        answered = asyncio.Event()
        self.records.put_nowait((record, answered))
        if self.is_open:
            await answered.wait()
        return self.is_open

    async def get(self, patience: float) -> Record | None:
        """Return the next record, or None after ``patience`` seconds."""
        self.answered.set()
        try:
            record, self.answered = await asyncio.wait_for(self.records.get(), patience)
        except TimeoutError:
            return None
        return record

    async def close(self) -> None:
        """Tell the workers to end."""
        self.is_open = False
        self.answered.set()
        while not self.records.empty():
            self.records.get_nowait()[1].set()


def _new_relay() -> Any:
    """Start a relay on this node: when the node is lost, so is the trial's own process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(_Relay).remote()


def _raise_unless_lost(trial: Trial, error: Exception, losses: int) -> None:
    """Raise an error of the training as it is; lost workers are tried again a few times."""
    failures: list[Exception] = list(getattr(error, "worker_failures", {}).values())
    known = next((failure for failure in failures if isinstance(failure, SeglineError)), None)
    if known:
        raise known from None
    if losses <= MAX_LOSSES:
        return
    # The others fail too when one dies, with an error of torch.
    dead = next((failure for failure in failures if type(failure).__module__.startswith("ray.")), None)
    if dead is None:
        raise error
    raise TrainingError(
        f"{trial.name}: a worker died {losses} times without finishing an epoch ({str(dead).splitlines()[0]}); "
        "the same command continues, with less on each node"
    ) from None
