"""One cell of the grid, in its own process: it trains, tells MLflow, and leaves a bundle with its history."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segline import tracking
from segline.data.shards import Description, Split, open_split, read_description
from segline.errors import SeglineError, TrainingError
from segline.inference.bundle import FILE, HISTORY, Bundle, Member
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.outputs import file_hash, write_json, write_text
from segline.params import Choice, Train
from segline.stages.train import Trial
from segline.training import engine


def train_trial(trial: Trial) -> Iterator[dict[str, Any]]:
    """Train one cell, yielding every epoch's record; the bundle's description is written last."""
    torch.set_num_threads(trial.settings.cpus_per_trial)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(trial.seed)
    description = read_description(trial.labelled)
    tracker = tracking.Tracker(trial.tracking_uri, trial.experiment)
    record = tracker.begin(tracking.key(trial.key, trial.name), trial.name, _cell(trial), trial.tags, trial.parent_run)
    history: list[dict[str, float]] = []
    with tracker.closing(record), _named(trial):
        for epoch in engine.fit(_engine_run(trial, description), trial.folder):
            history.append(asdict(epoch))
            tracker.log_history(record, history)
            yield {"trial": trial.name, **asdict(epoch)}
        _write_candidate(trial, description, history)


def rehearse(
    settings: Train, description: Description, labelled: Path, encoders: dict[str, Path], edge_network: Path | None
) -> None:
    """Make what shows its faults only when it is made, before the first trial begins: each model and loss once.

    Raises:
        TrainingError: with every fault, such as an unknown encoder, weights that do not fit, an unknown class name.
    """
    faults = []
    train = open_split(labelled, "train")
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


def _try_loss(terms: tuple[Choice, ...], description: Description, edge_network: Path | None, train: Split) -> None:
    """Make a loss, and take the distance maps that it needs."""
    train.take_distances(_loss(terms, description, edge_network).distances, [0])


def _may_fail(model: Choice) -> bool:
    """Whether a model depends on more than its options: on weights, or on another library's encoders."""
    return model.name.startswith("smp/") or bool(model.options.get("pretrained"))


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """An error says which candidate it happened to."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{trial.name}: {error}") from None


def _engine_run(trial: Trial, description: Description) -> engine.Run:
    return engine.Run(
        model=_model(trial.model, description, trial.encoders),
        loss=_loss(trial.loss, description, trial.edge_network),
        train=open_split(trial.labelled, "train"),
        val=open_split(trial.labelled, "val"),
        classes=len(description.classes),
        settings=trial.settings,
        seed=trial.seed,
        device=_device(trial),
    )


def _device(trial: Trial) -> torch.device:
    return torch.device("cuda" if trial.settings.gpus_per_trial and torch.cuda.is_available() else "cpu")


def _model(choice: Choice, description: Description, encoders: dict[str, Path]) -> nn.Module:
    """A model that starts from weights where they lie on this machine."""
    options = choice.options
    here = encoders.get(str(options.get("pretrained")))
    return MODELS[choice.name](len(description.classes), **(options | ({"pretrained": str(here)} if here else {})))


def _loss(terms: tuple[Choice, ...], description: Description, edge_network: Path | None) -> WeightedSum:
    task = Task(names=tuple(description.names), background=description.background, edge_network=edge_network)
    return WeightedSum([(term.weight, LOSSES[term.name](task, **term.options)) for term in terms])


def _write_candidate(trial: Trial, description: Description, history: list[dict[str, float]]) -> None:
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(trial.folder / HISTORY, text.getvalue())
    member = Member(trial.name, trial.model.name, trial.model.options, engine.WEIGHTS)
    (trial.folder / engine.CHECKPOINT).unlink()
    write_json(trial.folder / FILE, asdict(Bundle(description.classes, description.background, (member,))))


def _options(entry: Callable[..., Any], choice: Choice) -> dict[str, Any]:
    """All options of a choice, those left at their default too: a run says that it started from random weights."""
    known = signature(entry).parameters.values()
    return {option.name: option.default for option in known if option.kind is option.KEYWORD_ONLY} | choice.options


def _cell(trial: Trial) -> dict[str, Any]:
    """What MLflow shows as the parameters of a trial."""
    settings = asdict(trial.settings)
    cell = {"model": trial.model.name, "loss": " + ".join(term.name for term in trial.loss), "seed": trial.seed}
    options = {f"model.{key}": value for key, value in _options(MODELS[trial.model.name], trial.model).items()}
    for term in trial.loss:
        chosen = {**_options(LOSSES[term.name], term), "weight": term.weight}
        options |= {f"loss.{term.name}.{key}": value for key, value in chosen.items()}
    here = trial.encoders.get(str(trial.model.options.get("pretrained")))
    options |= {"model.pretrained_sha256": file_hash(here)} if here else {}
    bf16 = engine.runs_in_bf16(trial.settings.precision, _device(trial))
    options["precision"] = "bf16" if bf16 else "fp32"
    told = ("models", "losses", "precision")
    return cell | options | {key: value for key, value in settings.items() if key not in told}
