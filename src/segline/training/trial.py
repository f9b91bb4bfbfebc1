"""One cell of the grid, in its own process: it trains, tells MLflow, and leaves a bundle with its history."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segline.artifacts.bundle import FILE, Bundle, Member, write_description
from segline.artifacts.dataset import DatasetInfo, read_dataset_info
from segline.artifacts.history import HISTORY, TRIAL, write_history, write_params
from segline.config.components import ComponentSpec
from segline.config.sections import Train
from segline.data.shards import Split, open_split
from segline.errors import SeglineError, StoppedError, TrainingError
from segline.files.hashing import file_hash
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.parallel import tune_malloc
from segline.stages.train import Trial
from segline.training import ddp as workers
from segline.training import engine
from segline.training.checkpoints import STOP
from segline.training.determinism import set_deterministic
from segline.training.search.plan import Cost

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What PyTorch's allocators say, of a CPU and of a GPU."""
SECONDS_BETWEEN_LOOKS = 1.0
"""At the file that tells trials to stop."""


def train_trial(trial: Trial) -> Iterator[dict[str, Any]]:
    """Train one cell, yielding every epoch's record; the bundle's description is written last.

    A record has the trial's name, ``epoch`` and ``val_miou``, and under ``told`` what MLflow is told. Workers of one
    trial all call it, and the first one writes.
    """
    trial.origins.bring()
    trial.mirror.join(trial.folder, rank=workers.rank(), wait=workers.wait if workers.count() > 1 else None)
    # A worker may have been lost when the candidate was whole already.
    if not trial.is_finished:
        with trial.mirror.hearing() as hears_stop:
            yield from _train(trial, hears_stop)


def _train(trial: Trial, hears_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    settings = trial.cell.settings
    torch.set_num_threads(settings.cpus_per_worker)
    set_deterministic(trial.cell.seed)
    tune_malloc()
    description = read_dataset_info(trial.dataset_dir)
    history: list[dict[str, float]] = []
    with _named(trial), _in_memory(settings):
        run = _engine_run(trial, description)
        is_told = run.stop
        run.stop = lambda: hears_stop() or is_told()
        if workers.rank() == 0:
            write_params(trial.folder, _told_params(trial))
            trial.mirror.put(trial.folder, (TRIAL,))
        began = time.monotonic()
        try:
            for epoch in engine.fit(run, trial.folder, until=trial.until):
                history.append(asdict(epoch))
                seconds, began = time.monotonic() - began, time.monotonic()
                is_new = len(history) == len(run.history)
                if is_new:
                    _keep(trial, description, history, is_over=engine.is_over(run))
                told = {**asdict(epoch), **(_measured(run, seconds) if is_new else {})}
                yield {"trial": trial.name, "epoch": epoch.epoch, "val_miou": epoch.val_miou, "told": told}
        except StoppedError:
            _copy(trial)
            raise


def _keep(trial: Trial, description: DatasetInfo, history: list[dict[str, float]], *, is_over: bool) -> None:
    """What the first worker leaves beside the checkpoint of an epoch; at the end, the candidate's description."""
    if workers.rank():
        return
    write_history(trial.folder, history)
    if is_over:
        _write_candidate(trial, description)
    _copy(trial)


def _copy(trial: Trial) -> None:
    """Copy what is saved to the bucket that keeps it, if there is one; what makes it whole comes last."""
    if workers.rank() == 0:
        trial.mirror.put(trial.folder, (TRIAL, engine.WEIGHTS, engine.CHECKPOINT, HISTORY, FILE))


def measure_cost(trial: Trial) -> Cost:
    """What a trial costs, from a few steps on real crops after one to warm up."""
    trial.origins.bring()
    torch.set_num_threads(trial.cell.settings.cpus_per_worker)
    set_deterministic(trial.cell.seed)
    tune_malloc()
    with _named(trial), _in_memory(trial.cell.settings):
        run = _engine_run(trial, read_dataset_info(trial.dataset_dir))
        seconds = engine.seconds_of_epoch(run)
    memory = torch.cuda.max_memory_allocated() if run.device.type == "cuda" else _most_memory()
    return Cost(seconds, memory, sum(parameter.numel() for parameter in run.model.parameters()))


def _most_memory() -> int:
    """Bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measured(run: engine.Run, seconds: float) -> dict[str, float]:
    """What an epoch took: seconds, images of both splits a second, and memory at most."""
    found = {
        "system/epoch_seconds": seconds,
        "system/images_per_second": (len(run.train) + len(run.val)) / seconds,
        "system/memory_gb": _most_memory() / 1e9,
    }
    if run.device.type == "cuda":
        found["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


@contextmanager
def _in_memory(settings: Train) -> Iterator[None]:
    """Memory that does not suffice is told with the batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(said in str(error).lower() for said in OUT_OF_MEMORY):
            raise
        half = max(1, settings.batch_size // 2)
        again = f"try train.batch_size: {half} with train.gradient_accumulation_steps: {2 * settings.gradient_accumulation_steps}"
        if settings.batch_size == 1:
            again = "try a smaller label.crop or model"
        raise TrainingError(f"out of memory at train.batch_size {settings.batch_size}; {again}") from None


def preflight(
    settings: Train, description: DatasetInfo, dataset_dir: Path, encoders: dict[str, Path], edge_network: Path | None
) -> None:
    """Make what shows its faults only when it is made, before the first trial begins: each model and loss once.

    Raises:
        TrainingError: with every fault, such as an unknown encoder, weights that do not fit, an unknown class name.
    """
    faults = []
    train = open_split(dataset_dir, "train")
    checks: list[Callable[[], object]] = [
        partial(_model, model, description, encoders) for model in settings.models if _may_fail(model)
    ]
    checks += [partial(_try_loss, terms, description, edge_network, train) for terms in settings.losses]
    for check in checks:
        try:
            check()
        except SeglineError as error:
            faults.append(str(error))
    if faults:
        raise TrainingError("; ".join(faults))


def _try_loss(
    terms: tuple[ComponentSpec, ...], description: DatasetInfo, edge_network: Path | None, train: Split
) -> None:
    """Make a loss, and take the distance maps that it needs."""
    train.take_distances(_loss(terms, description, edge_network).distances, [0])


def _may_fail(model: ComponentSpec) -> bool:
    """Whether a model depends on more than its options: on weights, or on another library's encoders."""
    return model.name.startswith("smp/") or bool(model.options.get("pretrained"))


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """An error says which candidate it happened to; so does a file that cannot be written."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{trial.name}: {error}") from None
    except OSError as error:
        if error.filename is None:
            raise
        raise TrainingError(f"{trial.name}: {error.filename}: {error.strerror}") from None


def _engine_run(trial: Trial, description: DatasetInfo) -> engine.Run:
    cell = trial.cell
    return engine.Run(
        model=_model(cell.model, description, trial.encoders),
        loss=_loss(cell.loss, description, trial.edge_network),
        train=open_split(trial.dataset_dir, "train"),
        val=open_split(trial.dataset_dir, "val"),
        classes=len(description.classes),
        settings=cell.settings,
        seed=cell.seed,
        device=_device(cell.settings),
        stop=_told_to_stop(trial.folder.parent / STOP),
    )


def _told_to_stop(file: Path) -> Callable[[], bool]:
    """Whether the file is there, asked of the file system no more than once a second."""
    looked, found = -SECONDS_BETWEEN_LOOKS, False

    def is_told() -> bool:
        nonlocal looked, found
        if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
            looked, found = time.monotonic(), file.exists()
        return found

    return is_told


def _device(settings: Train) -> torch.device:
    # With its number: a thread of its own, such as the one that reads ahead, is on the first GPU unless told.
    is_gpu = settings.gpus_per_worker and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if is_gpu else torch.device("cpu")


def _model(choice: ComponentSpec, description: DatasetInfo, encoders: dict[str, Path]) -> nn.Module:
    """A model that starts from weights where they lie on this machine."""
    options = choice.options
    here = encoders.get(str(options.get("pretrained")))
    return MODELS[choice.name](len(description.classes), **(options | ({"pretrained": str(here)} if here else {})))


def _loss(terms: tuple[ComponentSpec, ...], description: DatasetInfo, edge_network: Path | None) -> WeightedSum:
    task = Task(names=tuple(description.names), background=description.background, edge_network=edge_network)
    return WeightedSum([(term.weight, LOSSES[term.name](task, **term.options)) for term in terms])


def _write_candidate(trial: Trial, description: DatasetInfo) -> None:
    member = Member(trial.name, trial.cell.model.name, trial.cell.model.options, engine.WEIGHTS)
    (trial.folder / engine.CHECKPOINT).unlink()
    write_description(trial.folder, Bundle(description.classes, description.background, (member,)))


def _options(entry: Callable[..., Any], choice: ComponentSpec) -> dict[str, Any]:
    """All options of a choice, those left at their default too: a run says that it started from random weights."""
    known = signature(entry).parameters.values()
    return {option.name: option.default for option in known if option.kind is option.KEYWORD_ONLY} | choice.options


def _told_params(trial: Trial) -> dict[str, Any]:
    """What MLflow shows as the parameters of a trial."""
    cell, settings = trial.cell, asdict(trial.cell.settings)
    told = {"model": cell.model.name, "loss": " + ".join(term.name for term in cell.loss), "seed": cell.seed}
    told |= {"parent": cell.parent} if cell.parent else {}
    told |= {f"model.{key}": value for key, value in _options(MODELS[cell.model.name], cell.model).items()}
    for term in cell.loss:
        chosen = {**_options(LOSSES[term.name], term), "weight": term.weight}
        told |= {f"loss.{term.name}.{key}": value for key, value in chosen.items()}
    here = trial.encoders.get(str(cell.model.options.get("pretrained")))
    told |= {"model.pretrained_sha256": file_hash(here)} if here else {}
    bf16 = engine.runs_in_bf16(cell.settings.precision, _device(cell.settings))
    told["precision"] = "bf16" if bf16 else "fp32"
    return told | {
        key: value for key, value in settings.items() if key not in ("models", "losses", "precision", "search")
    }
