"""MLflow: runs of training, and the registry with its champion and challenger. The only importer of mlflow.

Every record has a key. A run or version that was begun before a kill is found by its key and finished, so that
nothing is written twice and nothing is left running.
"""

import hashlib
import json
import logging
import os
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# MLflow reads these when it is imported. Its own patience with a server that is away is four minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import numpy as np
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from segline import __version__
from segline.errors import TrackingError

KEY = "segline.key"
CHAMPION = "champion"
CHALLENGER = "challenger"
SQLITE = "sqlite:///"
STATISTICS = "statistics.parquet"
"""The file with the statistics of the training pairs: label writes it, and it is kept with a version's run."""
MOMENT = 0
"""When every metric was measured, to MLflow: the same record twice is then one record."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What a registry answers when it has no such model, and when the model has no such alias."""


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

    @cached_property
    def client(self) -> MlflowClient:
        """The connection, made when it is first needed.

        Raises:
            TrackingError: the server or database cannot be reached.
        """
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.address)
        try:
            if self.database and self.database.is_dir():
                raise TrackingError(f"{self.database} is a folder, expected the file of a database")
            if self.database and not self.database.exists():
                _make_database(self.database)
            client = MlflowClient(self.address)
            client.search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(f"--tracking-uri {self.uri} cannot be reached ({_first_line(error)})") from None
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made when it is not there."""
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
        """The id of the run with this key, begun now or before."""
        runs = self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        if runs:
            run = str(runs[0].info.run_id)
            self.client.update_run(run, status="RUNNING")
        else:
            marks = {KEY: key, **tags, **({"mlflow.parentRunId": parent} if parent else {})}
            run = str(self.client.create_run(self.experiment_id, run_name=name, tags=marks).info.run_id)
        self.client.log_batch(run, params=[Param(key, str(value)[:6000]) for key, value in params.items()])
        return run

    def log_history(self, run: str, history: Sequence[dict[str, float]]) -> None:
        """Write the epochs (each with its number under ``epoch``) that the run does not have yet."""
        steps = self.client.get_metric_history(run, "train_loss")
        last = max((metric.step for metric in steps), default=0)
        metrics = [
            Metric(name, value, MOMENT, int(record["epoch"]))
            for record in history
            if record["epoch"] > last
            for name, value in record.items()
            if name != "epoch" and np.isfinite(value)
        ]
        self.client.log_batch(run, metrics=metrics)

    def log_scores(self, run: str, scores: dict[str, float]) -> None:
        """Write final metrics of a run."""
        metrics = [Metric(name, value, MOMENT, 0) for name, value in scores.items() if np.isfinite(value)]
        self.client.log_batch(run, metrics=metrics)

    @contextmanager
    def closing(self, run: str) -> Iterator[None]:
        """Close a run at the end of a block: FINISHED, KILLED when it is interrupted, FAILED by an error."""
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except (KeyboardInterrupt, GeneratorExit):
            status = "KILLED"
            raise
        finally:
            self.client.set_terminated(run, status)

    def register(self, run: str, key: str, bundle: Path, tags: dict[str, str]) -> Version:
        """The version that holds this bundle, registered now or before, under the experiment's name."""
        if not self.client.search_registered_models(f"name = '{self.experiment}'"):
            self.client.create_registered_model(self.experiment)
        known = [version for version in self._versions() if version.tags.get(KEY) == key]
        if known:
            return known[0]
        with mlflow.start_run(run_id=run), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no input example: the signature is given
            model = mlflow.pyfunc.log_model(
                name="model",
                loader_module="segline.inference.pyfunc",
                data_path=str(bundle),
                signature=_signature(),
                pip_requirements=[f"segline[train]=={__version__}"],
            )
        self.client.update_run(run, status="RUNNING")
        made = self.client.create_model_version(self.experiment, model.model_uri, run_id=run, tags={KEY: key, **tags})
        return Version(int(made.version), dict(made.tags))

    def holder(self, alias: str) -> Version | None:
        """The version that holds an alias, or None."""
        try:
            found = self.client.get_model_version_by_alias(self.experiment, alias)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                reason = _first_line(error)
                raise TrackingError(f"--tracking-uri {self.uri} did not say who is {alias} ({reason})") from None
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
            raise TrackingError(f"--tracking-uri {self.uri} did not give {name} ({_first_line(error)})") from None

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


def key(*parts: object) -> str:
    """A key from everything that a record depends on."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def code_version() -> dict[str, str]:
    """The commit and whether the tree differs from it, as tags; empty outside a git repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit.strip(), "segline.uncommitted": "yes" if changes.strip() else "no"}


def _signature() -> ModelSignature:
    """Images of any number and size in, class ids of the same size out."""
    images = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    labels = TensorSpec(np.dtype(np.uint8), (-1, -1, -1))
    return ModelSignature(inputs=Schema([images]), outputs=Schema([labels]))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
