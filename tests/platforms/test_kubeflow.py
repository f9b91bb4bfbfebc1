"""What Kubeflow is told: the executor output of real stages, and the outcome of a run, to a real server."""

import json
from pathlib import Path

import pytest
from servers import serving

from segline.artifacts.manifest import read_manifest
from segline.cli import main
from segline.errors import StageError
from segline.files.hashing import tree_hash
from segline.files.retry import LONGEST_PAUSE_S
from segline.platforms import kubeflow, rayjob, webhooks, workflow
from segline.platforms.kubernetes import TIMEOUTS_S
from segline.tracking import runs
from segline.tracking.client import Experiment
from segline.tracking.runs import start_run

PARAMS = json.dumps(
    {
        "ingest": {"synthetic": {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}},
        "validate": {"min_pairs": 2},
    }
)


def artifact(name, kind, uri):
    return {"artifacts": [{"name": name, "uri": str(uri), "type": {"schemaTitle": kind, "schemaVersion": "0.0.1"}}]}


def executor_input(folder, artifacts, parameters=()):
    return json.dumps(
        {
            "inputs": {},
            "outputs": {
                "artifacts": artifacts,
                "parameters": {name: {"outputFile": str(folder / name)} for name in parameters},
                "outputFile": str(folder / "told" / "executor_output.json"),
            },
        }
    )


def told(folder):
    return json.loads((folder / "told" / "executor_output.json").read_text())


@pytest.fixture(scope="module")
def manifest_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    given = executor_input(folder, {"out": artifact("out", "system.Dataset", folder / "out")}, ["out_hash"])
    assert main(["ingest", "--params", PARAMS, "--out", str(folder / "out"), "--executor-input", given]) == 0
    return folder


def test_ingest_tells_the_hash_of_the_data_and_what_they_are(manifest_dir):
    answer = told(manifest_dir)
    manifest = read_manifest(manifest_dir / "out")
    assert answer["parameterValues"] == {"out_hash": tree_hash(manifest_dir / "out")}
    (out,) = answer["artifacts"]["out"]["artifacts"]
    assert out["uri"] == str(manifest_dir / "out")
    assert out["metadata"]["content_hash"] == manifest.content_hash
    assert out["metadata"]["pairs"] == len(manifest.rows)
    assert out["metadata"]["source"] == "synthetic:"


def test_kubeflow_itself_can_read_the_answer(manifest_dir):
    pytest.importorskip("kfp")
    from kfp.local.executor_output_utils import load_executor_output

    answer = load_executor_output(str(manifest_dir / "told" / "executor_output.json"))
    assert answer.parameter_values["out_hash"].string_value == tree_hash(manifest_dir / "out")
    assert answer.artifacts["out"].artifacts[0].metadata.fields["layout"].string_value == "wad"


def test_validate_places_its_page(manifest_dir, tmp_path):
    artifacts = {
        "out": artifact("out", "system.Dataset", tmp_path / "out"),
        "docs": artifact("docs", "system.HTML", tmp_path / "elsewhere" / "docs"),
    }
    words = ["validate", "--params", PARAMS, "--manifest", str(manifest_dir / "out"), "--out", str(tmp_path / "out")]
    uri = f"sqlite:///{tmp_path}/none.db"
    assert main([*words, "--tracking-uri", uri, "--executor-input", executor_input(tmp_path, artifacts)]) == 0
    page = (tmp_path / "elsewhere" / "docs").read_bytes()
    assert page == (tmp_path / "out" / "docs" / "index.html").read_bytes()
    assert told(tmp_path)["artifacts"]["docs"]["artifacts"][0]["metadata"] == {}


def test_metrics_are_the_finite_numbers(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    scores = {"a": {"miou": 0.5}, "b": {"miou": float("nan")}}
    (out / "metrics.json").write_text(json.dumps(scores))
    kubeflow.report("evaluate", out, executor_input(tmp_path, {"metrics": artifact("m", "system.Metrics", "s3://b/m")}))
    (metrics,) = told(tmp_path)["artifacts"]["metrics"]["artifacts"]
    assert metrics["metadata"] == {"a_val_miou": 0.5}


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://b/k", "/s3/b/k"),
        ("minio://b/k", "/minio/b/k"),
        ("gs://b/k", "/gcs/b/k"),
        ("/folder/s3://b", "/folder/s3://b"),
    ],
)
def test_an_artifact_lies_where_kubeflow_says(uri, path):
    kfp = pytest.importorskip("kfp")
    assert str(kubeflow._local(uri)) == str(Path(path))
    if "://" in uri[:8]:
        assert kfp.dsl.Dataset(uri=uri).path == path


def test_what_is_no_executor_input_is_refused(tmp_path):
    with pytest.raises(StageError, match="not Kubeflow's executor input"):
        kubeflow.report("ingest", tmp_path, '{"outputs": 3}')


STATUS = json.dumps({"state": "FAILED", "pipelineTaskName": "line", "error": {"message": "train failed"}})


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    """These tests have no Kubernetes, whatever the machine has."""
    for variable in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "SEGLINE_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)


def test_the_webhook_is_called_before_the_time_of_the_exit_handler_is_over():
    """Even if Kubernetes and MLflow are silent: the pod has a minute to begin."""
    pytest.importorskip("kfp")
    from pipelines.training import LIMIT_S

    silence = sum(TIMEOUTS_S)
    removal = rayjob.CLEAN_UP_S + LONGEST_PAUSE_S + silence
    requests = 1 + kubeflow.MLFLOW_PATIENCE["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    line = 3 * requests * kubeflow.MLFLOW_PATIENCE["MLFLOW_HTTP_REQUEST_TIMEOUT"]  # two searches, and one to connect
    ending = workflow.PATIENCE_S + LONGEST_PAUSE_S + 3 * silence  # the Workflow, the pods, a log
    assert 60 + removal + line + ending + webhooks.DEADLINE_S < LIMIT_S["outcome"]


def test_an_mlflow_that_does_not_answer_is_asked_twice_before_the_webhook_is_called(monkeypatch):
    """Whatever the environment says."""
    asked = []

    def answer(handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        asked.append(handler.path)
        return 503, {}, b""

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with serving(answer) as server:
        assert kubeflow._line_end(server.address, "run-1") is None
    assert len(asked) == 2


def test_the_outcome_is_told_and_the_runs_are_tagged(webhook, tmp_path, monkeypatch, capsys):
    server, bodies = webhook
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = Experiment(uri, "streets")
    monkeypatch.setenv("SEGLINE_RUN", "run-1")
    ours = start_run(experiment, "a", "grid", {}, {})
    monkeypatch.setenv("SEGLINE_RUN", "run-2")
    other = start_run(experiment, "b", "grid", {}, {})
    monkeypatch.setenv("SEGLINE_WEBHOOK", server.address)
    assert main(["outcome", "--run", "run-1", "--status", STATUS, "--tracking-uri", uri]) == 0
    [body] = bodies
    reason = body.pop("reason")
    assert body == {"run": "run-1", "state": "FAILED", "error": "train failed", "stage": ""}
    assert reason.startswith("the reason is unknown: no way to Kubernetes")
    assert experiment.client.get_run(ours).data.tags["segline.pipeline_state"] == "FAILED"
    assert "segline.pipeline_state" not in experiment.client.get_run(other).data.tags
    assert "run-1 FAILED: train failed" in capsys.readouterr().out


def test_a_webhook_that_fails_is_named_and_the_rest_is_done(tmp_path, monkeypatch, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("SEGLINE_RUN", "run-1")
    run = start_run(Experiment(uri, "streets"), "a", "grid", {}, {})
    monkeypatch.setenv("SEGLINE_WEBHOOK", "http://127.0.0.1:9/")
    assert main(["outcome", "--run", "run-1", "--status", STATUS, "--tracking-uri", uri]) == StageError.exit_code
    assert "SEGLINE_WEBHOOK" in capsys.readouterr().err
    assert Experiment(uri, "streets").client.get_run(run).data.tags["segline.pipeline_state"] == "FAILED"


def test_the_cluster_is_removed_before_anything_is_told(webhook, tmp_path, monkeypatch):
    server, bodies = webhook
    monkeypatch.setenv("SEGLINE_RUN", "run-1")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = start_run(Experiment(uri, "streets"), "a", "grid", {}, {})
    removed = []

    def remove(name):
        assert bodies == []
        removed.append(name)
        raise StageError(f"the RayJob of {name} stays")

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(rayjob, "delete", remove)
    with pytest.raises(StageError, match="the RayJob of run-1 stays"):
        kubeflow.conclude("run-1", STATUS, uri, server.address)
    assert removed == ["run-1"]
    assert len(bodies) == 1
    assert Experiment(uri, "streets").client.get_run(run).data.tags["segline.pipeline_state"] == "FAILED"


def test_no_error_of_a_task_prevents_the_others(webhook, monkeypatch, capsys):
    server, bodies = webhook
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SEGLINE_WEBHOOK", server.address)
    monkeypatch.setattr(rayjob, "delete", lambda name: 1 / 0)
    monkeypatch.setattr(runs, "tag_pipeline_runs", lambda *_: [][0])
    assert main(["outcome", "--run", "run-1", "--status", "null"]) == StageError.exit_code
    [line] = capsys.readouterr().err.splitlines()
    assert "the RayJob of the run could not be removed (ZeroDivisionError)" in line
    assert "the MLflow runs could not be tagged (IndexError)" in line
    assert "'null' is not a final status" in line
    [body] = bodies
    reason = body.pop("reason")
    assert body == {"run": "run-1", "state": "FAILED", "error": "", "stage": ""}
    assert reason.startswith("the reason is unknown: ")


def test_a_status_that_is_none_is_refused(tmp_path, capsys):
    assert main(["outcome", "--run", "r", "--status", "done", "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) != 0
    assert "not a final status" in capsys.readouterr().err


def test_the_runs_of_the_line_are_children_of_the_one_that_kubeflow_began(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    host = start_run(Experiment(uri, "kubeflow"), "host", "pipeline", {}, {})
    monkeypatch.setenv("MLFLOW_RUN_ID", host)
    experiment = Experiment(uri, "streets")
    run = experiment.client.get_run(start_run(experiment, "a", "grid", {}, {}))
    assert run.data.tags["mlflow.parentRunId"] == host
    assert run.info.experiment_id == experiment.client.get_run(host).info.experiment_id


def test_a_run_that_is_on_another_server_is_no_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    experiment = Experiment(f"sqlite:///{tmp_path}/mlflow.db", "streets")
    run = experiment.client.get_run(start_run(experiment, "a", "grid", {}, {}))
    assert "mlflow.parentRunId" not in run.data.tags


def test_the_run_of_the_environment_is_concluded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGLINE_RUN", "run-3")
    older = json.dumps({"state": "COMPLETE", "error": {}})
    assert main(["outcome", "--status", older, "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    assert "run run-3 SUCCEEDED" in capsys.readouterr().out
