"""MLflow: runs of training, and the registry with its champion and challenger. The only importer of mlflow.

Every record has a key. A run or version that was begun before a kill is found by its key and finished, so that
nothing is written twice and nothing is left running.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import Distribution, distributions
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# MLflow reads the first when it is imported. Its own patience is four minutes with a server that refuses the
# connection, and a quarter of an hour with one that is silent; with these it is five seconds and one minute.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Files go through the server. MLflow's own way is to fetch all, and to send what is large, by signed addresses of the
# server's bucket, which a client may have no way to.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from segline import __version__
from segline.errors import StoppedError, TrackingError

KEY = "segline.key"
ENVIRONMENT = "segline.environment"
PIPELINE_RUN = "segline.pipeline_run"
HOST_RUN = "MLFLOW_RUN_ID"
"""The variable with the run that Kubeflow begins for a pipeline; those of the line are its children."""
CHAMPION = "champion"
CHALLENGER = "challenger"
SQLITE = "sqlite:///"
STATISTICS = "statistics.parquet"
"""The file with the statistics of the training pairs: label writes it, and it is kept with a version's run."""
MOMENT = 0
"""When every metric was measured, to MLflow: the same record twice is then one record."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What a registry answers when it has no such model, and when the model has no such alias."""
INTERRUPTS = (KeyboardInterrupt, GeneratorExit, SystemExit, StoppedError)
"""What ends a run KILLED; any other error ends it FAILED."""
MOST_METRICS = 1000
"""As many as one request may hold."""
UPLOAD_TIMEOUT_S = 120
"""A server answers to a file only when it has stored it."""
GIT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Version:
    """A version in the registry."""

    number: int
    tags: dict[str, str]


@dataclass(frozen=True)
class Tracker:
    """One experiment on one MLflow server or database."""

    uri: str
    experiment: str

    @property
    def database(self) -> Path | None:
        """The file of a local database; None for a server."""
        return Path(self.uri.removeprefix(SQLITE)).resolve() if self.uri.startswith(SQLITE) else None

    @property
    def address(self) -> str:
        """The URI as it holds in any working directory."""
        return f"{SQLITE}{self.database}" if self.database else self.uri

    @property
    def shown(self) -> str:
        """The URI without a password."""
        return _without_password(self.uri)

    @cached_property
    def client(self) -> MlflowClient:
        """The connection, made when it is first needed.

        Raises:
            TrackingError: the server or database cannot be reached.
        """
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what fails is raised as well
        mlflow.set_tracking_uri(self.address)
        try:
            if self.database and self.database.is_dir():
                raise TrackingError(f"{self.database} is a folder, expected the file of a database")
            if self.database and not self.database.exists():
                _make_database(self.database)
            client = MlflowClient(self.address)
            client.search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(f"--tracking-uri {self.shown} cannot be reached ({reason_of(error)})") from None
        return client

    @cached_property
    def host(self) -> Run | None:
        """The run that the line is part of; None without one, or when it is on another server."""
        try:
            return self.client.get_run(os.environ[HOST_RUN]) if os.environ.get(HOST_RUN) else None
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            return None

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made when it is not there; that of the run that the line is part of, if there is one."""
        if self.host:
            return str(self.host.info.experiment_id)
        found = self.client.get_experiment_by_name(self.experiment)
        if found:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(self.experiment, artifact_location=self._artifacts()))
        except MlflowException:
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """Beside a local database; a server decides for itself."""
        return (self.database.parent / "artifacts").as_uri() if self.database else None

    def begin(self, key: str, name: str, params: dict[str, Any], tags: dict[str, str], parent: str = "") -> str:
        """The id of the run with this key, begun now or before; see :meth:`resume`.

        Raises:
            TrackingError: MLflow cannot be reached, or does not take the run.
        """
        try:
            return self.resume(key, name, params, tags, parent)[0]
        except MlflowException as error:
            raise TrackingError(f"--tracking-uri {self.shown} did not begin {name} ({reason_of(error)})") from None

    def resume(
        self, key: str, name: str, params: dict[str, Any], tags: dict[str, str], parent: str = ""
    ) -> tuple[str, int]:
        """The id of the run with this key, begun now or before, and the last epoch that it has.

        Tags are set on either; MLflow changes no parameter, so those that the run has are left as they are.

        Raises:
            TrackingError: MLflow cannot be reached for the first time.
            MlflowException: it does not answer, or does not take the run.
        """
        parent = parent or (self.host.info.run_id if self.host else "")
        above = {"mlflow.parentRunId": parent} if parent else {}
        marks = {KEY: key, ENVIRONMENT: environment_hash(), **tags, **above, **_pipeline_run()}
        found = self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        if found:
            run, new = found[0], [RunTag(name, value) for name, value in marks.items()]
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            with settings(MLFLOW_HTTP_REQUEST_MAX_RETRIES=0):  # sent again after a lost answer, it makes a second run
                run, new = self.client.create_run(self.experiment_id, run_name=name, tags=marks), []
        missing = [Param(key, str(value)[:6000]) for key, value in params.items() if key not in run.data.params]
        self.client.log_batch(run.info.run_id, params=missing, tags=new)
        return str(run.info.run_id), _last_epoch(run)

    def log_history(self, run: str, history: Sequence[dict[str, float]], last: int | None = None) -> int:
        """Write the epochs (each with its number under ``epoch``) that the run does not have yet.

        Args:
            run: its id.
            history: an epoch's record may hold any numbers; what is none, or not finite, is left out.
            last: the last epoch that the run is known to have; without it the run is asked.

        Returns:
            The last epoch that the run has now.
        """
        last = _last_epoch(self.client.get_run(run)) if last is None else last
        new = [record for record in history if record["epoch"] > last]
        for batch in _batches(_metrics(record) for record in new):
            self.client.log_batch(run, metrics=batch)
        return max([last, *(int(record["epoch"]) for record in new)])

    def finish(self, run: str, status: str, tags: dict[str, str], scores: dict[str, float]) -> None:
        """Write the last tags and metrics of a run, and how it ended."""
        marks = [RunTag(name, value) for name, value in tags.items()]
        self.client.log_batch(run, metrics=_metrics({**scores, "epoch": 0}), tags=marks)
        self.client.set_terminated(run, status)

    def keep(self, run: str, folder: Path, place: str) -> None:
        """Keep the files of a folder with a run; those that it has, of the same size, are not sent again.

        Raises:
            FileNotFoundError: the folder has no files.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        if not files:
            raise FileNotFoundError(f"{folder} has no files")
        with _uploading():
            for parent in sorted({file.parent for file in files}):
                where = Path(place, parent.relative_to(folder)).as_posix()
                there = {entry.path: entry.file_size for entry in self.client.list_artifacts(run, where)}
                for file in [file for file in files if file.parent == parent]:
                    if there.get(f"{where}/{file.name}") != file.stat().st_size:
                        self.client.log_artifact(run, str(file), where)

    def log_scores(self, run: str, scores: dict[str, float]) -> None:
        """Write final metrics of a run."""
        self.client.log_batch(run, metrics=_metrics({**scores, "epoch": 0}))

    @contextmanager
    def closing(self, run: str) -> Iterator[None]:
        """Close a run at the end of a block: FINISHED, KILLED when it is interrupted, FAILED by an error."""
        try:
            yield
        except BaseException as error:
            with suppress(Exception):  # the block's own error is the one to tell
                self.client.set_terminated(run, "KILLED" if isinstance(error, INTERRUPTS) else "FAILED")
            raise
        self.client.set_terminated(run, "FINISHED")

    def register(self, run: str, key: str, bundle: Path, tags: dict[str, str]) -> Version:
        """The version that holds this bundle, registered now or before, under the experiment's name."""
        if not self.client.search_registered_models(f"name = '{self.experiment}'"):
            self.client.create_registered_model(self.experiment)
        known = [version for version in self._versions() if version.tags.get(KEY) == key]
        if known:
            return known[0]
        with mlflow.start_run(run_id=run), warnings.catch_warnings(), _uploading():
            warnings.simplefilter("ignore", UserWarning)  # no input example: the signature is given
            model = mlflow.pyfunc.log_model(
                name="model",
                loader_module="segline.inference.pyfunc",
                data_path=str(bundle),
                signature=_signature(),
                pip_requirements=[f"segline[train]=={__version__}"],
            )
        self.client.update_run(run, status="RUNNING")
        made = self.client.create_model_version(
            self.experiment, model.model_uri, run_id=run, tags={KEY: key, **tags}, model_id=model.model_id
        )
        return Version(int(made.version), dict(made.tags))

    def holder(self, alias: str) -> Version | None:
        """The version that holds an alias, or None."""
        try:
            found = self.client.get_model_version_by_alias(self.experiment, alias)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                reason = reason_of(error)
                raise TrackingError(f"--tracking-uri {self.shown} did not say who is {alias} ({reason})") from None
            return None
        return Version(int(found.version), dict(found.tags))

    def fetch(self, version: Version) -> Path:
        """The folder of a version's bundle, copied here if it lies elsewhere."""
        uri = f"models:/{self.experiment}/{version.number}"
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
        found = sorted(folder.rglob("model.json"))
        if not found:
            raise TrackingError(f"{uri} holds no segline bundle; give `name` in params.yaml another value")
        return found[0].parent

    def attach(self, run: str, file: Path) -> None:
        """Keep a file with a run under its own name; one of the same name is replaced."""
        with _uploading():
            self.client.log_artifact(run, str(file))

    def attached(self, version: Version, name: str, folder: Path) -> Path | None:
        """The file of this name that was kept with the version's run, copied into a folder; None when there is none.

        Raises:
            TrackingError: the registry or the store of the files is in trouble.
        """
        try:
            run = self.client.get_model_version(self.experiment, str(version.number)).run_id
            if not run or name not in [entry.path for entry in self.client.list_artifacts(run)]:
                return None
            return Path(self.client.download_artifacts(run, name, str(folder)))
        except Exception as error:
            raise TrackingError(f"--tracking-uri {self.shown} did not give {name} ({reason_of(error)})") from None

    def tag(self, version: Version, tags: dict[str, Any]) -> None:
        """Write tags of a version; anything but text is written as JSON."""
        for name, value in tags.items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            self.client.set_model_version_tag(self.experiment, str(version.number), name, text)

    def point(self, alias: str, version: Version) -> None:
        """Let an alias point to a version, and to no other."""
        self.client.set_registered_model_alias(self.experiment, alias, str(version.number))

    def drop(self, alias: str) -> None:
        """Let an alias point to nothing."""
        if self.holder(alias):
            self.client.delete_registered_model_alias(self.experiment, alias)

    def _versions(self) -> list[Version]:
        found = self.client.search_model_versions(f"name = '{self.experiment}'")
        return [Version(int(version.version), dict(version.tags)) for version in found]


def _make_database(path: Path) -> None:
    """Make an empty MLflow database that is whole from its first moment: a kill amid its many steps breaks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        MlflowClient(f"{SQLITE}{fresh}").search_experiments(max_results=1)
        with suppress(FileExistsError):
            os.link(fresh, path)


def champion_statistics(uri: str, model: str, folder: Path) -> tuple[int, Path] | None:
    """The champion's number and the statistics of its training pairs, copied into a folder.

    None when there is no registry yet, no champion, or one without statistics. No database is made.

    Raises:
        TrackingError: the server or database cannot be reached.
    """
    tracker = Tracker(uri, model)
    if tracker.database and not tracker.database.exists():
        return None
    champion = tracker.holder(CHAMPION)
    file = champion and tracker.attached(champion, STATISTICS, folder)
    return (champion.number, file) if champion and file else None


def mark_runs(uri: str, pipeline_run: str, tags: dict[str, str]) -> int:
    """Tag every run that a Kubeflow run has made; returns how many. No database is made.

    Raises:
        TrackingError: MLflow cannot be reached, or does not take the tags.
    """
    tracker = Tracker(uri, "")
    if tracker.database and not tracker.database.exists():
        return 0
    try:
        experiments = [found.experiment_id for found in tracker.client.search_experiments()]
        runs = tracker.client.search_runs(experiments, f"tags.`{PIPELINE_RUN}` = '{pipeline_run}'")
        for run in runs:
            tracker.client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    except MlflowException as error:
        raise TrackingError(f"--tracking-uri {tracker.shown} did not take the outcome ({reason_of(error)})") from None
    return len(runs)


def _pipeline_run() -> dict[str, str]:
    """The Kubeflow run that this process is part of, as a tag."""
    run = os.environ.get("SEGLINE_RUN", "")
    return {PIPELINE_RUN: run} if run else {}


def key(*parts: object) -> str:
    """A key from everything that a record depends on."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def code_version() -> dict[str, str]:
    """The commit and whether the tree differs from it, as tags.

    Outside a git repository ``SEGLINE_COMMIT`` says it, which the images have; else there are none.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        built_from = os.environ.get("SEGLINE_COMMIT", "")
        return {"mlflow.source.git.commit": built_from} if built_from else {}
    changes = _git("status", "--porcelain")
    differs = {} if changes is None else {"segline.uncommitted": "yes" if changes else "no"}
    return {"mlflow.source.git.commit": commit, **differs}


def _git(*words: str) -> str | None:
    """What git says; None when there is no git, no repository, or no answer in time."""
    command = ["git", "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


@cache
def environment_hash() -> str:
    """The SHA-256 over every installed distribution with its version, in hex."""
    lines = sorted({_pinned(found) for found in distributions()} - {""})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _pinned(found: Distribution) -> str:
    """A distribution as ``name==version``; nothing for what an uninstall left behind."""
    with suppress(Exception):  # which one it is depends on who finds distributions: Python or its backport
        facts = found.metadata
        if facts["Name"] and facts["Version"]:
            return f"{re.sub(r'[-_.]+', '-', facts['Name']).lower()}=={facts['Version']}"
    return ""


@contextmanager
def settings(**values: object) -> Iterator[None]:
    """Settings of MLflow for a block, in the whole process: it reads them from the environment at every request."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def refused(error: Exception) -> bool:
    """Whether to try the same again is of no use: MLflow does not take it, or the file to keep is not there."""
    invalid = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    return invalid or isinstance(error, FileNotFoundError)


def reason_of(error: Exception) -> str:
    """An error in a few words: MLflow's tell the address twice before they come to the matter."""
    text = str(error)
    cause = re.search(r"timed out|\[Errno -?\d+\] ([^\"')]+)", text) if isinstance(error, MlflowException) else None
    if cause:
        return cause[1] or "no answer in time"
    return _without_password((text.splitlines() or [type(error).__name__])[0])[:200]


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _uploading() -> AbstractContextManager[None]:
    """Time to send a file."""
    timeout = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 0))
    return settings(MLFLOW_HTTP_REQUEST_TIMEOUT=max(timeout, UPLOAD_TIMEOUT_S))


def _last_epoch(run: Run) -> int:
    """The greatest step of any metric; only ``to_proto`` shows the steps."""
    return max((int(metric.step) for metric in run.data.to_proto().metrics), default=0)


def _metrics(record: dict[str, Any]) -> list[Metric]:
    """The finite numbers of a record, at the step that is its epoch."""
    numbers = {name: float(value) for name, value in record.items() if isinstance(value, Real)}
    finite = {name: value for name, value in numbers.items() if np.isfinite(value) and name != "epoch"}
    return [Metric(name, value, MOMENT, int(record["epoch"])) for name, value in finite.items()]


def _batches(epochs: Iterable[list[Metric]]) -> Iterator[list[Metric]]:
    """Whole epochs in few requests: MLflow writes a request whole or not at all, so no epoch is ever half there."""
    batch: list[Metric] = []
    for metrics in epochs:
        if len(batch) + len(metrics) > MOST_METRICS:
            yield batch
            batch = []
        batch = batch + metrics
    yield batch


def _signature() -> ModelSignature:
    """Images of any number and size in, class ids of the same size out."""
    images = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    labels = TensorSpec(np.dtype(np.uint8), (-1, -1, -1))
    return ModelSignature(inputs=Schema([images]), outputs=Schema([labels]))
