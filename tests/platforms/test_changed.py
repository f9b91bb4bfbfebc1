"""Whether there is something new to train on, decided on a real MLflow as by the runs of a schedule."""

import json
from dataclasses import replace

import pytest
from kubernetes_api import NAMESPACE, kubernetes
from test_workflow import LINE, OOM, done, failing, flow

from segline.cli import main
from segline.config.params import Params
from segline.config.sections import Train
from segline.platforms import attempts, changed
from segline.tracking import lines, registry
from segline.tracking.client import Experiment
from segline.tracking.registry import Version

NAME = "streets"
PARAMS = json.dumps(
    {
        "name": NAME,
        "ingest": {"synthetic": {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}},
        "validate": {"min_pairs": 2},
    }
)


def validated(folder, seed):
    manifest, validation = folder / f"manifest{seed}", folder / f"validation{seed}"
    words = ["--params", PARAMS, "--set", f"seed={seed}"]
    assert main(["ingest", *words, "--out", str(manifest)]) == 0
    uri = f"sqlite:///{folder}/none.db"
    assert main(["validate", *words, "--manifest", str(manifest), "--out", str(validation), "--tracking-uri", uri]) == 0
    return validation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The validations of two sets of data."""
    folder = tmp_path_factory.mktemp("data")
    return [validated(folder, seed) for seed in (1, 2)]


@pytest.fixture
def schedule(data, tracking_uri, tmp_path, monkeypatch):
    """Begin the next run of a schedule on the first or second data; returns whether it trains."""
    numbers = iter(range(1, 100))

    def run(number=0, *words):
        monkeypatch.setenv("SEGLINE_RUN", f"run-{next(numbers)}")
        out = tmp_path / "changed"
        told = ["--params", PARAMS, "--validation", str(data[number]), "--out", str(out)]
        assert main(["changed", *told, "--tracking-uri", tracking_uri, *words]) == 0
        return {"true": True, "false": False}[out.read_text()]

    return run


@pytest.fixture
def judge(tracking_uri):
    """What promote does at its end; a version is registered for it."""

    def end():
        experiment = Experiment(tracking_uri, NAME)
        client = experiment.client
        if not client.search_registered_models(f"name = '{NAME}'"):
            client.create_registered_model(NAME)
        number = int(client.create_model_version(NAME, "file:///nothing").version)
        lines.record_judged(experiment, number)
        return number

    return end


def test_the_first_run_trains_and_the_next_one_only_if_the_first_was_judged(schedule, judge, capsys):
    assert schedule()
    assert schedule()
    judge()
    capsys.readouterr()
    assert not schedule()
    assert "changed: nothing is new: v1 was trained on the same data and judged" in capsys.readouterr().out
    assert not schedule()


def test_other_data_train_and_those_before_are_not_new(schedule, judge, capsys):
    assert schedule(0)
    judge()
    capsys.readouterr()
    assert schedule(1)
    assert "changed: the data are new" in capsys.readouterr().out
    judge()
    assert not schedule(0)
    assert not schedule(1)


@pytest.mark.parametrize(
    "word", ["seed=8", "train.epochs=3", "label.crop=64", "promote.enabled=false", "evaluate.batch_size=3"]
)
def test_another_parameter_trains(schedule, judge, word):
    assert schedule()
    judge()
    assert schedule(0, "--set", word)
    judge()
    assert not schedule(0, "--set", word)
    assert not schedule()


def test_another_list_of_exclusions_trains(schedule, judge, tmp_path):
    assert schedule()
    judge()
    (tmp_path / "list.csv").write_text("key\n")
    assert schedule(0, "--exclusions", str(tmp_path / "list.csv"))
    judge()
    assert not schedule(0, "--exclusions", str(tmp_path / "list.csv"))
    (tmp_path / "list.csv").write_text("key\nother\n")
    assert schedule(0, "--exclusions", str(tmp_path / "list.csv"))


def test_code_and_packages_are_settings(monkeypatch):
    before = changed.settings_hash(Params(), None)
    monkeypatch.setattr(changed.provenance, "environment_hash", lambda: "other packages")
    packages = changed.settings_hash(Params(), None)
    monkeypatch.setattr(changed, "code_hash", lambda names: "other code")
    assert len({before, packages, changed.settings_hash(Params(), None)}) == 3
    assert changed.settings_hash(replace(Params(), train=Train(epochs=2)), None) != before


def test_a_version_that_was_deleted_was_not_judged(schedule, judge, tracking_uri):
    assert schedule()
    Experiment(tracking_uri, NAME).client.delete_model_version(NAME, str(judge()))
    assert schedule()
    assert schedule()


def test_after_a_rollback_nothing_is_new(schedule, judge, tracking_uri):
    experiment = Experiment(tracking_uri, NAME)
    assert schedule(0)
    first = Version(judge(), {})
    assert schedule(1)
    registry.set_alias(experiment, registry.CHAMPION, Version(judge(), {}))
    registry.set_alias(experiment, registry.CHAMPION, first)
    assert not schedule(1)


def record_drift(folder, champion, note, reason):
    """Write what validate records of drift; see tests/stages/test_validate.py."""
    rule = {"rule": "drift", "success": not reason, "reasons": [reason] if reason else []}
    (folder / "validation.json").write_text(
        json.dumps({"rules": [{"rule": "other"}, rule], "drift": {"champion": champion, "note": note}})
    )


@pytest.mark.parametrize(
    ("champion", "note", "reason", "trains", "words"),
    [
        (3, "", "", False, "nothing is new: the data have not drifted from those of champion v3"),
        (3, "", "brightness 0.31", True, "the data have drifted: brightness 0.31"),
        (None, "there is no champion", "", True, "whether they have drifted is not known: there is no champion"),
    ],
)
def test_new_data_train_only_if_they_have_drifted(champion, note, reason, trains, words, tmp_path):
    record_drift(tmp_path, champion, note, reason)
    found, told = changed.decide({"known": 1}, "new", tmp_path, "drift")
    assert found == trains
    assert words in told
    assert changed.decide({"known": 1}, "known", tmp_path, "drift")[0] is False
    assert changed.decide({}, "new", tmp_path, "drift")[0] is True
    assert changed.decide({"known": 1}, "new", tmp_path, "data")[0] is True


def test_what_validate_really_records_of_drift_is_understood(schedule, judge, data, capsys):
    """Without a champion it is not known."""
    record = json.loads((data[0] / "validation.json").read_text())
    assert [rule["success"] for rule in record["rules"] if rule["rule"] == "drift"] == [True]
    assert schedule(0, "--when", "drift")
    judge()
    capsys.readouterr()
    assert schedule(1, "--when", "drift")
    assert "is not known: there is no champion with statistics" in capsys.readouterr().out
    assert not schedule(0, "--when", "drift")


@pytest.fixture
def argo(tmp_path, monkeypatch):
    """A Kubernetes with Argo's records of runs."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("SEGLINE_NAMESPACE", NAMESPACE)
    with kubernetes(tmp_path) as server:
        yield server


def end(run, state, uri, monkeypatch, address):
    monkeypatch.setenv("SEGLINE_WEBHOOK", address)
    status = json.dumps({"state": state, "error": {}})
    assert main(["outcome", "--run", run, "--status", status, "--tracking-uri", uri]) == 0


def test_the_webhook_is_told_that_nothing_was_new(
    argo,
    schedule,
    judge,
    webhook,
    tracking_uri,
    monkeypatch,
    capsys,
):
    """Kubeflow leaves such runs RUNNING; an attempt that was lost and repeated changes nothing."""
    server, bodies = webhook
    lost = (f"{LINE}.train.executor(0)", "Pod", "Error", "pod deleted")
    argo.workflows = [
        flow(lost, *done("train")[:-1], *done("promote"), run="run-1"),
        flow(*done("changed"), run="run-2"),
    ]
    schedule()
    judge()
    end("run-1", "RUNNING", tracking_uri, monkeypatch, server.address)
    schedule()
    end("run-2", "RUNNING", tracking_uri, monkeypatch, server.address)
    assert [body["state"] for body in bodies] == ["SUCCEEDED", "SUCCEEDED"]
    assert bodies[0]["training"].startswith("nothing was judged yet")
    assert bodies[1]["training"].startswith("nothing is new: v1")
    assert "outcome: nothing is new: v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("nodes", "spec", "state"),
    [
        (failing("promote", OOM), {}, "FAILED"),
        (done("promote"), {"shutdown": "Terminate"}, "CANCELED"),
        (None, {}, "FAILED"),
    ],
    ids=["killed", "terminated", "not known"],
)
def test_a_line_that_was_judged_has_not_succeeded_where_argo_says_otherwise(
    nodes,
    spec,
    state,
    argo,
    schedule,
    judge,
    webhook,
    tracking_uri,
    monkeypatch,
):
    server, bodies = webhook
    argo.workflows = [flow(*nodes, spec=spec, run="run-1")] if nodes else []
    schedule()
    judge()
    end("run-1", "RUNNING", tracking_uri, monkeypatch, server.address)
    [body] = bodies
    assert (body["state"], bool(body["reason"])) == (state, True)


def test_a_line_that_was_not_judged_has_not_succeeded(schedule, webhook, tracking_uri, monkeypatch):
    server, bodies = webhook
    schedule()
    end("run-1", "RUNNING", tracking_uri, monkeypatch, server.address)
    assert bodies[0]["state"] != "SUCCEEDED"


def test_in_a_pod_the_question_is_asked_again_where_mlflow_is_away_for_a_moment(data, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setenv("SEGLINE_RETRIES", "3")
    monkeypatch.setattr(attempts, "run", lambda command, words: tried.append((command, words)) or 0)
    words = ["changed", "--params", PARAMS, "--validation", str(data[0]), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert tried == [("changed", words)]
