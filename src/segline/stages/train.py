"""Train: every architecture x loss of the grid, each trial in its own process, each an MLflow run.

A killed run continues: finished trials are kept, the others go on from their last epoch.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from segline import tracking
from segline.data.shards import Description, open_split
from segline.errors import StageError
from segline.inference.bundle import FILE, Bundle, Member
from segline.losses import LOSSES, WeightedSum
from segline.models import MODELS
from segline.outputs import source_hash, write_json, write_text, writing
from segline.params import Choice, Params, Train, as_json
from segline.progress import bar, say
from segline.training import engine
from segline.training.search import run_trials

HISTORY = "history.csv"
CODE = ("models", "losses", "metrics", "data.augment", "data.shards", "training.engine", "stages.train", "params")


@dataclass(frozen=True)
class Trial:
    """A cell of the grid and all that its process needs to know."""

    name: str
    model: Choice
    loss: tuple[Choice, ...]
    settings: Train
    seed: int
    labelled: Path
    folder: Path
    key: str
    tracking_uri: str
    experiment: str
    parent_run: str
    tags: dict[str, str]


def run(params: Params, *, labelled: Path, tracking_uri: str, out: Path) -> None:
    """Write a bundle for each candidate, ``out/<candidate>/``, with its ``history.csv``.

    Raises:
        TrainingError: a trial failed.
        TrackingError: MLflow cannot be reached.
    """
    description = read_description(labelled)
    key = fingerprint(params, description)
    tracker = tracking.Tracker(tracking_uri, params.name)
    tags = _facts(params, description)
    parent = tracker.begin(key, f"grid-{key[:8]}", {"train": as_json(params.train)}, tags)
    with writing(out, fingerprint=key) as work, tracker.closing(parent):
        trials = [
            Trial(
                name=name,
                model=model,
                loss=loss,
                settings=params.train,
                seed=params.seed,
                labelled=labelled.resolve(),
                folder=(work / name).resolve(),
                key=key,
                tracking_uri=tracking_uri,
                experiment=params.name,
                parent_run=parent,
                tags=tags,
            )
            for name, model, loss in cells(params.train)
        ]
        _train_all([trial for trial in trials if not (trial.folder / FILE).is_file()], params.train)
        for trial in trials:
            (trial.folder / engine.CHECKPOINT).unlink(missing_ok=True)
    say(f"train: {len(trials)} candidates in {out}: {', '.join(trial.name for trial in trials)}")


def fingerprint(params: Params, description: Description) -> str:
    """What the candidates depend on: parameters, seed, data, code and torch."""
    parts = (as_json(params.train), params.seed, description.content_hash, source_hash(*CODE), torch.__version__)
    return tracking.key(*parts)


def cells(settings: Train) -> list[tuple[str, Choice, tuple[Choice, ...]]]:
    """Every model x loss with a name of its own, such as ``unet-dice`` or ``unet-dice.2``."""
    named: dict[str, tuple[Choice, tuple[Choice, ...]]] = {}
    for model in settings.models:
        for loss in settings.losses:
            name = f"{model.name}-{'+'.join(term.name for term in loss)}".replace("/", "_")
            twins = sum(known.partition(".")[0] == name for known in named)
            named[f"{name}.{twins + 1}" if twins else name] = (model, loss)
    return [(name, model, loss) for name, (model, loss) in named.items()]


def read_description(labelled: Path) -> Description:
    """What label says of its shards.

    Raises:
        StageError: it is missing.
    """
    try:
        return Description.from_dict(json.loads((labelled / "dataset.json").read_text()))
    except (OSError, ValueError):
        raise StageError(f"{labelled / 'dataset.json'} is missing or broken; run `segline label` again") from None


def _train_all(trials: list[Trial], settings: Train) -> None:
    """Run the trials that are not finished; a bar counts their epochs."""
    if not trials:
        return
    with bar(f"training {len(trials)} candidates", len(trials) * settings.epochs) as advance:

        def on_record(record: dict[str, Any]) -> None:
            advance(1)
            if record["epoch"] == settings.epochs:
                say(f"train: {record['trial']} done, validation mIoU {record['val_miou']:.3f}")

        run_trials(
            trials, train_trial, cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial, on_record=on_record
        )


def train_trial(trial: Trial) -> Iterator[dict[str, Any]]:
    """Train one cell, yielding every epoch's record; the bundle's description is written last."""
    torch.set_num_threads(trial.settings.cpus_per_trial)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(trial.seed)
    description = read_description(trial.labelled)
    tracker = tracking.Tracker(trial.tracking_uri, trial.experiment)
    record = tracker.begin(
        tracking.key(trial.key, trial.name), trial.name, _cell(trial), trial.tags, trial.parent_run
    )
    history: list[dict[str, float]] = []
    with tracker.closing(record):
        for epoch in engine.fit(_engine_run(trial, description), trial.folder):
            history.append(asdict(epoch))
            tracker.log_history(record, history)
            yield {"trial": trial.name, **asdict(epoch)}
        _write_candidate(trial, description, history)


def _engine_run(trial: Trial, description: Description) -> engine.Run:
    device = torch.device("cuda" if trial.settings.gpus_per_trial and torch.cuda.is_available() else "cpu")
    terms = [(term.weight, LOSSES[term.name](description.background, **term.options)) for term in trial.loss]
    return engine.Run(
        model=MODELS[trial.model.name](len(description.classes), **trial.model.options),
        loss=WeightedSum(terms),
        train=open_split(trial.labelled, "train"),
        val=open_split(trial.labelled, "val"),
        classes=len(description.classes),
        settings=trial.settings,
        seed=trial.seed,
        device=device,
    )


def _write_candidate(trial: Trial, description: Description, history: list[dict[str, float]]) -> None:
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(trial.folder / HISTORY, text.getvalue())
    member = Member(trial.name, trial.model.name, trial.model.options, engine.WEIGHTS)
    write_json(trial.folder / FILE, asdict(Bundle(description.classes, description.background, (member,))))


def _cell(trial: Trial) -> dict[str, Any]:
    """What MLflow shows as the parameters of a trial."""
    settings = asdict(trial.settings)
    cell = {"model": trial.model.name, "loss": " + ".join(term.name for term in trial.loss), "seed": trial.seed}
    options = {f"model.{key}": value for key, value in trial.model.options.items()}
    options |= {f"loss.{term.name}.{key}": value for term in trial.loss for key, value in term.options.items()}
    return cell | options | {key: value for key, value in settings.items() if key not in ("models", "losses")}


def _facts(params: Params, description: Description) -> dict[str, str]:
    return {
        "segline.dataset": description.content_hash,
        "segline.source": params.ingest.source,
        "segline.source_hash": description.source_hash,
        **tracking.code_version(),
    }
