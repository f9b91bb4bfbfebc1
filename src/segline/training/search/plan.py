"""What a grid would take: a few steps of each kind of trial are run, and the rest is counted."""

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from segline.config.sections import Train
from segline.training.search.grid import TrialConfig, batch_sizes, rungs

WIDTH = 120
"""Of the table where there is no terminal, in characters."""

Kind = tuple[str, str, int]


@dataclass(frozen=True)
class Cost:
    """Of one kind of trial.

    Attributes:
        epoch: seconds of an epoch, validation included.
        memory: bytes at most, of the process or of the GPU.
        parameters: of the network.
    """

    epoch: float
    memory: int
    parameters: int


def kind(cell: TrialConfig) -> Kind:
    """What decides the cost of a trial: the architecture, the loss and the batch."""
    return (
        str(cell.model),
        " + ".join(map(str, cell.loss)),
        cell.settings.batch_size * cell.settings.gradient_accumulation_steps,
    )


def measure(
    cells: Sequence[TrialConfig], cost: Callable[[TrialConfig], Cost], progress: Callable[[int], None]
) -> dict[Kind, Cost]:
    """The cost of every kind of trial, each measured in a process of its own, whose memory is then its own."""
    found: dict[Kind, Cost] = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for cell in cells:
            if kind(cell) not in found:
                found[kind(cell)] = pool.submit(cost, cell).result()
                progress(1)
    return found


def epochs_of(settings: Train, seed: int) -> int:
    """The epochs of all trials together, the finalists' further seeds included, if none ends before its time."""
    search, left, total = settings.search, 0, 0
    for trials in batch_sizes(settings, seed):
        came, epochs = _epochs_of_batch(trials, settings)
        left, total = left + came, total + epochs
    return total + min(search.finalists, left) * (search.seeds - 1) * settings.epochs


def _epochs_of_batch(trials: int, settings: Train) -> tuple[int, int]:
    """How many of the trials come to the end, and the epochs of all."""
    search, before, total = settings.search, 0, 0
    if search.scheduler == "pbt":
        return trials, trials * settings.epochs
    for rung in rungs(search, settings.epochs):
        total += trials * (rung - before)
        if rung < settings.epochs:
            trials = min(trials, max(search.finalists, -(-trials // search.reduction_factor)))
        before = rung
    return trials, total


def show(cells: Sequence[TrialConfig], costs: dict[Kind, Cost], settings: Train, there: dict[str, float]) -> None:
    """Print the trials, their memory, and the time that all take on a machine or cluster with so many CPUs and GPUs."""
    table = Table(title=f"{len(cells)} trials of up to {settings.epochs} epochs")
    for heading in ("trials", "architecture", "loss", "images a step", "parameters", "an epoch", "memory"):
        table.add_column(heading, justify="right" if heading not in ("architecture", "loss") else "left")
    for (model, loss, batch), cost in costs.items():
        count = sum(kind(cell) == (model, loss, batch) for cell in cells)
        size, memory = f"{cost.parameters / 1e6:.1f} M", f"{cost.memory / 1e9:.1f} GB"
        table.add_row(str(count), model, loss, str(batch), size, duration(cost.epoch), memory)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    for line in summary(cells, costs, settings, there):
        print(line)


def summary(
    cells: Sequence[TrialConfig], costs: dict[Kind, Cost], settings: Train, there: dict[str, float]
) -> Iterable[str]:
    """The time of the whole, in words."""
    sizes = batch_sizes(settings, cells[0].seed)
    slots = min(at_once(settings, there), max(sizes))
    mean = sum(costs[kind(cell)].epoch for cell in cells) / len(cells)
    epochs = epochs_of(settings, cells[0].seed)
    yield f"{slots} at once on {_told(there)}; {_told_scheduler(settings)}"
    if len(sizes) > 1:
        yield f"in {len(sizes)} batches of up to {max(sizes)} trials, with Optuna's proposals in between"
    yield f"about {duration(mean * epochs / slots)} for {epochs} epochs, measured one trial at a time"
    if settings.max_steps or settings.max_minutes or settings.early_stopping_patience:
        yield "less, where train.max_steps, max_minutes or early_stopping_patience end a trial before"


def at_once(settings: Train, there: dict[str, float]) -> int:
    """Trials that have room at the same time, at least one."""
    wanted = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    room = [there.get(what, 0) / (share * settings.workers_per_trial) for what, share in wanted.items() if share]
    return max(1, int(min(room)))


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or s below a minute."""
    whole = round(seconds)
    return f"{seconds:.1f} s" if seconds < 60 else f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _told(there: dict[str, float]) -> str:
    return f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"


def _told_scheduler(settings: Train) -> str:
    search = settings.search
    first = search.perturbation_interval if search.scheduler == "pbt" else search.grace_period
    if search.scheduler == "none" or first >= settings.epochs:
        return "all train to the end"
    if search.scheduler == "pbt":
        return f"pbt replaces the worst quarter of each model x loss every {search.perturbation_interval} epochs"
    return f"{search.scheduler} lets one in {search.reduction_factor} go on from epoch {search.grace_period}"
