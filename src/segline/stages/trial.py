"""One cell of the grid, in its own process: it trains, tells MLflow, and leaves a bundle with its history."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from inspect import signature
from io import StringIO
from typing import Any

import torch

from segline import tracking
from segline.data.shards import Description, open_split, read_description
from segline.errors import TrainingError
from segline.inference.bundle import FILE, HISTORY, Bundle, Member
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.outputs import write_json, write_text
from segline.params import Choice
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


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """An error says which candidate it happened to."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{trial.name}: {error}") from None


def _engine_run(trial: Trial, description: Description) -> engine.Run:
    device = torch.device("cuda" if trial.settings.gpus_per_trial and torch.cuda.is_available() else "cpu")
    task = Task(names=tuple(description.names), background=description.background, edge_network=trial.edge_network)
    terms = [(term.weight, LOSSES[term.name](task, **term.options)) for term in trial.loss]
    return engine.Run(
        model=MODELS[trial.model.name](len(description.classes), **_local(trial)),
        loss=WeightedSum(terms),
        train=open_split(trial.labelled, "train"),
        val=open_split(trial.labelled, "val"),
        classes=len(description.classes),
        settings=trial.settings,
        seed=trial.seed,
        device=device,
    )


def _local(trial: Trial) -> dict[str, Any]:
    """The model's options, with encoder weights where they lie on this machine."""
    options = trial.model.options
    here = trial.encoders.get(str(options.get("pretrained")))
    return {**options, "pretrained": str(here)} if here else options


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
    return cell | options | {key: value for key, value in settings.items() if key not in ("models", "losses")}
