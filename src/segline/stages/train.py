"""Train: every architecture x loss of the grid, each trial in its own process, each an MLflow run.

A killed run continues: finished trials are kept, the others go on from their last checkpoint. Everything is decided
from what the trials have on disk, so that a run that was killed decides as an undisturbed one does.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from math import nan
from pathlib import Path
from typing import Any

from segline.artifacts.code import code_hash
from segline.artifacts.dataset import DatasetInfo, read_dataset_info, shard_bytes, verify
from segline.artifacts.history import HISTORY, TRIAL, read_history, read_params
from segline.config.params import Params, need_edges
from segline.config.sections import Train
from segline.config.serialization import as_json
from segline.data.edges import NETWORK
from segline.errors import StageError, StoppedError, TrainingError
from segline.files.atomic import write_text, writing
from segline.files.hashing import file_hash
from segline.files.transfer import local_file
from segline.parallel import ray_session
from segline.progress import GridDisplay, TrialProgress, grid_display, log, progress_bar
from segline.tracking import provenance, tags
from segline.tracking.client import Experiment
from segline.tracking.recorder import Recorder
from segline.tracking.runs import start_run
from segline.training.checkpoints import CHECKPOINT, STOP, WEIGHTS, Mirror, Origins
from segline.training.leaderboard import Row, write_leaderboard
from segline.training.lease import FOLLOWED, watching
from segline.training.ray_train import Records
from segline.training.ray_tune import LOST, Asha, Watch, run_trials
from segline.training.search import decisions, grid, plan
from segline.training.search import optuna as proposals
from segline.training.search.decisions import Decisions
from segline.training.search.grid import TrialConfig

CODE = (
    "segline.models",
    "segline.losses",
    "segline.metrics",
    "segline.data.augment",
    "segline.data.shards",
    "segline.training.engine",
    "segline.training.search.grid",
    "segline.training.search.optuna",
    "segline.training.determinism",
    "segline.training.schedules",
    "segline.training.ddp",
    "segline.inference.bundle",
    "segline.training.trial",
    "segline.config.components",
    "segline.config.sections",
    "segline.config.spaces",
)
SPLITS = ("train", "val")
STORE = "SEGLINE_STORE"
"""The variable that names the bucket's prefix for what a training leaves to be continued, on another node or later."""
ATTEMPTS = 3
"""At a trial whose process is killed."""
ELIMINATED = "eliminated"
"""The file in the folder of a trial that the scheduler stopped."""


@dataclass(frozen=True)
class Trial:
    """A cell of the grid and all that its process needs to know; it trains until an epoch, for now."""

    cell: TrialConfig
    dataset_dir: Path
    edge_network: Path | None
    encoders: dict[str, Path]
    folder: Path
    until: int
    mirror: Mirror
    origins: Origins = field(default_factory=Origins)

    @property
    def name(self) -> str:
        """Of the cell."""
        return self.cell.name

    @property
    def is_finished(self) -> bool:
        """Whether its candidate is whole: the description is written last."""
        return (self.folder / "model.json").is_file()

    @property
    def is_eliminated(self) -> bool:
        """Whether the scheduler stopped it."""
        return (self.folder / ELIMINATED).is_file()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do, for now."""
        return self.is_finished or self.is_eliminated or len(read_history(self.folder)) >= self.until

    @property
    def score(self) -> float:
        """The best validation mIoU until the epoch at which it is looked at."""
        return max((epoch["val_miou"] for epoch in read_history(self.folder)[: self.until]), default=-1.0)

    @property
    def latest(self) -> float:
        """The validation mIoU of the epoch at which it is looked at."""
        return read_history(self.folder)[self.until - 1]["val_miou"]

    @property
    def standing(self) -> TrialProgress:
        """What it has come to, to be shown."""
        state = "done" if self.is_finished else "eliminated" if self.is_eliminated else "waiting"
        history = read_history(self.folder)
        return TrialProgress(len(history), max((epoch["val_miou"] for epoch in history), default=nan), state)

    def eliminate(self) -> None:
        """Mark it as stopped by the scheduler."""
        write_text(self.folder / ELIMINATED, "")
        self.mirror.put(self.folder, (ELIMINATED,))
        self.delete_checkpoints()

    def delete_checkpoints(self) -> None:
        """Remove what only a continued training needs."""
        for name in (CHECKPOINT, WEIGHTS):
            (self.folder / name).unlink(missing_ok=True)


@dataclass
class Grid:
    """The trials of a run, and those that failed."""

    params: Params
    dataset_dir: Path
    edge_network: Path | None
    encoders: dict[str, Path]
    work: Path
    mirror: Mirror
    origins: Origins
    recorder: Recorder
    key: str
    tags: dict[str, str]
    display: GridDisplay
    trials: dict[str, Trial] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)

    def is_stopping(self) -> bool:
        """Whether the trials were told to save themselves and end."""
        return (self.work / STOP).exists()

    @property
    def decisions(self) -> Decisions:
        """What the search has decided so far."""
        return Decisions(self.work, self.mirror)

    def score(self, trial: Trial) -> float:
        """Of a trial so far; one that failed is the worst."""
        return -1.0 if trial.name in self.failed else trial.score

    def trial(self, cell: TrialConfig, until: int) -> Trial:
        """A cell, to be trained until an epoch."""
        folder = (self.work / cell.name).resolve()
        read = (self.dataset_dir.resolve(), self.edge_network, self.encoders)
        made = self.trials[cell.name] = Trial(cell, *read, folder, until, self.mirror, self.origins)
        return made

    def fetch(self, trial: str = "") -> None:
        """What trials on other nodes have done is decided by, too."""
        self.mirror.fetch(self.work, trial, whole=False)


def run(
    params: Params, *, dataset_dir: Path, edged_dir: Path, tracking_uri: str, out: Path, plan_only: bool = False
) -> None:
    """Write a bundle for each candidate, ``out/<candidate>/``, with its ``history.csv``; leaderboard and curves.

    Args:
        params: the sections ``train`` and ``seed``.
        dataset_dir: what label wrote.
        edged_dir: what edges wrote.
        tracking_uri: of MLflow.
        out: to write.
        plan_only: only say what would be trained, how long it would take and in how much memory.

    Raises:
        SourceError: a file of encoder weights is not there.
        StageError: shards are damaged, or the edge network that a loss needs, or Optuna, is not there.
        TrainingError: a model or loss cannot be made, or more trials failed than may.
        StoppedError: SIGTERM came, or nobody follows any more; every trial saved itself.
        TrackingError: MLflow cannot be reached.
    """
    if params.train.search.searcher == "optuna":
        proposals.check_installed()
    description = read_dataset_info(dataset_dir)
    encoders = _fetch_encoders(params.train, out)
    network = _find_network(params.train, edged_dir)
    _rehearse(params.train, description, dataset_dir, encoders, network)
    origins = Origins.of((dataset_dir, edged_dir), encoders)
    if plan_only:
        _plan(params, dataset_dir, network, encoders, origins)
        return
    with progress_bar("checking shards", shard_bytes(dataset_dir, SPLITS)) as advance:
        verify(dataset_dir, SPLITS, advance)
    key = fingerprint(params, description, [*encoders.values(), *([network] if network else [])])
    experiment, run_tags = Experiment(tracking_uri, params.name), _run_tags(description)
    parent = start_run(experiment, key, f"grid-{key[:8]}", {"train": as_json(params.train)}, run_tags)
    with (
        writing(out, fingerprint=key) as work,
        Recorder(experiment, parent) as recorder,
        grid_display(params.train.epochs) as display,
    ):
        mirror = Mirror(_kept_in(params.train, key))
        mirror.open(work)
        found = Grid(params, dataset_dir, network, encoders, work, mirror, origins, recorder, key, run_tags, display)
        followed = watching(os.environ.get(FOLLOWED, ""), partial(mirror.tell, work))
        with ray_session(), mirror.stopping(work), followed:
            _search(found)
        _conclude(found)
        names = [trial.name for trial in found.trials.values() if trial.is_finished]
    log(f"train: {len(names)} candidates in {out}: {', '.join(names)}")


def _kept_in(settings: Train, key: str) -> str:
    """The prefix for what trials save: that of the parameters, or on Kubernetes that of the site, if there is one."""
    store = os.environ.get(STORE, "").rstrip("/")
    place = settings.checkpoints.rstrip("/") or (f"{store}/checkpoints" if store else "")
    return f"{place}/{key[:16]}" if place else ""


def fingerprint(params: Params, description: DatasetInfo, weights: list[Path]) -> str:
    """What the candidates depend on: parameters, seed, data, the weights they start from, code and libraries."""
    settings = asdict(params.train)
    del settings["checkpoint_minutes"], settings["checkpoints"], settings["search"]["max_failed"]
    parts = (json.dumps(settings, sort_keys=True), params.seed, description.content_hash, code_hash(CODE))
    libraries = ["torch", *(["optuna"] if params.train.search.searcher == "optuna" else [])]
    return provenance.key(*parts, *map(version, libraries), *map(file_hash, weights))


def _search(found: Grid) -> None:
    """Train all trials as far as the scheduler lets them, then the best ones again with other seeds."""
    settings = found.params.train
    left: list[TrialConfig] = []
    for batch in range(len(grid.batch_sizes(settings, found.params.seed))):
        left += _train_batch(found, batch)
    _train(found, [found.trial(cell, settings.epochs) for cell in _finalists(found, left)])


def _train_batch(found: Grid, batch: int) -> Sequence[TrialConfig]:
    """Train trials that begin together from rung to rung, and return those that came to the end."""
    settings, cells = found.params.train, _batch(found, batch)
    for rung, until in enumerate(grid.rungs(settings.search, settings.epochs), 1):
        trials, name = [found.trial(cell, until) for cell in cells], f"batch{batch + 1}-rung{rung}"
        found.failed |= (found.decisions.find(name) or {}).get("failed", {})
        _train(found, [trial for trial in trials if trial.name not in found.failed])
        if until == settings.epochs:
            cells = [trial.cell for trial in trials if trial.name not in found.failed]
        else:
            cells = _carry_out(found, trials, found.decisions.once(name, partial(_decide, found, trials, rung)))
    return cells


def _batch(found: Grid, batch: int) -> Sequence[TrialConfig]:
    """The first trials, or those that Optuna proposes by the results of all before."""
    settings, seed = found.params.train, found.params.seed
    if not batch:
        return grid.first_cells(settings, seed)

    def propose() -> dict[str, Any]:
        tried = [(trial.cell, found.score(trial)) for trial in found.trials.values()]
        return {cell.name: cell.drawn for cell in grid.propose_cells(settings, seed, batch, tried)}

    proposed = found.decisions.once(f"batch{batch + 1}", propose)
    return [grid.drawn_cell(settings, seed, name, drawn) for name, drawn in proposed.items()]


def _decide(found: Grid, trials: Sequence[Trial], rung: int) -> dict[str, Any]:
    """Who goes on after a rung: the best, or all but those whose place an heir takes; and who had failed by then."""
    search = found.params.train.search
    failed = {trial.name: found.failed[trial.name] for trial in trials if trial.name in found.failed}
    heirs: dict[str, TrialConfig] = {}
    if search.scheduler == "pbt":
        scores = {trial.name: -1.0 if trial.name in failed else trial.latest for trial in trials}
        heirs = grid.heirs([trial.cell for trial in trials], scores, search, rung)
        kept = [name for name in scores if name not in heirs and name not in failed]
    else:
        kept = grid.survivors({trial.name: trial.score for trial in trials if trial.name not in failed}, search)
    told = {name: {"name": heir.name, "parent": heir.parent, "drawn": heir.drawn} for name, heir in heirs.items()}
    return {"kept": kept, "heirs": told, "failed": failed}


def _carry_out(found: Grid, trials: Sequence[Trial], decision: dict[str, Any]) -> list[TrialConfig]:
    """Make the heirs, end those that do not go on, and return those that do."""
    settings, seed = found.params.train, found.params.seed
    heirs = [grid.drawn_cell(settings, seed, **heir) for heir in decision["heirs"].values()]
    for heir in heirs:
        if found.is_stopping():
            raise StoppedError("stopped between two rungs; the same command continues")
        _bequeath(found, heir)
    found.replaced |= set(decision["heirs"])
    for trial in trials:
        if trial.name not in decision["kept"] and trial.name not in found.failed:
            _eliminate(found, trial)
    return [trial.cell for trial in trials if trial.name in decision["kept"]] + heirs


def _bequeath(found: Grid, heir: TrialConfig) -> None:
    """Give an heir what its parent has come to, unless it was done before; whole at once, and in the bucket first."""
    made, names = found.work / decisions.FOLDER / heir.name, (WEIGHTS, CHECKPOINT, HISTORY)
    if not (found.work / heir.name).is_dir():
        found.mirror.fetch(found.work, heir.parent)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for name in names:
            shutil.copyfile(found.work / heir.parent / name, made / name)
        found.mirror.put(made, names)
        made.rename(found.work / heir.name)


def _eliminate(found: Grid, trial: Trial) -> None:
    if not trial.is_eliminated:
        trial.eliminate()
        found.display.finish(trial.name, "eliminated")
    _close(found, trial)


def _finalists(found: Grid, cells: Sequence[TrialConfig]) -> list[TrialConfig]:
    """The best trials again, with the seeds that follow."""
    search, seed = found.params.train.search, found.params.seed
    scores = {cell.name: found.trials[cell.name].score for cell in cells if found.trials[cell.name].is_finished}
    chosen = grid.best(scores, search.finalists)
    return [
        grid.with_seed(cell, seed + more) for cell in cells if cell.name in chosen for more in range(1, search.seeds)
    ]


def _train(found: Grid, trials: Sequence[Trial]) -> None:
    """Run the trials that are not done, those again whose process was killed; those that fail are noted."""
    for trial in trials:
        found.display.add(trial.name, trial.standing)
    missing = [trial for trial in trials if not trial.is_done]
    for attempt in range(ATTEMPTS):
        if not missing:
            break
        failed = _run(found, missing)
        found.fetch()
        missing = [trial for trial, reason in failed if reason == LOST and attempt + 1 < ATTEMPTS]
        failed = [(trial, reason) for trial, reason in failed if trial not in missing]
        for trial, reason in failed:
            found.failed[trial.name] = reason.removeprefix(f"{trial.name}: ")
            found.display.finish(trial.name, "failed")


def _run(found: Grid, trials: Sequence[Trial]) -> list[tuple[Trial, str]]:
    settings = found.params.train
    asha = Asha("val_miou", settings.search.grace_period, settings.epochs, settings.search.reduction_factor)
    watch = Watch(
        on_record=partial(_on_record, found),
        on_end=partial(_on_end, found),
        is_stopping=found.is_stopping,
    )
    return run_trials(
        trials,
        _train_trial,
        workers=settings.workers_per_trial,
        cpus=settings.cpus_per_worker,
        gpus=settings.gpus_per_worker,
        watch=watch,
        asha=asha if settings.search.scheduler == "asha" else None,
    )


def _plan(params: Params, dataset_dir: Path, *places: Any) -> None:
    """Measure a few steps of each kind of trial, and print what the grid would take."""
    cells = grid.cells(params.train, params.seed)
    cost = partial(_measure, dataset_dir.resolve(), places)
    with ray_session() as there, progress_bar("measuring", len({plan.kind(cell) for cell in cells})) as advance:
        costs = plan.measure(cells, cost, advance)
    plan.show(cells, costs, params.train, there)


def _measure(dataset_dir: Path, places: tuple[Any, ...], cell: TrialConfig) -> plan.Cost:
    from segline.training.trial import measure_cost

    network, encoders, origins = places
    return measure_cost(Trial(cell, dataset_dir, network, encoders, Path(), 1, Mirror(""), origins))


def _on_record(found: Grid, record: dict[str, Any]) -> None:
    """An epoch of a trial, to MLflow and to the display."""
    trial = found.trials[record["trial"]]
    if trial.name not in found.opened and not (trial.folder / TRIAL).is_file():
        found.fetch(trial.name)
    _record(found, trial, [record["told"]])
    found.display.update(trial.name, record["epoch"], record["val_miou"])


def _on_end(found: Grid, trial: Trial) -> None:
    """A trial has ended, for now: asynchronous halving stops those that are not done."""
    found.fetch(trial.name)
    if trial.is_finished:
        found.display.finish(trial.name, "done")
        _close(found, trial)
    elif not trial.is_done and not found.is_stopping():
        _eliminate(found, trial)


def _record(found: Grid, trial: Trial, records: Sequence[dict[str, float]]) -> None:
    """Tell MLflow of epochs; those that it has are not written again."""
    if trial.name in found.closed:
        return
    if trial.name not in found.opened:
        key = provenance.key(found.key, trial.name)
        found.recorder.open(trial.name, key, read_params(trial.folder), found.tags)
        found.opened.add(trial.name)
    for record in records:
        found.recorder.add(trial.name, record)


def _close(found: Grid, trial: Trial) -> None:
    """Tell MLflow how a trial ended."""
    if trial.name in found.closed or trial.name not in found.opened:
        return
    marks = {tags.ELIMINATED: "yes"} if trial.is_eliminated else {}
    if trial.name in found.failed:
        found.recorder.close(trial.name, "FAILED", tags={tags.ERROR: found.failed[trial.name]})
    else:
        found.recorder.close(trial.name, "FINISHED", tags=marks, folder=trial.folder if trial.is_finished else None)
    found.closed.add(trial.name)


def _conclude(found: Grid) -> None:
    """Tell MLflow the rest, write the leaderboard, and let go of what only a continued training needs."""
    for trial in found.trials.values():
        if (trial.folder / TRIAL).is_file():
            _record(found, trial, read_history(trial.folder))
            _close(found, trial)
    too_many = len(set(found.failed) - found.replaced) > found.params.train.search.max_failed
    if too_many or not any(trial.is_finished for trial in found.trials.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.failed.items())
        raise TrainingError(f"{len(found.failed)} of {len(found.trials)} trials failed: {reasons}")
    rows = [
        Row(name, _status(found, trial), trial.folder, trial.cell.drawn, trial.cell.parent)
        for name, trial in found.trials.items()
    ]
    write_leaderboard(found.work, rows)
    for trial in found.trials.values():
        if not trial.is_finished:
            trial.delete_checkpoints()


def _status(found: Grid, trial: Trial) -> str:
    if trial.name in found.failed:
        return "failed"
    return "finished" if trial.is_finished else "eliminated"


def _fetch_encoders(settings: Train, out: Path) -> dict[str, Path]:
    """Where the weights lie that the models name by a file or an object of a bucket."""
    named = {str(model.options["pretrained"]) for model in settings.models if "pretrained" in model.options}
    return {
        place: local_file(place, out.with_name(f"{out.name}.encoders"))
        for place in sorted(named - {str(True), str(False)})
    }


def _find_network(settings: Train, edged_dir: Path) -> Path | None:
    """The edge network's weights, if a loss of the grid needs them."""
    if not need_edges(settings.losses):
        return None
    path = edged_dir.resolve() / NETWORK
    if not path.is_file():
        raise StageError(f"{edged_dir / NETWORK} is not there, but the loss semeda needs it; run `segline edges`")
    return path


def _rehearse(*words: Any) -> None:
    """Torch is imported when it is needed: what was refused before needed none."""
    from segline.training.trial import preflight

    preflight(*words)


def _train_trial(trial: Trial) -> Records:
    """Torch is imported in the trial's process alone, which saves this one the seconds."""
    from segline.training.trial import train_trial

    yield from train_trial(trial)


def _run_tags(description: DatasetInfo) -> dict[str, str]:
    return {
        tags.DATASET_HASH: description.content_hash,
        tags.SOURCE: description.source,
        tags.SOURCE_HASH: description.source_hash,
        tags.SOURCE_REVISION: description.source_revision,
        **provenance.code_version(),
    }
