"""Runs of an experiment. Every run has a key, by which a run that was cut off is found and finished.

So nothing is written twice, and no run is left RUNNING.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from segline.errors import StoppedError, TrackingError
from segline.tracking.client import Experiment, override_settings, restore_advice, short_reason, upload_timeout
from segline.tracking.provenance import environment_hash, pipeline_run
from segline.tracking.tags import ENVIRONMENT_HASH, KEY, PIPELINE_RUN

TIMESTAMP = 0
"""The time of every metric in MLflow: it takes a record that is sent twice for one record."""
MAX_METRICS = 1000
"""The number of metrics that one request may hold."""
MAX_PARAM_LENGTH = 6000
"""The number of characters that MLflow keeps of a parameter."""


def start_run(
    experiment: Experiment, key: str, name: str, params: dict[str, Any], tags: dict[str, str], *, parent: str = ""
) -> str:
    """Return the id of the run with this key, started now or before; see :func:`get_or_create_run`.

    Raises:
        TrackingError: MLflow cannot be reached, or does not accept the run.
    """
    try:
        return get_or_create_run(experiment, key, name, params, tags, parent=parent)[0]
    except MlflowException as error:
        # The experiment was active when this process began.
        advice = f"; {restore_advice(experiment.id)}" if "must be in the 'active' state" in str(error) else ""
        raise TrackingError(
            f"--tracking-uri {experiment.shown_uri} did not start the run {name} ({short_reason(error)}){advice}"
        ) from None


def get_or_create_run(
    experiment: Experiment, key: str, name: str, params: dict[str, Any], tags: dict[str, str], *, parent: str = ""
) -> tuple[str, int]:
    """Return the id of the run with this key, which is RUNNING then, and the last epoch that it has.

    The tags are set in any case. MLflow changes no parameter, so a run keeps those that it has.

    Raises:
        TrackingError: MLflow cannot be reached for the first time.
        MlflowException: it does not answer, or does not accept the run.
    """
    parent = parent or (experiment.parent_run.info.run_id if experiment.parent_run else "")
    above = {"mlflow.parentRunId": parent} if parent else {}
    marks = {KEY: key, ENVIRONMENT_HASH: environment_hash(), **tags, **above, **pipeline_run()}
    known = experiment.client.search_runs([experiment.id], f"tags.`{KEY}` = '{key}'", max_results=1)
    if known:
        run, new = known[0], marks
        experiment.client.update_run(run.info.run_id, status="RUNNING")
    else:
        with override_settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES=0):  # a request that is repeated makes a second run
            run, new = experiment.client.create_run(experiment.id, run_name=name, tags=marks), {}
    missing = {key: value for key, value in params.items() if key not in run.data.params}
    experiment.client.log_batch(
        run.info.run_id,
        params=[Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in missing.items()],
        tags=_run_tags(new),
    )
    return str(run.info.run_id), _last_epoch(run)


def latest_tags(experiment: Experiment, name: str, value: str) -> dict[str, str]:
    """Return the tags of the latest run in which a tag has this value; none without such a run.

    Raises:
        TrackingError: MLflow does not answer.
    """
    with experiment.explained_errors(f"looking for a run by {name}"):
        found = experiment.client.search_runs([experiment.id], f"tags.`{name}` = '{value}'", max_results=1)
    return dict(found[0].data.tags) if found else {}


def log_history(experiment: Experiment, run: str, history: Sequence[dict[str, float]], last: int) -> int:
    """Write the epochs (each with its number under ``epoch``) that the run does not have yet.

    Args:
        experiment: the experiment of the run.
        run: the id of the run.
        history: a record of each epoch; values that are not finite numbers are left out.
        last: the last epoch that the run has.

    Returns:
        The last epoch that the run has now.
    """
    new = [record for record in history if record["epoch"] > last]
    for batch in _batches(_metrics(record) for record in new):
        experiment.client.log_batch(run, metrics=batch)
    return max([last, *(int(record["epoch"]) for record in new)])


def log_metrics(experiment: Experiment, run: str, scores: dict[str, float]) -> None:
    """Write the final metrics of a run."""
    experiment.client.log_batch(run, metrics=_metrics({**scores, "epoch": 0}))


def log_artifact(experiment: Experiment, run: str, file: Path) -> None:
    """Upload a file to a run under its own name; it replaces one of the same name."""
    with upload_timeout():
        experiment.client.log_artifact(run, str(file))


def log_artifacts(experiment: Experiment, run: str, folder: Path, artifact_path: str) -> None:
    """Upload the files of a folder to a run; a file that the run has in the same size is not sent again.

    Raises:
        FileNotFoundError: the folder has no files.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"{folder} has no files")
    with upload_timeout():
        for parent in sorted({file.parent for file in files}):
            path = Path(artifact_path, parent.relative_to(folder)).as_posix()
            sizes = {entry.path: entry.file_size for entry in experiment.client.list_artifacts(run, path)}
            for file in [file for file in files if file.parent == parent]:
                if sizes.get(f"{path}/{file.name}") != file.stat().st_size:
                    experiment.client.log_artifact(run, str(file), path)


def end_run(experiment: Experiment, run: str, status: str, tags: dict[str, str]) -> None:
    """Write the last tags of a run, and its status."""
    experiment.client.log_batch(run, tags=_run_tags(tags))
    experiment.client.set_terminated(run, status)


@contextmanager
def closing(experiment: Experiment, run: str) -> Iterator[None]:
    """End a run when a block ends, with the status of :func:`status_after`."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the error of the block is the one to raise
            experiment.client.set_terminated(run, status_after(error))
        raise
    experiment.client.set_terminated(run, status_after(None))


def status_after(error: BaseException | None) -> str:
    """Return the status of a run whose block ended with this error: FINISHED without one, KILLED or FAILED."""
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | GeneratorExit | SystemExit | StoppedError) else "FAILED"


def tag_pipeline_runs(uri: str, pipeline_run: str, tags: dict[str, str]) -> int:
    """Tag every run that a Kubeflow run has made, and return their number. No database is created.

    Raises:
        TrackingError: MLflow cannot be reached, or does not accept the tags.
    """
    server = Experiment(uri, "")
    if server.database and not server.database.exists():
        return 0
    try:
        experiments = [experiment.experiment_id for experiment in server.client.search_experiments()]
        runs = server.client.search_runs(experiments, f"tags.`{PIPELINE_RUN}` = '{pipeline_run}'")
        for run in runs:
            server.client.log_batch(run.info.run_id, tags=_run_tags(tags))
    except MlflowException as error:
        raise TrackingError(
            f"--tracking-uri {server.shown_uri} did not accept the outcome ({short_reason(error)})"
        ) from None
    return len(runs)


def _run_tags(tags: dict[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in tags.items()]


def _last_epoch(run: Run) -> int:
    """Return the greatest step of any metric; only ``to_proto`` shows the steps."""
    return max((int(metric.step) for metric in run.data.to_proto().metrics), default=0)


def _metrics(record: dict[str, Any]) -> list[Metric]:
    """Return the finite numbers of a record, at the step that is its epoch."""
    numbers = {name: float(value) for name, value in record.items() if isinstance(value, Real)}
    finite = {name: value for name, value in numbers.items() if np.isfinite(value) and name != "epoch"}
    return [Metric(name, value, TIMESTAMP, int(record["epoch"])) for name, value in finite.items()]


def _batches(epochs: Iterable[list[Metric]]) -> Iterator[list[Metric]]:
    """Yield complete epochs in few requests: MLflow writes all of a request or nothing, so no epoch is torn."""
    batch: list[Metric] = []
    for metrics in epochs:
        if len(batch) + len(metrics) > MAX_METRICS:
            yield batch
            batch = []
        batch = batch + metrics
    yield batch
