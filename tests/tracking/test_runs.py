"""Runs in a real database of MLflow: everything is written once, whatever is repeated."""

import math
import os
import subprocess
from contextlib import nullcontext

import pytest
from mlflow.exceptions import MlflowException

from segline.errors import TrackingError
from segline.tracking import client
from segline.tracking.client import Experiment, is_permanent
from segline.tracking.provenance import environment_hash
from segline.tracking.runs import closing, get_or_create_run, log_artifacts, log_history, log_metrics, start_run
from segline.tracking.tags import ENVIRONMENT_HASH, KEY


def start(experiment, key="key"):
    return start_run(experiment, key, "unet-dice", {"epochs": 3, "loss": "dice"}, {"color": "red"})


def write_history(experiment, history, key="key"):
    """Write a history as a process does that has just been started; returns the run and its last epoch."""
    run, last = get_or_create_run(experiment, key, "unet-dice", {}, {})
    return run, log_history(experiment, run, history, last)


def epochs(*numbers):
    return [
        {"epoch": number, "train_loss": 1 / number, "val_miou": math.nan if number == 2 else number / 10}
        for number in numbers
    ]


def test_a_run_is_started_once_for_a_key(experiment, tracking_uri):
    run = start(experiment)
    assert start(experiment) == start(Experiment(tracking_uri, "streets")) == run
    assert start(experiment, "other") != run
    stored = experiment.client.get_run(run)
    assert stored.info.run_name == "unet-dice"
    assert stored.data.params == {"epochs": "3", "loss": "dice"}
    assert stored.data.tags | {KEY: "key", "color": "red"} == stored.data.tags
    assert len(experiment.client.search_runs([experiment.id])) == 2


def test_a_run_cut_off_before_its_parameters_gets_them_when_it_is_started_again(experiment, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(experiment.client), "log_batch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start(experiment)
    assert experiment.client.get_run(start(experiment)).data.params == {"epochs": "3", "loss": "dice"}


def test_a_run_started_again_gets_the_tags_of_now_and_keeps_its_parameters(experiment):
    run = start(experiment)
    again = start_run(experiment, "key", "unet-dice", {"loss": "focal", "epochs": 3, "new": 1}, {"color": "blue"})
    stored = experiment.client.get_run(run)
    assert again == run
    assert stored.data.params == {"epochs": "3", "loss": "dice", "new": "1"}
    assert stored.data.tags["color"] == "blue"


def test_a_run_names_its_environment(experiment):
    assert experiment.client.get_run(start(experiment)).data.tags[ENVIRONMENT_HASH] == environment_hash()
    other = start_run(experiment, "other", "trial", {}, {ENVIRONMENT_HASH: "of the trial"})
    assert experiment.client.get_run(other).data.tags[ENVIRONMENT_HASH] == "of the trial"


def test_a_run_that_is_not_accepted_is_told(experiment, monkeypatch):
    def trouble(*_, **__):
        raise MlflowException("the server has no room left")

    monkeypatch.setattr(type(experiment.client), "log_batch", trouble)
    with pytest.raises(TrackingError, match=r"did not start the run unet-dice \(the server has no room left\)$"):
        start(experiment)


def test_more_parameters_and_tags_than_a_request_may_hold(experiment):
    params = {f"p{number}": number for number in range(230)}
    tags = {f"t{number}": str(number) for number in range(230)}
    for _ in range(2):
        stored = experiment.client.get_run(start_run(experiment, "key", "trial", params, tags)).data
        assert stored.params == {name: str(value) for name, value in params.items()}
        assert stored.tags | tags == stored.tags


def test_a_run_says_which_epoch_it_has(experiment):
    run, last = get_or_create_run(experiment, "key", "trial", {}, {})
    assert last == 0
    # The second epoch has no finite loss, and the scores are at step 0.
    history = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": math.inf, "seconds": 3}]
    log_history(experiment, run, history, last)
    log_metrics(experiment, run, {"test_miou": 0.5})
    assert get_or_create_run(experiment, "key", "trial", {}, {}) == (run, 2)


def test_a_run_may_have_a_parent(experiment):
    parent = start(experiment, "parent")
    child = start_run(experiment, "child", "trial", {}, {}, parent=parent)
    assert experiment.client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_an_epoch_is_written_once(experiment):
    for numbers in ([1], [1, 2], [1, 2], [1, 2, 3]):
        run, last = write_history(experiment, epochs(*numbers))
        assert last == numbers[-1]
    history = {
        name: [(metric.step, metric.value) for metric in experiment.client.get_metric_history(run, name)]
        for name in ("train_loss", "val_miou")
    }
    assert history == {"train_loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)], "val_miou": [(1, 0.1), (3, 0.3)]}


def test_a_long_history_is_written_whole(experiment):
    run, _ = write_history(experiment, epochs(*range(1, 1201)))
    steps = [metric.step for metric in experiment.client.get_metric_history(run, "train_loss")]
    assert steps == list(range(1, 1201))


def test_a_long_history_cut_off_between_its_requests_is_written_once(experiment, monkeypatch):
    """Every request holds whole epochs: an epoch that has its loss has all."""
    run = start(experiment)
    history = [{"epoch": number, **{f"m{name}": number / name for name in range(1, 8)}} for number in range(1, 301)]
    write, sizes = type(experiment.client).log_batch, []

    def cut_off(client, run, metrics):
        if len(sizes) == 1:
            raise KeyboardInterrupt
        sizes.append(len(metrics))
        write(client, run, metrics=metrics)

    with monkeypatch.context() as patch:
        patch.setattr(type(experiment.client), "log_batch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            log_history(experiment, run, history, 0)
    assert sizes == [142 * 7]
    assert write_history(experiment, history) == (run, 300)
    for name in range(1, 8):
        steps = [(metric.step, metric.value) for metric in experiment.client.get_metric_history(run, f"m{name}")]
        assert sorted(steps) == [(number, number / name) for number in range(1, 301)]


def test_what_is_no_number_is_left_out_of_an_epoch(experiment):
    history = [{"epoch": 1, "system/memory_gb": 3, "trial": "unet", "rate": math.inf, "on": None}]
    run, _ = write_history(experiment, history)
    assert experiment.client.get_run(run).data.metrics == {"system/memory_gb": 3.0}


def test_files_are_uploaded_once(experiment, tmp_path, monkeypatch):
    run = start(experiment)
    folder = tmp_path / "candidate"
    (folder / "more").mkdir(parents=True)
    for name, text in {"model.json": "{}", "more/weights.bin": "1234", ".hidden": "1"}.items():
        (folder / name).write_text(text)
    write, sent = type(experiment.client).log_artifact, []

    def log_artifact(self, run, file, path):
        sent.append(os.path.relpath(file, folder))
        assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == client.UPLOAD_TIMEOUT_S
        write(self, run, file, path)

    monkeypatch.setattr(type(experiment.client), "log_artifact", log_artifact)
    for _ in range(2):
        log_artifacts(experiment, run, folder, "model")
    assert sent == ["model.json", "more/weights.bin"]
    (folder / "more" / "weights.bin").write_text("12345")
    log_artifacts(experiment, run, folder, "model")
    assert sent == ["model.json", "more/weights.bin", "more/weights.bin"]
    stored = experiment.client.download_artifacts(run, "model", str(tmp_path))
    assert subprocess.check_output(["diff", "-r", "--exclude", ".hidden", folder, stored]) == b""
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) < client.UPLOAD_TIMEOUT_S


def test_a_folder_without_files_is_refused(experiment, tmp_path):
    with pytest.raises(FileNotFoundError, match="none has no files") as caught:
        log_artifacts(experiment, start(experiment), tmp_path / "none", "model")
    assert is_permanent(caught.value)


def test_scores_leave_out_what_is_no_number(experiment):
    run = start(experiment)
    log_metrics(experiment, run, {"test_miou": 0.5, "test_dice": math.nan})
    assert experiment.client.get_run(run).data.metrics == {"test_miou": 0.5}


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
def test_a_run_is_closed_with_how_it_ended(experiment, error, expected):
    def status(run):
        return experiment.client.get_run(run).info.status

    run = start(experiment)
    assert status(run) == "RUNNING"
    with pytest.raises(error) if error else nullcontext(), closing(experiment, run):
        if error:
            raise error
    assert status(run) == expected
    assert status(start(experiment)) == "RUNNING"


def test_the_error_of_a_block_is_told_even_if_its_run_cannot_be_closed(experiment, monkeypatch):
    run = start(experiment)

    def trouble(*_):
        raise MlflowException("the server is away")

    monkeypatch.setattr(type(experiment.client), "set_terminated", trouble)
    with pytest.raises(ValueError, match="of the block"), closing(experiment, run):
        raise ValueError("of the block")
    with pytest.raises(MlflowException, match="away"), closing(experiment, run):
        pass


@pytest.mark.parametrize("when", ["before", "meanwhile", "of the parent run"])
def test_a_run_in_a_deleted_experiment_has_its_remedy_told(experiment, monkeypatch, when):
    number, client = experiment.id, experiment.client
    if when == "of the parent run":
        monkeypatch.setenv("MLFLOW_RUN_ID", start_run(experiment, "parent", "pipeline", {}, {}))
    client.delete_experiment(number)
    now = experiment if when == "meanwhile" else Experiment(experiment.uri, experiment.name)
    with pytest.raises(TrackingError, match=rf"`mlflow experiments restore --experiment-id {number}`"):
        start_run(now, "a", "grid", {}, {})
    client.restore_experiment(number)
    assert start_run(Experiment(experiment.uri, experiment.name), "a", "grid", {}, {})
