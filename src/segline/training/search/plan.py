"""The cost of a grid: a few steps of each kind of trial are run, and the rest is counted."""

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from rich.table import Table

from segline.config.sections import Train
from segline.errors import TrainingError
from segline.progress import plain_console
from segline.training.search.grid import round_sizes
from segline.training.search.schedulers import rungs
from segline.training.trial import Cost, TrialConfig

WIDTH = 120
"""The width of the table without a terminal, in characters."""

Kind = tuple[str, str, int]


def kind(config: TrialConfig) -> Kind:
    """Return what decides the cost of a trial: the architecture, the loss and the batch."""
    return (
        str(config.model),
        " + ".join(map(str, config.loss)),
        config.settings.batch_size * config.settings.gradient_accumulation_steps,
    )


def measure(
    configs: Sequence[TrialConfig], measure_one: Callable[[TrialConfig], Cost], progress: Callable[[int], None]
) -> dict[Kind, Cost]:
    """Measure every kind of trial in a process of its own, so that its memory is known."""
    costs: dict[Kind, Cost] = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for config in configs:
            if kind(config) not in costs:
                costs[kind(config)] = _measured(config, pool.submit(measure_one, config))
                progress(1)
    return costs


def _measured(config: TrialConfig, cost: Future[Cost]) -> Cost:
    try:
        return cost.result()
    except BrokenProcessPool:
        fault = "its process was killed while it was measured, perhaps for want of memory; lower train.batch_size"
        raise TrainingError(f"{config.name}: {fault}") from None


def epochs_of(settings: Train, seed: int) -> int:
    """Return the epochs of all trials, with the other seeds of the finalists, if none ends before its time."""
    search, finished, total = settings.search, 0, 0
    for trials in round_sizes(settings, seed):
        ended, epochs = _epochs_of_round(trials, settings)
        finished, total = finished + ended, total + epochs
    return total + min(search.finalists, finished) * (search.seeds - 1) * settings.epochs


def _epochs_of_round(trials: int, settings: Train) -> tuple[int, int]:
    """Return how many of the trials train to the end, and the epochs of all."""
    search, before, total = settings.search, 0, 0
    if search.scheduler == "pbt":
        return trials, trials * settings.epochs
    for rung in rungs(search, settings.epochs):
        total += trials * (rung - before)
        if rung < settings.epochs:
            trials = min(trials, max(search.finalists, -(-trials // search.reduction_factor)))
        before = rung
    return trials, total


def show(configs: Sequence[TrialConfig], costs: dict[Kind, Cost], settings: Train, resources: dict[str, float]) -> None:
    """Print the trials, their memory, and the time of all on a machine or cluster with these CPUs and GPUs."""
    table = Table(title=f"{len(configs)} trials of up to {settings.epochs} epochs")
    for heading in ("trials", "architecture", "loss", "images per step", "parameters", "epoch", "memory"):
        table.add_column(heading, justify="right" if heading not in ("architecture", "loss") else "left")
    for (model, loss, batch), cost in costs.items():
        count = sum(kind(config) == (model, loss, batch) for config in configs)
        size, memory = f"{cost.parameters / 1e6:.1f} M", f"{cost.memory / 1e9:.1f} GB"
        table.add_row(str(count), model, loss, str(batch), size, duration(cost.epoch), memory)
    plain_console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    for line in summary(configs, costs, settings, resources):
        print(line)


def summary(
    configs: Sequence[TrialConfig], costs: dict[Kind, Cost], settings: Train, resources: dict[str, float]
) -> Iterable[str]:
    """Return the time of the whole grid, in lines of text."""
    sizes = round_sizes(settings, configs[0].seed)
    slots = min(concurrent_trials(settings, resources), max(sizes))
    mean = sum(costs[kind(config)].epoch for config in configs) / len(configs)
    epochs = epochs_of(settings, configs[0].seed)
    yield f"{slots} at once on {_describe_resources(resources)}; {_describe_scheduler(settings)}"
    if len(sizes) > 1:
        yield f"in {len(sizes)} rounds of up to {max(sizes)} trials, with Optuna's proposals in between"
    yield f"about {duration(mean * epochs / slots)} for {epochs} epochs, measured one trial at a time"
    if settings.max_steps or settings.max_minutes or settings.early_stopping_patience:
        yield "less, where train.max_steps, max_minutes or early_stopping_patience end a trial before"


def concurrent_trials(settings: Train, resources: dict[str, float]) -> int:
    """Return how many trials have room at the same time, at least one."""
    wanted = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    room = [resources.get(what, 0) / (share * settings.workers_per_trial) for what, share in wanted.items() if share]
    return max(1, int(min(room)))


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss, or in s below a minute."""
    whole = round(seconds)
    return f"{seconds:.1f} s" if seconds < 60 else f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _describe_resources(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _describe_scheduler(settings: Train) -> str:
    search = settings.search
    first = search.perturbation_interval if search.scheduler == "pbt" else search.grace_period
    if search.scheduler == "none" or first >= settings.epochs:
        return "all train to the end"
    if search.scheduler == "pbt":
        return f"pbt replaces the worst quarter of each model x loss every {search.perturbation_interval} epochs"
    return f"{search.scheduler} lets one in {search.reduction_factor} go on from epoch {search.grace_period}"
