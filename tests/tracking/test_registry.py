"""The registry in a real database of MLflow: a bundle is registered once, and an alias belongs to one version."""

import json

import pytest
from mlflow.exceptions import MlflowException

from segline.artifacts.validation import STATISTICS
from segline.errors import TrackingError
from segline.tracking.client import Experiment
from segline.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    champion_statistics,
    delete_alias,
    download_bundle,
    get_by_alias,
    register_model,
    set_alias,
    set_tags,
)
from segline.tracking.runs import closing, log_artifact, start_run
from segline.tracking.tags import KEY


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.json").write_text('{"one": 1}')
    return folder


def start(experiment, key="key"):
    return start_run(experiment, key, "unet-dice", {"loss": "dice"}, {})


def status(experiment, run):
    return experiment.client.get_run(run).info.status


def register(experiment, bundle, key="key"):
    run = start(experiment, key)
    with closing(experiment, run):
        return register_model(experiment, run, key, bundle, {"color": "red"})


def test_a_version_comes_back_from_a_folder_of_any_name(bundle, tmp_path):
    experiment = Experiment(f"sqlite:///{tmp_path}/p%20q?x#y/mlflow.db", "streets")
    version = register(experiment, bundle)
    set_alias(experiment, CHAMPION, version)
    assert (download_bundle(experiment, version) / "model.json").read_text(encoding="utf-8") == '{"one": 1}'


def test_the_aliases_have_the_names_that_users_look_for():
    assert (CHAMPION, CHALLENGER) == ("champion", "challenger")


def test_a_bundle_is_registered_once_for_a_key(experiment, bundle, tracking_uri):
    first = register(experiment, bundle)
    assert register(Experiment(tracking_uri, "streets"), bundle) == first
    assert register(experiment, bundle, "other").number == 2
    assert (first.number, first.tags) == (1, {KEY: "key", "color": "red"})
    assert status(experiment, start(experiment)) == "RUNNING"
    downloaded = download_bundle(experiment, first)
    assert {path.name: path.read_text() for path in downloaded.iterdir()} == {"model.json": '{"one": 1}'}


def test_the_run_goes_on_after_registering(experiment, bundle):
    run = start(experiment)
    register_model(experiment, run, "key", bundle, {})
    assert status(experiment, run) == "RUNNING"


def test_a_version_without_a_bundle_is_refused(experiment, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"1")
    version = register(experiment, tmp_path / "other")
    with pytest.raises(TrackingError, match="models:/streets/1 holds no segline bundle"):
        download_bundle(experiment, version)


def test_an_alias_points_to_one_version(experiment, bundle):
    assert get_by_alias(experiment, CHAMPION) is None
    first, second = register(experiment, bundle), register(experiment, bundle, "other")
    assert get_by_alias(experiment, CHAMPION) is None
    delete_alias(experiment, CHAMPION)
    set_alias(experiment, CHAMPION, first)
    set_alias(experiment, CHALLENGER, second)
    assert get_by_alias(experiment, CHAMPION) == first
    assert get_by_alias(experiment, CHALLENGER) == second
    set_alias(experiment, CHAMPION, second)
    delete_alias(experiment, CHALLENGER)
    assert get_by_alias(experiment, CHAMPION) == second
    assert get_by_alias(experiment, CHALLENGER) is None


def test_a_server_in_trouble_is_not_an_absent_champion(experiment, bundle, monkeypatch):
    """Otherwise the next version would be promoted unproven."""
    set_alias(experiment, CHAMPION, register(experiment, bundle))

    def trouble(*_):
        raise MlflowException("the server has no room left")

    monkeypatch.setattr(type(experiment.client), "get_model_version_by_alias", trouble)
    with pytest.raises(TrackingError, match="no room left"):
        get_by_alias(experiment, CHAMPION)


def log_statistics(experiment, folder, content, key="key"):
    folder.mkdir(exist_ok=True)
    (folder / STATISTICS).write_text(content)
    log_artifact(experiment, start(experiment, key), folder / STATISTICS)


def test_the_champions_statistics_come_back(experiment, bundle, tracking_uri, tmp_path):
    out = tmp_path / "fetched"
    out.mkdir()
    assert champion_statistics(tracking_uri, "streets", out) is None
    first, second = register(experiment, bundle), register(experiment, bundle, "other")
    set_alias(experiment, CHAMPION, second)
    assert champion_statistics(tracking_uri, "streets", out) is None
    for content in ("of before", "of the second", "of the second"):
        log_statistics(experiment, tmp_path / "kept", content, "other")
    log_statistics(experiment, tmp_path / "kept", "of the first")
    number, file = champion_statistics(tracking_uri, "streets", out)
    assert (number, file, file.read_text()) == (2, out / STATISTICS, "of the second")
    set_alias(experiment, CHAMPION, first)
    assert champion_statistics(tracking_uri, "streets", out)[1].read_text() == "of the first"
    assert champion_statistics(tracking_uri, "fields", out) is None


def test_without_a_registry_there_are_no_statistics_and_none_is_made(tmp_path):
    path = tmp_path / "none" / "mlflow.db"
    assert champion_statistics(f"sqlite:///{path}", "streets", tmp_path) is None
    assert not path.parent.exists()


def test_lost_artifacts_are_told(experiment, bundle, tracking_uri, tmp_path, monkeypatch):
    log_statistics(experiment, tmp_path / "kept", "here")
    set_alias(experiment, CHAMPION, register(experiment, bundle))

    def trouble(*_):
        raise MlflowException("the bucket is away")

    monkeypatch.setattr(type(experiment.client), "list_artifacts", trouble)
    with pytest.raises(TrackingError, match=r"did not send statistics\.parquet \(the bucket is away\)"):
        champion_statistics(tracking_uri, "streets", tmp_path)


def test_tags_are_text_or_json(experiment, bundle):
    version = register(experiment, bundle)
    set_alias(experiment, CHAMPION, version)
    set_tags(experiment, version, {"text": "plain", "decision": {"better": True, "bound": None}})
    tags = get_by_alias(experiment, CHAMPION).tags
    assert tags["text"] == "plain"
    assert json.loads(tags["decision"]) == {"better": True, "bound": None}
    assert tags[KEY] == "key"
