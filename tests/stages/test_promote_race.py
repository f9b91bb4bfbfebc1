"""Two and eight promotions at the same moment, on a local database, on a server, and in a database with a server."""

import os
import subprocess
import sys

import pytest
from promoters import promoters
from servers import free_port, wait_for
from test_promote import evaluation_dir, write_ensembled, write_labelled  # noqa: F401 - a fixture

from segline.stages.settlement import earlier_decision
from segline.tracking import history, registry
from segline.tracking.client import Experiment
from segline.tracking.registry import CHAMPION
from segline.tracking.tags import KEY

QUALITY = (220, 205, 190, 175, 160, 145, 128)
"""The thresholds of the models, the best one last; see test_promote."""
FEW, MANY = 3, 50


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server of two processes."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--port", str(port), "--workers", "2"]
    words += ["--artifacts-destination", str(folder / "files")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def folders(tmp_path, evaluation_dir):  # noqa: F811
    """What label, evaluate and ensemble wrote; each process has a folder for its own result."""
    dataset_dir = write_labelled(tmp_path / "label")
    ensembles = {
        threshold: write_ensembled(tmp_path / f"ensemble{threshold}", dataset_dir, threshold) for threshold in QUALITY
    }
    return dataset_dir, evaluation_dir, ensembles


def run_rounds(uri, folders, tmp_path, *, count, rounds):
    """Promote ``rounds`` times with ``count`` processes; each round of each test is a registered model of its own."""
    dataset_dir, evaluation_dir, ensembles = folders  # noqa: F811
    # Of eight, two have the same bundle.
    thresholds = [*QUALITY, QUALITY[-1]] if count > len(QUALITY) else QUALITY[-count:]
    with promoters(count) as promote_at_once:
        for number in range(rounds):
            name = f"{tmp_path.name}-{number}"
            orders = [
                (
                    name,
                    {},
                    {
                        "dataset_dir": dataset_dir,
                        "evaluation_dir": evaluation_dir,
                        "ensemble_dir": ensembles[threshold],
                        "tracking_uri": uri,
                        "out": tmp_path / "out" / str(place),
                    },
                )
                for place, threshold in enumerate(thresholds)
            ]
            assert promote_at_once(orders) == []
            check(Experiment(uri, name), bundles=len(set(thresholds)))


def check(experiment, *, bundles):
    """No version twice; the history is a chain; each champion beat the one before it; nobody was judged in vain."""
    versions = {version.number: version for version in registry.list_versions(experiment)}
    assert len({version.tags[KEY] for version in versions.values()}) == len(versions) == bundles
    changes = history.changes(experiment)
    chain = [change.version for change in changes]
    assert [change.before for change in changes] == [None, *chain[:-1]]
    assert chain[-1] == registry.get_by_alias(experiment, CHAMPION).number
    assert len(set(chain)) == len(chain)
    scores = []
    for change in changes:
        decision = earlier_decision(versions[change.version])
        assert (change.kind, decision.promoted) == ("promoted", True)
        scores.append(decision.test_miou)
        assert change.who
        assert change.when
    assert scores == sorted(scores)
    decisions = [earlier_decision(version) for version in versions.values()]
    assert scores[-1] == max(decision.test_miou for decision in decisions) == 1
    for number, version in versions.items():
        decision = earlier_decision(version)
        if number not in chain:
            assert not decision.promoted
            assert decision.against in [None, *chain]
    assert {model.name for model in experiment.client.search_registered_models()} == {
        model.name for model in experiment.client.search_registered_models() if "lock" not in model.name
    }


def test_two_at_once_on_a_local_database(tracking_uri, folders, tmp_path):
    run_rounds(tracking_uri, folders, tmp_path, count=2, rounds=FEW)


@pytest.mark.slow
def test_two_at_once_on_a_server(server, folders, tmp_path):
    run_rounds(server, folders, tmp_path, count=2, rounds=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("where", ["local", "server"])
def test_many_rounds(where, count, tracking_uri, folders, tmp_path, request):
    uri = tracking_uri if where == "local" else request.getfixturevalue("server")
    run_rounds(uri, folders, tmp_path, count=count, rounds=MANY)
