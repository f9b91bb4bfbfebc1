"""Train: every architecture x loss of the grid, each trial in its own process, each an MLflow run.

A killed run continues: finished trials are kept, the others go on from their last epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segline import tracking
from segline.data.shards import Description, read_description
from segline.errors import TrainingError
from segline.outputs import source_hash, writing
from segline.params import Choice, Params, Train, as_json
from segline.progress import bar, say
from segline.training.search import run_trials

CODE = (
    "models",
    "losses",
    "metrics",
    "data.augment",
    "data.shards",
    "training.engine",
    "inference.bundle",
    "stages.trial",
    "params",
)


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
    tags = _facts(description)
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
                tracking_uri=tracker.address,
                experiment=params.name,
                parent_run=parent,
                tags=tags,
            )
            for name, model, loss in cells(params.train)
        ]
        _train_all([trial for trial in trials if not is_finished(trial.folder)], params.train)
        unfinished = [trial.name for trial in trials if not is_finished(trial.folder)]
        if unfinished:
            raise TrainingError(f"the search ended before {', '.join(unfinished)}; the same command continues")
    say(f"train: {len(trials)} candidates in {out}: {', '.join(trial.name for trial in trials)}")


def fingerprint(params: Params, description: Description) -> str:
    """What the candidates depend on: parameters, seed, data, code and torch."""
    parts = (as_json(params.train), params.seed, description.content_hash, source_hash(*CODE), version("torch"))
    return tracking.key(*parts)


def is_finished(folder: Path) -> bool:
    """Whether a candidate is whole: its description is written last."""
    return (folder / "model.json").is_file()


def cells(settings: Train) -> list[tuple[str, Choice, tuple[Choice, ...]]]:
    """Every model x loss with a name of its own, such as ``unet-dice`` or ``unet-dice.2``."""
    named: dict[str, tuple[Choice, tuple[Choice, ...]]] = {}
    for model in settings.models:
        for loss in settings.losses:
            name = f"{model.name}-{'+'.join(term.name for term in loss)}".replace("/", "_")
            twins = sum(known.partition(".")[0] == name for known in named)
            named[f"{name}.{twins + 1}" if twins else name] = (model, loss)
    return [(name, model, loss) for name, (model, loss) in named.items()]


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
            trials, _train_trial, cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial, on_record=on_record
        )


def _train_trial(trial: Trial) -> Iterator[dict[str, Any]]:
    """Torch is imported in the trial's process alone, which saves this one the seconds."""
    from segline.stages.trial import train_trial

    yield from train_trial(trial)


def _facts(description: Description) -> dict[str, str]:
    return {
        "segline.dataset": description.content_hash,
        "segline.source": description.source,
        "segline.source_hash": description.source_hash,
        "segline.source_revision": description.source_revision,
        **tracking.code_version(),
    }
