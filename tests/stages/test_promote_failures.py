"""MLflow fails at any of its calls while promote runs: that is one line, and the next promote completes the rest."""

import functools
import inspect
import warnings
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from test_promote import GOOD, PARAMS, POOR, dataset_dir, evaluation_dir, little_code, promoting  # noqa: F401 - fixtures

from segline.errors import TrackingError
from segline.tracking import history, registry
from segline.tracking.client import Experiment
from segline.tracking.registry import CHAMPION
from segline.tracking.tags import DECISION, KEY, PREVIOUS_CHAMPION

METHODS = [name for name, _ in inspect.getmembers(MlflowClient, inspect.isfunction) if not name.startswith("_")]


class Faults:
    """Counts the calls of MLflow that segline makes; the one with the number ``fails_at``, or this name, fails once.

    Attributes:
        calls: The names of the calls.
        fails_at: The number of the call that fails, from 0, or the name of the method whose first call fails.
        answered: Whether the call has its effect, and only its answer is lost.
    """

    def __init__(self):
        self.calls, self.fails_at, self.answered, self.inside = [], None, False, False

    def wrap(self, original, name):
        @functools.wraps(original)
        def call(*words, **options):
            if self.inside:
                return original(*words, **options)
            fails = self.fails_at in (len(self.calls), name) and (name != self.fails_at or name not in self.calls)
            self.calls.append(name)
            self.inside = True
            try:
                if fails and not self.answered:
                    raise MlflowException("the database has no room left")
                result = original(*words, **options)
            finally:
                self.inside = False
            if fails:
                raise MlflowException("the answer was lost")
            return result

        return call


@pytest.fixture
def faults(monkeypatch):
    """The faults of MLflow's client, of its upload of models, and of its download."""
    made = Faults()
    for name in METHODS:
        monkeypatch.setattr(MlflowClient, name, made.wrap(getattr(MlflowClient, name), name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, when it is imported
        monkeypatch.setattr(mlflow.pyfunc, "log_model", made.wrap(mlflow.pyfunc.log_model, "log_model"))
    download = made.wrap(mlflow.artifacts.download_artifacts, "download_artifacts")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    return made


def promote_through_a_fault(promoting, tracking_uri, faults, name, fails_at, answered):  # noqa: F811
    """Promote a second model while a call fails, and once more."""
    params = replace(PARAMS, name=name)
    faults.fails_at = None
    promoting(POOR, params=params)
    faults.calls, faults.fails_at, faults.answered = [], fails_at, answered
    said = ""
    try:
        promoting(GOOD, params=params)
    except TrackingError as error:
        said = str(error)
    assert not said or ("--tracking-uri" in said and "\n" not in said)
    assert fails_at in faults.calls or fails_at in range(len(faults.calls))
    faults.fails_at = None
    _, decision = promoting(GOOD, params=params)
    assert (decision["promoted"], decision["version"], decision["against"]) == (True, 2, 1)
    experiment = Experiment(tracking_uri, name)
    champion = registry.get_by_alias(experiment, CHAMPION)
    assert (champion.number, champion.tags[PREVIOUS_CHAMPION]) == (2, "1")
    assert [(change.version, change.before) for change in history.changes(experiment)] == [(1, None), (2, 1)]
    assert len({version.tags[KEY] for version in registry.list_versions(experiment)}) == 2
    assert all(run.info.status == "FINISHED" for run in experiment.client.search_runs([experiment.id]))


def count_calls(promoting, faults):  # noqa: F811
    params = replace(PARAMS, name="counted")
    promoting(POOR, params=params)
    faults.calls = []
    promoting(GOOD, params=params)
    return list(faults.calls)


@pytest.mark.parametrize("answered", [False, True], ids=["fails", "has its answer lost"])
@pytest.mark.parametrize(
    "method", ["create_model_version", "set_registered_model_alias", "set_model_version_tag", "download_artifacts"]
)
def test_a_call_that_fails_is_one_line(promoting, tracking_uri, faults, method, answered):  # noqa: F811
    promote_through_a_fault(promoting, tracking_uri, faults, "lamps", method, answered)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_call_that_fails_is_one_line(promoting, tracking_uri, faults):  # noqa: F811
    calls = count_calls(promoting, faults)
    assert len(calls) > 20
    for answered in (False, True):
        for number in range(len(calls)):
            promote_through_a_fault(promoting, tracking_uri, faults, f"lamps-{number}-{answered}", number, answered)


@pytest.mark.parametrize("text", ["yes", "[1]", "{", '{"promoted": true}', "null"])
def test_a_decision_that_is_none_does_not_block(promoting, tracking_uri, text):  # noqa: F811
    promoting(POOR)
    promoting(GOOD)
    Experiment(tracking_uri, PARAMS.name).client.set_model_version_tag(PARAMS.name, "2", DECISION, text)
    _, decision = promoting(GOOD)
    assert (decision["promoted"], decision["version"]) == (True, 2)


def test_a_deleted_experiment_has_its_remedy_told(promoting, tracking_uri):  # noqa: F811
    client = MlflowClient(tracking_uri)
    number = client.create_experiment(PARAMS.name)
    client.delete_experiment(number)
    message = rf"experiment lamps was deleted; restore it by `mlflow experiments restore --experiment-id {number}`"
    with pytest.raises(TrackingError, match=message) as raised:
        promoting(GOOD)
    assert f"`mlflow gc --experiment-ids {number}`" in str(raised.value)
    client.restore_experiment(number)
    assert promoting(GOOD)[1]["promoted"]
