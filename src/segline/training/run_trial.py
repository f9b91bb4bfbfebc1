"""The training of a trial in its own process: it yields a record per epoch and leaves a bundle with its history."""

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from segline.artifacts.bundle import ENCODER_LICENCE, FILE, Bundle, Member, licence_name, write_description
from segline.artifacts.candidates import (
    CHECKPOINT,
    HISTORY,
    PREVIOUS,
    TRIAL,
    WEIGHTS,
    write_history,
    write_trial_params,
)
from segline.artifacts.dataset import DatasetInfo, read_dataset_info
from segline.config import model_options
from segline.config.fields import SHIPPED_WORD
from segline.config.sections import Train
from segline.data.reading import open_split
from segline.errors import StoppedError, TrainingError
from segline.files.atomic import write_text
from segline.files.hashing import file_hash
from segline.losses import LOSSES
from segline.models import MODELS
from segline.models.shipped import shipped_licence
from segline.parallel import tune_malloc
from segline.training import ddp, engine
from segline.training.checkpoints import STOP
from segline.training.components import all_options, features_name, make_loss, make_model, preparation_name
from segline.training.determinism import set_deterministic
from segline.training.init_weights import begin_resumed, init_record, make_started_model
from segline.training.run import Run, runs_in_bf16
from segline.training.trial import Cost, Trial

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""The texts of PyTorch's allocators, of a CPU and of a GPU."""
STOP_POLL_S = 1.0
"""The seconds between two looks for the file that tells trials to stop."""


def train_trial(trial: Trial) -> Iterator[dict[str, Any]]:
    """Train a trial and yield a record per epoch; the bundle's description is written last.

    A record has the ``trial``'s name, ``epoch`` and ``val_miou``, the ``metrics`` for MLflow, and a ``note`` if a
    checkpoint was damaged. All workers of a trial call this function, and rank 0 writes.
    """
    trial.inputs.origins.fetch()
    trial.store.sync_on_start(trial.folder, rank=ddp.rank(), barrier=ddp.barrier if ddp.world_size() > 1 else None)
    config = trial.config
    for name in filter(None, (features_name(config.model, config.settings), *map(preparation_name, config.loss))):
        trial.store.fetch(trial.folder.parent, f"{trial.inputs.prepared_dir.name}/{name}")
    if trial.inputs.init:
        trial.inputs.init.fetch(trial.store)
    # A worker may have been lost after the candidate was complete.
    if not trial.is_finished:
        with trial.store.watch_stop() as stop_requested:
            yield from _train(trial, stop_requested)


def _train(trial: Trial, stop_requested: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    info = _prepare_process(trial)
    history: list[dict[str, float]] = []
    with _naming(trial), explaining_memory(trial.config.settings):
        run = make_run(trial, info)
        if trial.inputs.init and trial.config.settings.resume and not trial.config.parent:
            begin_resumed(trial, trial.inputs.init)
        stop_here = _file_watch(trial.folder.parent / STOP)
        run.stop = lambda: stop_requested() or stop_here()
        if ddp.rank() == 0:
            write_trial_params(trial.folder, _mlflow_params(trial))
            trial.store.upload(trial.folder, (TRIAL,))
        began = time.monotonic()
        try:
            for epoch in engine.fit(run, trial.folder, until=trial.until):
                note, run.note = {"note": run.note} if run.note else {}, ""
                history.append(asdict(epoch))
                seconds, began = time.monotonic() - began, time.monotonic()
                is_new = len(history) == len(run.history)
                if is_new:
                    _save_epoch(trial, info, history, is_last=engine.is_finished(run))
                metrics = {**asdict(epoch), **(_system_metrics(run, seconds) if is_new else {})}
                yield {"trial": trial.name, "epoch": epoch.epoch, "val_miou": epoch.val_miou, "metrics": metrics} | note
        except StoppedError:
            _upload(trial)
            raise


def make_run(trial: Trial, info: DatasetInfo, *, may_use_features: bool = True) -> Run:
    """Return the engine's run of a trial, with a new model, on its kept features if it has some."""
    config, inputs = trial.config, trial.inputs
    features = features_name(config.model, config.settings) if may_use_features else ""
    data_dir = inputs.prepared_dir / features if features else inputs.dataset_dir
    started = make_started_model(config, info, inputs.init) if inputs.init else None
    return Run(
        model=started or make_model(config.model, info, inputs.encoders),
        loss=make_loss(config.loss, info, inputs.prepared_dir),
        train=open_split(data_dir, "train"),
        val=open_split(data_dir, "val" if features else inputs.validation),
        on_features=bool(features),
        classes=len(info.classes),
        settings=config.settings,
        seed=config.seed,
        needs_checkpoint=bool(config.parent) or config.settings.resume,
        device=training_device(config.settings),
    )


def measure_cost(trial: Trial) -> Cost:
    """Measure the cost of a trial from a few steps on real crops after one to warm up."""
    trial.inputs.origins.fetch()
    info = _prepare_process(trial)
    with _naming(trial), explaining_memory(trial.config.settings):
        run = make_run(trial, info)
        seconds = engine.estimate_epoch_seconds(run)
    memory = torch.cuda.max_memory_allocated() if run.device.type == "cuda" else _peak_memory()
    return Cost(seconds, memory, sum(parameter.numel() for parameter in run.model.parameters()))


def _prepare_process(trial: Trial) -> DatasetInfo:
    torch.set_num_threads(trial.config.settings.cpus_per_worker)
    set_deterministic(trial.config.seed)
    tune_malloc()
    return read_dataset_info(trial.inputs.dataset_dir)


def _save_epoch(trial: Trial, info: DatasetInfo, history: list[dict[str, float]], *, is_last: bool) -> None:
    """Write the history beside the checkpoint of an epoch, and after the last one the candidate's description."""
    if ddp.rank():
        return
    write_history(trial.folder, history)
    if is_last:
        _write_candidate(trial, info)
    _upload(trial)


def _write_candidate(trial: Trial, info: DatasetInfo) -> None:
    config, record = trial.config, _init_record(trial)
    if not config.settings.keep_checkpoints:
        (trial.folder / CHECKPOINT).unlink()
    (trial.folder / PREVIOUS).unlink(missing_ok=True)
    options = model_options.resolve(config.model.name, config.model.options)
    _write_licence(trial, options)
    member = Member(trial.name, config.model.name, options, WEIGHTS, record)
    write_description(trial.folder, Bundle(info.classes, info.background, (member,)))


def _write_licence(trial: Trial, options: dict[str, Any]) -> None:
    """Keep the licence of the weights that the encoder started from, now or where the trial started."""
    init = trial.inputs.init
    if options.get("pretrained") == SHIPPED_WORD:
        write_text(trial.folder / ENCODER_LICENCE, shipped_licence(options["encoder"]))
    elif init:
        licence = init.folder / licence_name(init_record(trial.config, init)["candidate"])
        if licence.is_file():
            shutil.copyfile(licence, trial.folder / ENCODER_LICENCE)


def _init_record(trial: Trial) -> dict[str, str]:
    return init_record(trial.config, trial.inputs.init) if trial.inputs.init else {}


def _upload(trial: Trial) -> None:
    """Copy the saved files to the bucket, if there is one; the description of a complete candidate comes last."""
    if ddp.rank() == 0:
        trial.store.upload(trial.folder, (TRIAL, WEIGHTS, CHECKPOINT, HISTORY, ENCODER_LICENCE, FILE))


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _system_metrics(run: Run, seconds: float) -> dict[str, float]:
    """Return what an epoch took: seconds, images of both splits per second, and peak memory."""
    metrics = {
        "system/epoch_seconds": seconds,
        "system/images_per_second": (len(run.order) + len(run.val)) / seconds,
        "system/memory_gb": _peak_memory() / 1e9,
    }
    if run.device.type == "cuda":
        metrics["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return metrics


@contextmanager
def explaining_memory(settings: Train) -> Iterator[None]:
    """Turn a lack of memory into an error with the batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        half, accumulated = max(1, settings.batch_size // 2), 2 * settings.gradient_accumulation_steps
        advice = f"try train.batch_size: {half} with train.gradient_accumulation_steps: {accumulated}"
        if settings.batch_size == 1:
            advice = "try a smaller label.crop or model"
        raise TrainingError(f"out of memory at train.batch_size {settings.batch_size}; {advice}") from None


@contextmanager
def _naming(trial: Trial) -> Iterator[None]:
    """Name the trial in an error, also in that of a file that cannot be written."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{trial.name}: {error}") from None
    except OSError as error:
        if error.filename is None:
            raise
        raise TrainingError(f"{trial.name}: {error.filename}: {error.strerror}") from None


def _file_watch(file: Path) -> Callable[[], bool]:
    """Return a function that says whether the file exists and asks the file system at most once a second."""
    looked, exists = -STOP_POLL_S, False

    def look() -> bool:
        nonlocal looked, exists
        if time.monotonic() - looked > STOP_POLL_S:
            looked, exists = time.monotonic(), file.exists()
        return exists

    return look


def training_device(settings: Train) -> torch.device:
    """Return the device that trials train on here."""
    # With its number: another thread, such as the one that reads ahead, uses the first GPU unless told.
    is_gpu = settings.gpus_per_worker and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if is_gpu else torch.device("cpu")


def _mlflow_params(trial: Trial) -> dict[str, Any]:
    """Return the parameters of a trial that MLflow shows."""
    config, settings = trial.config, asdict(trial.config.settings)
    params = {"model": config.model.name, "loss": " + ".join(term.name for term in config.loss), "seed": config.seed}
    params |= {"parent": config.parent} if config.parent else {}
    model_options = all_options(MODELS[config.model.name], config.model)
    params |= {f"model.{key}": value for key, value in model_options.items()}
    for term in config.loss:
        options = {**all_options(LOSSES[term.name], term), "weight": term.weight}
        params |= {f"loss.{term.name}.{key}": value for key, value in options.items()}
    file = trial.inputs.encoders.get(str(config.model.options.get("pretrained")))
    params |= {"model.pretrained_sha256": file_hash(file)} if file else {}
    params |= {f"init.{key}": value for key, value in _init_record(trial).items()}
    bf16 = runs_in_bf16(config.settings.precision, training_device(config.settings))
    params["precision"] = "bf16" if bf16 else "fp32"
    return params | {
        key: value for key, value in settings.items() if key not in ("models", "losses", "precision", "search")
    }
