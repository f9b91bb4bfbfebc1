"""The connection to MLflow: one experiment on one server or database, MLflow's settings, and its errors in short."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import requests
from mlflow.entities import Experiment as MlflowExperiment
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from segline.errors import TrackingError
from segline.redaction import redact

SQLITE = "sqlite:///"
PARENT_RUN = "MLFLOW_RUN_ID"
"""The environment variable with the run that Kubeflow starts for a pipeline; the runs of the line are its children."""
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""The error codes of a registry without such a model, and of a model without such an alias."""
REPEAT = "run the same command again, it continues"
UPLOAD_TIMEOUT_S = 120
"""The timeout of an upload: a server answers only when it has stored the file."""


@dataclass(frozen=True)
class Experiment:
    """An experiment on one MLflow server or database; the registered model has the same name."""

    uri: str
    name: str

    @property
    def database(self) -> Path | None:
        """The file of a local database; None for a server."""
        return Path(self.uri.removeprefix(SQLITE)).resolve() if self.uri.startswith(SQLITE) else None

    @property
    def shown_uri(self) -> str:
        """The URI without a password."""
        return redact(self.uri)

    @cached_property
    def client(self) -> MlflowClient:
        """The connection, which is made on first use.

        Raises:
            TrackingError: the server or database cannot be reached.
        """
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # MLflow raises what it logs as well
        # An absolute path holds in every working directory.
        uri = _database_uri(self.database) if self.database else self.uri
        mlflow.set_tracking_uri(uri)
        try:
            if self.database and self.database.is_dir():
                raise TrackingError(f"{self.database} is a folder, expected the file of a database")
            if self.database and not self.database.exists():
                _create_database(self.database)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(f"--tracking-uri {self.shown_uri} cannot be reached ({short_reason(error)})") from None
        return client

    @contextmanager
    def explained_errors(self, doing: str) -> Iterator[None]:
        """Turn any error of MLflow in a block into one line; ``doing`` says what the block does.

        Raises:
            TrackingError: MLflow fails in the block.
        """
        try:
            yield
        except (MlflowException, requests.RequestException, SQLAlchemyError) as error:
            raise TrackingError(
                f"--tracking-uri {self.shown_uri} failed while {doing} ({short_reason(error)}); {REPEAT}"
            ) from None

    @cached_property
    def parent_run(self) -> Run | None:
        """The run that the environment names as parent; None if there is none, or if it is on another server."""
        try:
            return self.client.get_run(os.environ[PARENT_RUN]) if os.environ.get(PARENT_RUN) else None
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise
            return None

    @cached_property
    def id(self) -> str:
        """The id of the parent run's experiment, else of the experiment of this name, which is created if need be."""
        if self.parent_run:
            return self._active_id(self.client.get_experiment(self.parent_run.info.experiment_id))
        known = self.client.get_experiment_by_name(self.name)
        if known:
            return self._active_id(known)
        # Files lie beside a local database; a server decides for itself.
        location = (self.database.parent / "artifacts").as_uri() if self.database else None
        try:
            return str(self.client.create_experiment(self.name, artifact_location=location))
        except MlflowException:
            known = self.client.get_experiment_by_name(self.name)  # another process may have created it meanwhile
            if known is None:
                raise
            return self._active_id(known)

    def _active_id(self, known: MlflowExperiment) -> str:
        number = str(known.experiment_id)
        if known.lifecycle_stage != "active":
            raise TrackingError(
                f"--tracking-uri {self.shown_uri}: experiment {known.name} was deleted; {restore_advice(number)}"
            )
        return number


def restore_advice(number: str) -> str:
    """Return what to do about an experiment that was deleted, by its id."""
    return (
        f"restore it by `mlflow experiments restore --experiment-id {number}`, remove it for good by `mlflow gc "
        f"--experiment-ids {number}` where the server runs, or give `name` in params.yaml another value"
    )


def _database_uri(path: Path) -> str:
    """Return the address of a database file for SQLAlchemy, to which ``?`` begins a query and ``%20`` is a space."""
    if not {"%", "?"} & set(str(path)):
        return f"{SQLITE}{path}"
    # MLflow makes the folders of an address that begins with sqlite:///, and takes them as they are written there.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def _create_database(path: Path) -> None:
    """Create an empty MLflow database that is complete from its first moment: a kill amid its many steps breaks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        MlflowClient(_database_uri(fresh)).search_experiments(max_results=1)
        with suppress(FileExistsError):
            os.link(fresh, path)


@contextmanager
def override_settings(**values: object) -> Iterator[None]:
    """Change settings of MLflow for a block, in the whole process: MLflow reads them from the environment each time."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def upload_timeout() -> AbstractContextManager[None]:
    """Raise the timeout of requests to that of an upload for a block."""
    timeout = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 0))
    return override_settings(MLFLOW_HTTP_REQUEST_TIMEOUT=max(timeout, UPLOAD_TIMEOUT_S))


def is_permanent(error: Exception) -> bool:
    """Return whether trying again is useless: MLflow rejects the request, or the file to upload does not exist."""
    invalid = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    return invalid or isinstance(error, FileNotFoundError)


def short_reason(error: Exception) -> str:
    """Return an error in a few words: those of MLflow repeat the address before they come to the cause."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted; set REQUESTS_CA_BUNDLE to a file with that of its authority"
    cause = re.search(r"timed out|\[Errno -?\d+\] ([^\"')]+)", text) if isinstance(error, MlflowException) else None
    if cause:
        return cause[1] or "no answer in time"
    return redact((text.splitlines() or [type(error).__name__])[0])[:200]
