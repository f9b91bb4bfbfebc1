"""Train: every architecture x loss of the grid, each trial in its own process, each an MLflow run.

A killed run continues: finished trials are kept, the others go on from their last epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segline import tracking
from segline.data.edges import NETWORK
from segline.data.shards import Description, read_description
from segline.errors import StageError, TrainingError
from segline.outputs import file_hash, source_hash, writing
from segline.params import Choice, Params, Train, as_json, need_edges
from segline.progress import bar, say
from segline.storage import local_file
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
    edge_network: Path | None
    encoders: dict[str, Path]
    folder: Path
    key: str
    tracking_uri: str
    experiment: str
    parent_run: str
    tags: dict[str, str]


def run(params: Params, *, labelled: Path, edged: Path, tracking_uri: str, out: Path) -> None:
    """Write a bundle for each candidate, ``out/<candidate>/``, with its ``history.csv``.

    Raises:
        SourceError: a file of encoder weights is not there.
        StageError: the edge network that a loss needs is not there.
        TrainingError: a model or loss cannot be made, or a trial failed.
        TrackingError: MLflow cannot be reached.
    """
    description = read_description(labelled)
    encoders = _fetch_encoders(params.train, out)
    network = _find_network(params.train, edged)
    _rehearse(params.train, description, labelled, encoders, network)
    weights = [*encoders.values(), *([network] if network else [])]
    key = fingerprint(params, description, weights)
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
                edge_network=network,
                encoders=encoders,
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


def fingerprint(params: Params, description: Description, weights: list[Path]) -> str:
    """What the candidates depend on: parameters, seed, data, the weights they start from, code and torch."""
    parts = (as_json(params.train), params.seed, description.content_hash, source_hash(*CODE), version("torch"))
    return tracking.key(*parts, *map(file_hash, weights))


def _fetch_encoders(settings: Train, out: Path) -> dict[str, Path]:
    """Where the weights lie that the models name by a file or an object of a bucket."""
    named = {str(model.options["pretrained"]) for model in settings.models if "pretrained" in model.options}
    return {
        place: local_file(place, out.with_name(f"{out.name}.encoders"))
        for place in sorted(named - {str(True), str(False)})
    }


def _find_network(settings: Train, edged: Path) -> Path | None:
    """The edge network's weights, if a loss of the grid needs them."""
    if not need_edges(settings.losses):
        return None
    path = edged.resolve() / NETWORK
    if not path.is_file():
        raise StageError(f"{edged / NETWORK} is not there, but the loss semeda needs it; run `segline edges`")
    return path


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


def _rehearse(*words: Any) -> None:
    """Torch is imported when it is needed: what was refused before needed none."""
    from segline.stages.trial import rehearse

    rehearse(*words)


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
