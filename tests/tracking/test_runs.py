"""Tracking on a real database of MLflow: everything is written once, whatever is repeated."""

import hashlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from mlflow.exceptions import MlflowException

from segline.errors import TrackingError
from segline.tracking import runs as tracking
from segline.tracking.runs import (
    CHALLENGER,
    CHAMPION,
    ENVIRONMENT,
    KEY,
    STATISTICS,
    Tracker,
    Version,
    champion_statistics,
    code_version,
    environment_hash,
    key,
    reason_of,
    refused,
    settings,
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


def test_a_run_begun_again_gets_the_tags_of_now_and_keeps_its_parameters(tracker):
    run = begin(tracker)
    again = tracker.begin("key", "unet-dice", {"loss": "focal", "epochs": 3, "new": 1}, {"segline.dataset": "def"})
    found = tracker.client.get_run(run)
    assert again == run
    assert found.data.params == {"epochs": "3", "loss": "dice", "new": "1"}
    assert found.data.tags["segline.dataset"] == "def"


def test_a_run_names_its_environment(tracker):
    assert tracker.client.get_run(begin(tracker)).data.tags[ENVIRONMENT] == environment_hash()
    other = tracker.begin("other", "cell", {}, {ENVIRONMENT: "of the trial"})
    assert tracker.client.get_run(other).data.tags[ENVIRONMENT] == "of the trial"


def test_a_run_that_is_not_taken_is_told(tracker, monkeypatch):
    def trouble(*_, **__):
        raise MlflowException("the server has no room left")

    monkeypatch.setattr(type(tracker.client), "log_batch", trouble)
    with pytest.raises(TrackingError, match=r"did not begin unet-dice \(the server has no room left\)$"):
        begin(tracker)


def test_more_parameters_and_tags_than_a_request_may_hold(tracker):
    params = {f"p{number}": number for number in range(230)}
    tags = {f"t{number}": str(number) for number in range(230)}
    for _ in range(2):
        found = tracker.client.get_run(tracker.begin("key", "cell", params, tags)).data
        assert found.params == {name: str(value) for name, value in params.items()}
        assert found.tags | tags == found.tags


def test_a_run_says_which_epoch_it_has(tracker):
    run, last = tracker.resume("key", "cell", {}, {})
    assert last == 0
    # The second epoch has no finite loss, and the scores are at step 0.
    tracker.log_history(run, [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": math.inf, "seconds": 3}])
    tracker.log_scores(run, {"test_miou": 0.5})
    assert tracker.resume("key", "cell", {}, {}) == (run, 2)


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


def test_a_long_history_cut_off_between_its_requests_is_written_once(tracker, monkeypatch):
    """Every request holds whole epochs: an epoch that has its loss has all."""
    run = begin(tracker)
    history = [{"epoch": number, **{f"m{name}": number / name for name in range(1, 8)}} for number in range(1, 301)]
    write, sizes = type(tracker.client).log_batch, []

    def cut_off(client, run, metrics):
        if len(sizes) == 1:
            raise KeyboardInterrupt
        sizes.append(len(metrics))
        write(client, run, metrics=metrics)

    with monkeypatch.context() as patch:
        patch.setattr(type(tracker.client), "log_batch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tracker.log_history(run, history)
    assert sizes == [142 * 7]
    assert tracker.log_history(run, history) == 300
    for name in range(1, 8):
        steps = [(metric.step, metric.value) for metric in tracker.client.get_metric_history(run, f"m{name}")]
        assert sorted(steps) == [(number, number / name) for number in range(1, 301)]


def test_what_is_no_number_is_left_out_of_an_epoch(tracker):
    run = begin(tracker)
    tracker.log_history(run, [{"epoch": 1, "system/memory_gb": 3, "trial": "unet", "rate": math.inf, "on": None}])
    assert tracker.client.get_run(run).data.metrics == {"system/memory_gb": 3.0}


def test_files_are_kept_once(tracker, tmp_path, monkeypatch):
    run = begin(tracker)
    folder = tmp_path / "candidate"
    (folder / "more").mkdir(parents=True)
    for name, text in {"model.json": "{}", "more/weights.bin": "1234", ".hidden": "1"}.items():
        (folder / name).write_text(text)
    write, sent = type(tracker.client).log_artifact, []

    def log_artifact(client, run, file, place):
        sent.append(os.path.relpath(file, folder))
        assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == tracking.UPLOAD_TIMEOUT_S
        write(client, run, file, place)

    monkeypatch.setattr(type(tracker.client), "log_artifact", log_artifact)
    for _ in range(2):
        tracker.keep(run, folder, "model")
    assert sent == ["model.json", "more/weights.bin"]
    (folder / "more" / "weights.bin").write_text("12345")
    tracker.keep(run, folder, "model")
    assert sent == ["model.json", "more/weights.bin", "more/weights.bin"]
    kept = tracker.client.download_artifacts(run, "model", str(tmp_path))
    assert subprocess.check_output(["diff", "-r", "--exclude", ".hidden", folder, kept]) == b""
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) < tracking.UPLOAD_TIMEOUT_S


def test_a_folder_without_files_is_refused(tracker, tmp_path):
    with pytest.raises(FileNotFoundError, match="none has no files") as caught:
        tracker.keep(begin(tracker), tmp_path / "none", "model")
    assert refused(caught.value)


def test_scores_leave_out_what_is_no_number(tracker):
    run = begin(tracker)
    tracker.log_scores(run, {"test_miou": 0.5, "test_dice": math.nan})
    assert tracker.client.get_run(run).data.metrics == {"test_miou": 0.5}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "FINISHED"),
        (ValueError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (GeneratorExit, "KILLED"),
        (SystemExit, "KILLED"),
    ],
)
def test_a_run_is_closed_with_how_it_ended(tracker, error, expected):
    run = begin(tracker)
    assert status(tracker, run) == "RUNNING"
    with pytest.raises(error) if error else nullcontext(), tracker.closing(run):
        if error:
            raise error
    assert status(tracker, run) == expected
    assert status(tracker, begin(tracker)) == "RUNNING"


def test_the_error_of_a_block_is_told_even_if_its_run_cannot_be_closed(tracker, monkeypatch):
    run = begin(tracker)

    def trouble(*_):
        raise MlflowException("the server is away")

    monkeypatch.setattr(type(tracker.client), "set_terminated", trouble)
    with pytest.raises(ValueError, match="of the block"), tracker.closing(run):
        raise ValueError("of the block")
    with pytest.raises(MlflowException, match="away"), tracker.closing(run):
        pass


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


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_is_silent_does_not_hold_for_long(silent):
    begun = time.monotonic()
    with (
        settings(MLFLOW_HTTP_REQUEST_TIMEOUT=1, MLFLOW_HTTP_REQUEST_MAX_RETRIES=0),
        pytest.raises(TrackingError, match=rf"{silent} cannot be reached \(no answer in time\)"),
    ):
        begin(Tracker(silent, "streets"))
    assert time.monotonic() - begun < 5


def test_mlflow_is_not_waited_for_for_minutes():
    """A minute for a silent server in all: three tries, and the pauses between them."""
    code = (
        "import segline.tracking.runs, mlflow.environment_variables as e; print(e.MLFLOW_HTTP_REQUEST_TIMEOUT.get() *"
    )
    code += " (1 + e.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    assert int(subprocess.check_output([sys.executable, "-c", code], env=clean)) <= 60


def test_a_password_is_not_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=re.escape("http://127.0.0.1:1 cannot be reached (Connection refused)")):
        begin(Tracker("http://me:secret@127.0.0.1:1", "streets"))


def test_reasons_are_short():
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(FileNotFoundError(2, "No such file", "/a/b")) == "[Errno 2] No such file: '/a/b'"
    assert reason_of(MlflowException("at http://a:b@host/api\nmore")) == "at http://host/api"


def test_settings_hold_within_their_block(monkeypatch):
    monkeypatch.setenv("MLFLOW_ONE", "1")
    monkeypatch.delenv("MLFLOW_TWO", raising=False)
    with settings(MLFLOW_ONE=3, MLFLOW_TWO=4):
        assert (os.environ["MLFLOW_ONE"], os.environ["MLFLOW_TWO"]) == ("3", "4")
    assert os.environ["MLFLOW_ONE"] == "1"
    assert "MLFLOW_TWO" not in os.environ


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


def test_without_git_there_is_no_code_version(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version() == {}


def test_a_git_that_does_not_end_is_left(tmp_path, monkeypatch):
    """It knows the commit at once, but looks at the files for ever."""
    slow = tmp_path / "git"
    slow.write_text('#!/bin/sh\n[ "$2" = rev-parse ] && echo abc || exec sleep 60\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(tracking, "GIT_TIMEOUT_S", 0.5)
    assert code_version() == {"mlflow.source.git.commit": "abc"}


def test_the_environment_is_every_distribution_with_its_version(tmp_path, monkeypatch):
    for folder, metadata in {
        "one/zlib_ng-2.0": "Name: zlib_ng\nVersion: 2.0\n",
        "one/A.b-1.0": "Name: A.b\nVersion: 1.0\n",
        "two/A.b-1.0": "Name: A.b\nVersion: 1.0\n",
        "two/nameless-1.0": "Version: 1.0\n",
    }.items():
        (tmp_path / f"{folder}.dist-info").mkdir(parents=True)
        (tmp_path / f"{folder}.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "two" / "torn-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two")])
    assert environment_hash.__wrapped__() == hashlib.sha256(b"a-b==1.0\nzlib-ng==2.0").hexdigest()
