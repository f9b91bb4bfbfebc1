"""The registry of models: versions with their tags, and the aliases champion and challenger."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models.model import ModelInfo

from segline.artifacts import bundle
from segline.artifacts.artifact import Record
from segline.artifacts.validation import STATISTICS
from segline.errors import TrackingError
from segline.tracking.client import NOT_FOUND, REPEAT, Experiment, short_reason
from segline.tracking.locks import registry_lock
from segline.tracking.model import log_model
from segline.tracking.tags import KEY

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
"""The alias of the champion before the champion."""


@dataclass(frozen=True)
class Version:
    """A version in the registry."""

    number: int
    tags: dict[str, str]


def register_model(experiment: Experiment, run: str, key: str, bundle: Path, tags: dict[str, str]) -> Version:
    """Return the version with this key; if there is none yet, register the bundle under the experiment's name.

    Two processes may upload the same bundle at once, but only one of them makes a version of it.

    Raises:
        TrackingError: the files cannot be stored.
    """
    client = experiment.client
    known = _find(experiment, key)
    if known:
        return known
    model = _log_model(experiment, run, bundle)
    with registry_lock(experiment):
        if not client.search_registered_models(_is_named(experiment)):
            client.create_registered_model(experiment.name)
        return _find(experiment, key) or _version(
            client.create_model_version(
                experiment.name, model.model_uri, run_id=run, tags={KEY: key, **tags}, model_id=model.model_id
            )
        )


def _log_model(experiment: Experiment, run: str, bundle: Path) -> ModelInfo:
    try:
        model = log_model(run, bundle)
        experiment.client.update_run(run, status="RUNNING")
        return model
    except Exception as error:  # the store of the files has errors of its own
        reason = short_reason(error)
        raise TrackingError(
            f"--tracking-uri {experiment.shown_uri} did not store {bundle} ({reason}); {REPEAT}"
        ) from None


def _find(experiment: Experiment, key: str) -> Version | None:
    """Return the version with a key; None if there is none."""
    found = experiment.client.search_model_versions(_is_named(experiment))
    return next((_version(version) for version in found if version.tags.get(KEY) == key), None)


def _is_named(experiment: Experiment) -> str:
    return f"name = '{experiment.name}'"


def list_versions(experiment: Experiment) -> list[Version]:
    """Return all versions of the model, the first one first."""
    found = experiment.client.search_model_versions(_is_named(experiment))
    return sorted(map(_version, found), key=lambda version: version.number)


def get_version(experiment: Experiment, number: int) -> Version | None:
    """Return a version; None if it does not exist."""
    try:
        return _version(experiment.client.get_model_version(experiment.name, str(number)))
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return None
        raise


def model_tags(experiment: Experiment) -> dict[str, str]:
    """Return the tags of the registered model; none if it does not exist."""
    try:
        return dict(experiment.client.get_registered_model(experiment.name).tags)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return {}
        raise


def aliases(experiment: Experiment) -> dict[int, list[str]]:
    """Return the sorted aliases of each version that has one; none if the model does not exist."""
    try:
        of_model = experiment.client.get_registered_model(experiment.name).aliases
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return {}
        raise
    found: dict[int, list[str]] = {}
    for alias, number in sorted(of_model.items()):
        found.setdefault(int(number), []).append(alias)
    return found


def parse_record(text: str) -> Record:
    """Return the mapping that a tag holds as JSON; an empty one for any other text."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def get_by_alias(experiment: Experiment, alias: str) -> Version | None:
    """Return the version with an alias; None if there is none.

    Raises:
        TrackingError: the registry does not answer.
    """
    try:
        return _version(experiment.client.get_model_version_by_alias(experiment.name, alias))
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return None
        raise TrackingError(
            f"--tracking-uri {experiment.shown_uri} did not tell which version is {alias} ({short_reason(error)})"
        ) from None


def set_alias(experiment: Experiment, alias: str, version: Version) -> None:
    """Give an alias to a version; another version that had it loses it."""
    experiment.client.set_registered_model_alias(experiment.name, alias, str(version.number))


def delete_alias(experiment: Experiment, alias: str) -> None:
    """Delete an alias, if a version has it."""
    if get_by_alias(experiment, alias):
        experiment.client.delete_registered_model_alias(experiment.name, alias)


def set_tags(experiment: Experiment, version: Version, tags: dict[str, Any]) -> None:
    """Set tags of a version; a value that is no text is written as JSON."""
    for name, value in tags.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        experiment.client.set_model_version_tag(experiment.name, str(version.number), name, text)


def download_bundle(experiment: Experiment, version: Version) -> Path:
    """Return the folder of a version's bundle, which is downloaded if it is not on this machine.

    Raises:
        TrackingError: the version holds no bundle, or its files cannot be read.
    """
    uri = f"models:/{experiment.name}/{version.number}"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:  # the store of the files has errors of its own
        reason = short_reason(error)
        raise TrackingError(f"--tracking-uri {experiment.shown_uri} did not send {uri} ({reason}); {REPEAT}") from None
    descriptions = sorted(folder.rglob(bundle.FILE))
    if not descriptions:
        raise TrackingError(f"{uri} holds no segline bundle; give `name` in params.yaml another value")
    return descriptions[0].parent


def download_artifact(experiment: Experiment, version: Version, name: str, folder: Path) -> Path | None:
    """Copy a file of a version's run into a folder, and return its path; None if the run has no such file.

    Raises:
        TrackingError: the registry or the store of the files fails.
    """
    try:
        run = experiment.client.get_model_version(experiment.name, str(version.number)).run_id
        if not run or name not in [entry.path for entry in experiment.client.list_artifacts(run)]:
            return None
        return Path(experiment.client.download_artifacts(run, name, str(folder)))
    except Exception as error:
        reason = short_reason(error)
        raise TrackingError(f"--tracking-uri {experiment.shown_uri} did not send {name} ({reason})") from None


def champion_statistics(uri: str, model: str, folder: Path) -> tuple[int, Path] | None:
    """Return the champion's number and the statistics of its training pairs, copied into a folder.

    The result is None without a registry, a champion, or statistics. No database is created.

    Raises:
        TrackingError: the server or database cannot be reached.
    """
    experiment = Experiment(uri, model)
    if experiment.database and not experiment.database.exists():
        return None
    champion = get_by_alias(experiment, CHAMPION)
    file = champion and download_artifact(experiment, champion, STATISTICS, folder)
    return (champion.number, file) if champion and file else None


def _version(version: ModelVersion) -> Version:
    return Version(int(version.version), dict(version.tags))
