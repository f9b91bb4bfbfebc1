"""Tracking on a real database of MLflow: everything is written once, whatever is repeated."""

import json
import math
import re
import socket
import subprocess
from contextlib import nullcontext

import pytest
from mlflow.exceptions import MlflowException

from segline.errors import TrackingError
from segline.tracking import (
    CHALLENGER,
    CHAMPION,
    KEY,
    STATISTICS,
    Tracker,
    Version,
    champion_statistics,
    code_version,
    key,
)


@pytest.fixture
def tracker(tracking_uri):
    return Tracker(tracking_uri, "streets")


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.json").write_text('{"one": 1}')
    return folder


def begin(tracker, key="key"):
    return tracker.begin(key, "unet-dice", {"epochs": 3, "loss": "dice"}, {"segline.dataset": "abc"})


def status(tracker, run):
    return tracker.client.get_run(run).info.status


def epochs(*numbers):
    return [
        {"epoch": number, "train_loss": 1 / number, "val_miou": math.nan if number == 2 else number / 10}
        for number in numbers
    ]


def registered(tracker, bundle, key="key"):
    run = begin(tracker, key)
    with tracker.closing(run):
        return tracker.register(run, key, bundle, {"segline.dataset": "abc"})


def test_a_run_is_begun_once_for_a_key(tracker, tracking_uri):
    run = begin(tracker)
    assert begin(tracker) == begin(Tracker(tracking_uri, "streets")) == run
    assert begin(tracker, "other") != run
    found = tracker.client.get_run(run)
    assert found.info.run_name == "unet-dice"
    assert found.data.params == {"epochs": "3", "loss": "dice"}
    assert found.data.tags | {KEY: "key", "segline.dataset": "abc"} == found.data.tags
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 2


def test_a_run_cut_off_before_its_parameters_gets_them_when_it_is_begun_again(tracker, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(tracker.client), "log_batch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            begin(tracker)
    assert tracker.client.get_run(begin(tracker)).data.params == {"epochs": "3", "loss": "dice"}


def test_a_run_may_have_a_parent(tracker):
    parent = begin(tracker, "parent")
    child = tracker.begin("child", "cell", {}, {}, parent)
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_an_epoch_is_written_once(tracker):
    run = begin(tracker)
    for numbers in ([1], [1, 2], [1, 2], [1, 2, 3]):
        tracker.log_history(run, epochs(*numbers))
    history = {
        name: [(metric.step, metric.value) for metric in tracker.client.get_metric_history(run, name)]
        for name in ("train_loss", "val_miou")
    }
    assert history == {"train_loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)], "val_miou": [(1, 0.1), (3, 0.3)]}


def test_a_long_history_is_written_whole(tracker):
    run = begin(tracker)
    tracker.log_history(run, epochs(*range(1, 1201)))
    assert [metric.step for metric in tracker.client.get_metric_history(run, "train_loss")] == list(range(1, 1201))


def test_scores_leave_out_what_is_no_number(tracker):
    run = begin(tracker)
    tracker.log_scores(run, {"test_miou": 0.5, "test_dice": math.nan})
    assert tracker.client.get_run(run).data.metrics == {"test_miou": 0.5}


@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (GeneratorExit, "KILLED")],
)
def test_a_run_is_closed_with_how_it_ended(tracker, error, expected):
    run = begin(tracker)
    assert status(tracker, run) == "RUNNING"
    with pytest.raises(error) if error else nullcontext(), tracker.closing(run):
        if error:
            raise error
    assert status(tracker, run) == expected
    assert status(tracker, begin(tracker)) == "RUNNING"


def test_a_bundle_is_registered_once_for_a_key(tracker, bundle, tracking_uri):
    first = registered(tracker, bundle)
    assert registered(Tracker(tracking_uri, "streets"), bundle) == first
    assert registered(tracker, bundle, "other").number == 2
    assert (first.number, first.tags) == (1, {KEY: "key", "segline.dataset": "abc"})
    assert status(tracker, begin(tracker)) == "RUNNING"
    assert {path.name: path.read_text() for path in tracker.fetch(first).iterdir()} == {"model.json": '{"one": 1}'}


def test_the_run_goes_on_after_registering(tracker, bundle):
    run = begin(tracker)
    tracker.register(run, "key", bundle, {})
    assert status(tracker, run) == "RUNNING"


def test_a_version_without_a_bundle_is_refused(tracker, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"1")
    version = registered(tracker, tmp_path / "other")
    with pytest.raises(TrackingError, match="models:/streets/1 holds no segline bundle"):
        tracker.fetch(version)


def test_an_alias_points_to_one_version(tracker, bundle):
    assert tracker.holder(CHAMPION) is None
    first, second = registered(tracker, bundle), registered(tracker, bundle, "other")
    assert tracker.holder(CHAMPION) is None
    tracker.drop(CHAMPION)
    tracker.point(CHAMPION, first)
    tracker.point(CHALLENGER, second)
    assert tracker.holder(CHAMPION) == first
    assert tracker.holder(CHALLENGER) == second
    tracker.point(CHAMPION, second)
    tracker.drop(CHALLENGER)
    assert tracker.holder(CHAMPION) == second
    assert tracker.holder(CHALLENGER) is None


def test_a_server_in_trouble_is_not_an_absent_champion(tracker, bundle, monkeypatch):
    """Otherwise the next version would be promoted unproven."""
    tracker.point(CHAMPION, registered(tracker, bundle))

    def trouble(*_):
        raise MlflowException("the server has no room left")

    monkeypatch.setattr(type(tracker.client), "get_model_version_by_alias", trouble)
    with pytest.raises(TrackingError, match="no room left"):
        tracker.holder(CHAMPION)


def attach_statistics(tracker, folder, content, key="key"):
    folder.mkdir(exist_ok=True)
    (folder / STATISTICS).write_text(content)
    tracker.attach(begin(tracker, key), folder / STATISTICS)


def test_the_champions_statistics_come_back(tracker, bundle, tracking_uri, tmp_path):
    out = tmp_path / "fetched"
    out.mkdir()
    assert champion_statistics(tracking_uri, "streets", out) is None
    first, second = registered(tracker, bundle), registered(tracker, bundle, "other")
    tracker.point(CHAMPION, second)
    assert champion_statistics(tracking_uri, "streets", out) is None
    for content in ("of before", "of the second", "of the second"):
        attach_statistics(tracker, tmp_path / "kept", content, "other")
    attach_statistics(tracker, tmp_path / "kept", "of the first")
    number, file = champion_statistics(tracking_uri, "streets", out)
    assert (number, file, file.read_text()) == (2, out / STATISTICS, "of the second")
    tracker.point(CHAMPION, first)
    assert champion_statistics(tracking_uri, "streets", out)[1].read_text() == "of the first"
    assert champion_statistics(tracking_uri, "fields", out) is None


def test_without_a_registry_there_are_no_statistics_and_none_is_made(tmp_path):
    path = tmp_path / "none" / "mlflow.db"
    assert champion_statistics(f"sqlite:///{path}", "streets", tmp_path) is None
    assert not path.parent.exists()


def test_lost_artifacts_are_told(tracker, bundle, tracking_uri, tmp_path, monkeypatch):
    attach_statistics(tracker, tmp_path / "kept", "here")
    tracker.point(CHAMPION, registered(tracker, bundle))

    def trouble(*_):
        raise MlflowException("the bucket is away")

    monkeypatch.setattr(type(tracker.client), "list_artifacts", trouble)
    with pytest.raises(TrackingError, match=r"did not give statistics\.parquet \(the bucket is away\)"):
        champion_statistics(tracking_uri, "streets", tmp_path)


def test_tags_are_text_or_json(tracker, bundle):
    version = registered(tracker, bundle)
    tracker.point(CHAMPION, version)
    tracker.tag(version, {"text": "plain", "decision": {"better": True, "bound": None}})
    tags = tracker.holder(CHAMPION).tags
    assert tags["text"] == "plain"
    assert json.loads(tags["decision"]) == {"better": True, "bound": None}
    assert Version(1, tags).tags[KEY] == "key"


def test_a_new_database_lies_in_a_new_folder(tmp_path, empty_store):
    path = tmp_path / "new" / "folder" / "mlflow.db"
    tracker = Tracker(f"sqlite:///{path}", "streets")
    run = begin(tracker)
    assert path.is_file()
    assert tracker.client.get_run(run).info.artifact_uri.startswith((path.parent / "artifacts").as_uri())


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(TrackingError, match=re.escape(f"--tracking-uri {uri} cannot be reached (")) as caught:
        begin(Tracker(uri, "streets"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["sqlite:////proc/none/mlflow.db", "ftp://there", "nonsense://"])
def test_an_address_that_cannot_be_is_named(uri):
    with pytest.raises(TrackingError, match=re.escape(f"--tracking-uri {uri} cannot be reached (")):
        begin(Tracker(uri, "streets"))


def test_a_key_tells_its_parts_apart():
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("ab", "c", ""), key("c", "ab")}) == 5
    assert key("a", 1) == key("a", "1")


def test_the_code_version_is_that_of_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version() == {}

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert code_version() == {"mlflow.source.git.commit": commit, "segline.uncommitted": "no"}
    (tmp_path / "new").touch()
    assert code_version() == {"mlflow.source.git.commit": commit, "segline.uncommitted": "yes"}
