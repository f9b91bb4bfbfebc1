"""Train: every architecture x loss of the grid, each trial in its own process, each an MLflow run.

A killed run continues: finished trials are kept, the others go on from their last checkpoint. Everything is decided
from the files that the trials leave, so that a run that was killed decides as an undisturbed one does.
"""

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from segline.artifacts.candidates import CANDIDATES
from segline.artifacts.code import code_hash
from segline.artifacts.dataset import DATASET, DatasetInfo, read_dataset_info, split_folder
from segline.config.fields import SHIPPED_WORD
from segline.config.params import Params
from segline.config.sections import Train
from segline.config.serialization import as_json
from segline.data.reading import open_split
from segline.errors import TrainingError
from segline.files.atomic import unfinished_fingerprint, writing
from segline.files.hashing import file_hash
from segline.files.transfer import local_file
from segline.parallel import ray_session
from segline.progress import grid_display, log, progress_bar
from segline.tracking import provenance, tags
from segline.tracking.client import Experiment
from segline.tracking.recorder import Recorder
from segline.tracking.runs import start_run
from segline.training.checkpoints import CheckpointStore, Origins
from segline.training.init_source import FOLDER as INIT_FOLDER
from segline.training.init_source import find_init, share_init
from segline.training.leaderboard import Row, write_leaderboard
from segline.training.lease import FOLLOWED, watchdog
from segline.training.search import grid, plan
from segline.training.search import optuna as proposals
from segline.training.search.check import check_trials
from segline.training.search.run import run_search
from segline.training.search.state import SearchState, TrialRuns
from segline.training.trial import Cost, Init, Trial, TrialConfig, TrialInputs

PREPARED = "prepared"
"""The folder of what losses and models prepared, beside the folders of the trials."""
STORE = "SEGLINE_STORE"
"""The environment variable with the bucket's prefix for checkpoints, to continue on another node or later."""


def run(params: Params, *, dataset_dir: Path, tracking_uri: str, out: Path, plan_only: bool = False) -> None:
    """Write a bundle for each candidate, ``out/<candidate>/``, with its ``history.csv``; leaderboard and curves.

    Args:
        params: The sections ``train`` and ``seed``.
        dataset_dir: The folder that label wrote.
        tracking_uri: The URI of MLflow.
        out: The folder to write.
        plan_only: Whether to only print the trials, how long they would take and in how much memory.

    Raises:
        SourceError: A file of encoder weights, or the folder that ``train.init`` names, is missing.
        StageError: Files of the data set are damaged, or Optuna is missing.
        TrainingError: A model or loss cannot be made, started or trained, or more trials failed than may.
        StoppedError: SIGTERM came, or nobody follows any more; every trial saved itself.
        TrackingError: MLflow cannot be reached.
    """
    if params.train.search.searcher == "optuna":
        proposals.check_installed()
    validation = split_folder("val", params.train.validate_on)
    DATASET.check(dataset_dir, folders=("train", validation))
    open_split(dataset_dir, validation)
    info = read_dataset_info(dataset_dir)
    experiment = Experiment(tracking_uri, params.name)
    with TemporaryDirectory(prefix="segline-init-") as folder:
        inputs, init_key = _inputs(params.train, dataset_dir, out), ""
        if params.train.init:
            init_key = provenance.key(fingerprint(params, info, inputs), params.train.init)
            init = find_init(params.train.init, experiment, init_key, out, Path(folder, "bundle"))
            inputs = replace(inputs, init=init)
        _preflight(params, info, inputs)
        if plan_only:
            _show_plan(params, inputs)
            return
        key = fingerprint(params, info, inputs)
        candidates = _search(params, inputs, _run_tags(info, inputs.init, init_key), key, experiment, out)
    log(f"train: {len(candidates)} candidates in {out}: {', '.join(candidates)}")


def fingerprint(params: Params, info: DatasetInfo, inputs: TrialInputs) -> str:
    """Return a hash of what the candidates depend on: parameters, seed, data, initial weights, code and libraries.

    Of ``train.init`` counts what the address stands for.
    """
    settings = asdict(params.train)
    del settings["checkpoint_minutes"], settings["checkpoints"], settings["search"]["max_failed"], settings["init"]
    parts = (json.dumps(settings, sort_keys=True), params.seed, info.content_hash, code_hash(CANDIDATES.code))
    libraries = ["torch", *(["optuna"] if params.train.search.searcher == "optuna" else [])]
    started = [inputs.init.source, inputs.init.sha256] if inputs.init else []
    return provenance.key(*parts, *map(version, libraries), *map(file_hash, inputs.encoders.values()), *started)


def _search(
    params: Params, inputs: TrialInputs, run_tags: dict[str, str], key: str, experiment: Experiment, out: Path
) -> list[str]:
    """Run the search and write what it leaves; return the names of the candidates."""
    parent = start_run(experiment, key, f"grid-{key[:8]}", {"train": as_json(params.train)}, run_tags)
    if unfinished_fingerprint(out) not in ("", key):
        log(f"train: {out} has an unfinished run of other parameters, data or another version; training starts anew")
    with ExitStack() as stack:
        work = stack.enter_context(writing(out, fingerprint=key))
        recorder = stack.enter_context(Recorder(experiment, parent))
        display = stack.enter_context(grid_display(params.train.epochs))
        store = CheckpointStore(_store_url(params.train, key), keeps_last=params.train.keep_checkpoints)
        store.open(work)
        started = share_init(inputs.init, work / PREPARED, store) if inputs.init else None
        inputs = replace(inputs, prepared_dir=work / PREPARED, init=started)
        trial_runs = TrialRuns(recorder=recorder, key=key, tags=run_tags)
        state = SearchState(params=params, inputs=inputs, work=work, store=store, runs=trial_runs, display=display)
        followed = watchdog(os.environ.get(FOLLOWED, ""), partial(store.request_stop, work))
        with ray_session(), store.stop_on_sigterm(work), followed:
            check_trials(state)
            run_search(state)
        _conclude(state)
        CANDIDATES.write_mark(work)
        return [trial.name for trial in state.trials.values() if trial.is_finished]


def _conclude(state: SearchState) -> None:
    """Record the ends of all trials, write the leaderboard, and delete what only the training needs."""
    trials = state.trials.values()
    for trial in trials:
        state.record_end(trial)
    too_many = len(set(state.failed) - state.replaced) > state.params.train.search.max_failed
    if too_many or not any(trial.is_finished for trial in trials):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in state.failed.items())
        raise TrainingError(f"{len(state.failed)} of {len(trials)} trials failed: {reasons}")
    rows = [
        Row(trial.name, state.status(trial), trial.folder, trial.config.sampled, trial.config.parent)
        for trial in trials
    ]
    write_leaderboard(state.work, rows)
    for trial in trials:
        if not trial.is_finished:
            trial.delete_checkpoints()
    shutil.rmtree(state.inputs.prepared_dir / INIT_FOLDER, ignore_errors=True)
    for path in (state.work / PREPARED).glob("*/*/*.npy"):
        path.unlink()


def _inputs(settings: Train, dataset_dir: Path, out: Path) -> TrialInputs:
    """Return the files that the trials read; encoder weights are fetched that are not replaced by ``train.init``."""
    models = () if settings.init else settings.models
    named = {str(model.options["pretrained"]) for model in models if "pretrained" in model.options}
    encoders = {
        address: local_file(address, out.with_name(f"{out.name}.encoders"))
        for address in sorted(named - {str(True), str(False), SHIPPED_WORD})
    }
    return TrialInputs(
        dataset_dir=dataset_dir.resolve(),
        prepared_dir=out.resolve() / PREPARED,
        validation=split_folder("val", settings.validate_on),
        encoders=encoders,
        origins=Origins.of((dataset_dir,), encoders),
    )


def _preflight(params: Params, info: DatasetInfo, inputs: TrialInputs) -> None:
    """Import torch only here: the checks before need none."""
    from segline.training.preflight import check_components, check_init

    check_components(params.train, info, inputs)
    if inputs.init:
        check_init(grid.first_round(params.train, params.seed), info, inputs.init)


def _show_plan(params: Params, inputs: TrialInputs) -> None:
    """Prepare losses and models, measure a few steps of each kind of trial, and print the cost of the grid."""
    from segline.training.prepare import prepare_trials

    settings, configs = params.train, grid.grid_configs(params.train, params.seed)
    with TemporaryDirectory(prefix="segline-plan-") as folder:
        inputs = replace(inputs, prepared_dir=Path(folder))
        prepare_trials(configs, inputs, CheckpointStore(""), seed=params.seed, threads=settings.cpus_per_worker)
        kinds = len({plan.kind(config) for config in configs})
        with ray_session() as resources, progress_bar("measuring", kinds) as advance:
            costs = plan.measure(configs, partial(_measure, inputs), advance)
    plan.show(configs, costs, settings, resources)


def _measure(inputs: TrialInputs, config: TrialConfig) -> Cost:
    from segline.training.preflight import naming_trial
    from segline.training.run_trial import measure_cost

    with naming_trial(config.name):
        return measure_cost(Trial(config=config, inputs=inputs, folder=Path(), until=1, store=CheckpointStore("")))


def _store_url(settings: Train, key: str) -> str:
    """Return the prefix for the trials' files: that of the parameters, or on Kubernetes that of the deployment."""
    store = os.environ.get(STORE, "").rstrip("/")
    prefix = settings.checkpoints.rstrip("/") or (f"{store}/checkpoints" if store else "")
    return f"{prefix}/{key[:16]}" if prefix else ""


def _run_tags(info: DatasetInfo, init: Init | None, init_key: str) -> dict[str, str]:
    started = {tags.INIT: init.source, tags.INIT_KEY: init_key} if init else {}
    return started | {
        tags.DATASET_HASH: info.content_hash,
        tags.SOURCE: info.source,
        tags.SOURCE_HASH: info.source_hash,
        tags.SOURCE_REVISION: info.source_revision,
        **provenance.code_version(),
    }
