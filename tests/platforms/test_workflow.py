"""How a run ended, from Workflows as Argo writes them for Kubeflow 2.17, by a server that speaks Kubernetes' API."""

import base64
import gzip
import json

import pytest
from kubernetes_api import NAMESPACE, Fault, Pod, kubernetes
from servers import serving

from segline.cli import main
from segline.files import retry
from segline.platforms import attempts
from segline.platforms import workflow as workflow_module
from segline.platforms.kubernetes import PERMISSIONS
from segline.tracking.client import Experiment
from segline.tracking.runs import start_run

RUN = "6d1c1c6a-6b1e-4c8f-9d5e-2d7f5b8f0a11"
NAME = "segline-x7k2p"
LINE = "root.exit-handler-1"
RUNNING = json.dumps({"state": "RUNNING", "pipelineTaskName": "exit-handler-1", "error": {}})
OOM = "main: OOMKilled (exit code 137)"
EVICTED = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 41Mi. "
DEADLINE = "Pod was active on the node longer than the specified deadline"
LAUNCHER = "F1128 10:12:13.114211       1 main.go:57] failed to execute component: exit status 4"


def flow(*nodes, spec=None, run=RUN):
    """Return a Workflow of nodes, each (path, type, phase, message) in the order of their begin."""
    entries = {}
    for number, (path, kind, phase, message) in enumerate(nodes):
        name = f"{NAME}.{path}"
        entries[f"{NAME}-{1000 + number}"] = {
            "id": f"{NAME}-{1000 + number}",
            "name": name,
            "displayName": path.rpartition(".")[2],
            "type": kind,
            "phase": phase,
            "startedAt": f"2026-11-28T10:{number:02}:00Z",
            **({"message": message} if message else {}),
        }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"pipeline/runid": run}},
        "spec": {"entrypoint": "entrypoint"} | (spec or {}),
        "status": {"phase": "Running", "nodes": entries},
    }


def done(stage):
    return [
        (f"{LINE}.{stage}-driver", "Pod", "Succeeded", ""),
        (f"{LINE}.{stage}", "DAG", "Succeeded", ""),
        (f"{LINE}.{stage}.executor", "Retry", "Succeeded", ""),
        (f"{LINE}.{stage}.executor(0)", "Pod", "Succeeded", ""),
    ]


def failing(stage, *messages, phase="Failed"):
    """Return the nodes of a stage, each attempt of which fails with a message."""
    attempts = [(f"{LINE}.{stage}.executor({n})", "Pod", phase, text) for n, text in enumerate(messages)]
    return [
        *done(stage)[:1],
        (f"{LINE}.{stage}", "DAG", "Failed", ""),
        (f"{LINE}.{stage}.executor", "Retry", "Failed", "No more retries left"),
        *attempts,
        # What comes after it, and the exit handler itself.
        (f"{LINE}.promote-driver", "Skipped", "Omitted", "omitted: depends condition not met"),
        (LINE, "DAG", "Failed", ""),
        (f"{LINE}.onExit", "DAG", "Running", ""),
        (f"{LINE}.onExit.outcome-driver", "Pod", "Succeeded", ""),
        (f"{LINE}.onExit.outcome.executor(0)", "Pod", "Running", ""),
    ]


@pytest.fixture
def kube(tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(workflow_module, "PATIENCE_S", 0.05)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("SEGLINE_NAMESPACE", NAMESPACE)
    with kubernetes(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """The address of an MLflow with a run of the pipeline's run, and a function that returns its state."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLINE_RUN", RUN)
        experiment = Experiment(uri, "streets")
        ours = start_run(experiment, "a", "grid", {}, {})
    return uri, lambda: experiment.client.get_run(ours).data.tags["segline.pipeline_state"]


@pytest.fixture
def conclude(kube, tracked, monkeypatch, capsys):
    """Conclude a run of which a webhook and MLflow are told; returns what they got, and the line that is shown."""
    bodies = []

    def answer(handler):
        bodies.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
        return 200, {}, b""

    uri, tagged = tracked
    with serving(answer) as server:
        monkeypatch.setenv("SEGLINE_WEBHOOK", server.address)

        def run(status=RUNNING, code=0):
            assert main(["outcome", "--run", RUN, "--status", status, "--tracking-uri", uri]) == code
            [body] = bodies
            assert tagged() == body["state"]
            return body, capsys.readouterr().out

        yield run


def add_pod(kube, path, *lines, **more):
    """Add the pod of a node."""
    labels, annotations = (
        {"workflows.argoproj.io/workflow": NAME},
        {"workflows.argoproj.io/node-name": f"{NAME}.{path}"},
    )
    kube.pods[f"pod-{len(kube.pods)}"] = Pod(
        labels,
        "2026-11-28T10:00:00Z",
        "Failed",
        [("2026-11-28T10:00:00.000000000Z", line) for line in lines],
        annotations,
        container="main",
        **more,
    )


def test_the_memory_of_a_pod(kube, conclude):
    kube.workflows = [flow(*done("label"), *failing("train", OOM, OOM))]
    body, shown = conclude()
    assert body == {"run": RUN, "state": "FAILED", "error": "", "stage": "train", "reason": OOM}
    assert f"outcome: run {RUN} FAILED in train: {OOM}" in shown


@pytest.mark.parametrize(("word", "message"), [("Evicted", EVICTED), ("DeadlineExceeded", DEADLINE)])
def test_an_eviction_and_a_deadline_are_named_as_kubernetes_does(kube, conclude, word, message):
    kube.workflows = [flow(*failing("evaluate", message))]
    add_pod(kube, f"{LINE}.evaluate.executor(0)", reason=word)
    body, _ = conclude()
    assert (body["state"], body["stage"]) == ("FAILED", "evaluate")
    assert body["reason"] == f"{word}: {message.strip()}"


def test_a_lost_node_leaves_no_pod(kube, conclude):
    kube.workflows = [flow(*failing("label", "pod deleted", phase="Error"))]
    body, _ = conclude()
    assert body["stage"] == "label"
    assert body["reason"] == "pod deleted: its node was lost, or somebody deleted it"


@pytest.mark.parametrize("kind", ["Pod", "Plugin"])
def test_a_driver_that_failed(kube, conclude, kind):
    text = "main: Error (exit code 1)"
    kube.workflows = [flow(*done("train"), (f"{LINE}.evaluate-driver", kind, "Failed", text))]
    if kind == "Pod":
        add_pod(kube, f"{LINE}.evaluate-driver", "I1128 driver starts", "F1128 main.go:79] KFP driver: no metadata")
    body, _ = conclude()
    assert (body["state"], body["stage"]) == ("FAILED", "evaluate")
    last = "; F1128 main.go:79] KFP driver: no metadata" if kind == "Pod" else ""
    assert body["reason"] == f"Kubeflow's driver failed; {text}{last}"


def test_the_driver_of_the_run_belongs_to_no_stage(kube, conclude):
    kube.workflows = [flow(("root-driver", "Pod", "Error", "pod deleted"))]
    body, shown = conclude()
    assert (body["state"], body["stage"]) == ("FAILED", "")
    assert body["reason"].startswith("Kubeflow's driver failed; pod deleted")
    assert f"run {RUN} FAILED: Kubeflow's driver failed" in shown


def test_a_stage_that_failed_tells_its_exit_code_and_its_error(kube, conclude):
    kube.workflows = [flow(*failing("label", "main: Error (exit code 1)", "main: Error (exit code 1)"))]
    add_pod(kube, f"{LINE}.label.executor(0)", "segline label: the first attempt", LAUNCHER)
    error = "segline label: data/ingest: 3 masks are broken; look at s3://key:Hush7@bucket/x"
    add_pod(kube, f"{LINE}.label.executor(1)", "label: 4 of 9", error, *["noise"] * 60, LAUNCHER)
    body, _ = conclude(json.dumps({"state": "FAILED", "error": {}}))
    assert (body["state"], body["stage"]) == ("FAILED", "label")
    assert body["reason"].startswith(
        "main: Error (exit code 1); exit code 4 of the stage; segline label: data/ingest: 3"
    )
    assert "Hush7" not in body["reason"]


@pytest.fixture
def give_up(tmp_path, monkeypatch, capsys):
    """``give_up(marks)`` runs a pod of label after pods that left marks; it returns what Segline logs, and its mark."""
    monkeypatch.setattr(attempts, "CHILD", "import sys; sys.exit(4)")
    monkeypatch.setattr(attempts, "MARK_FILE", tmp_path / "termination-log")

    def run(marks):
        ended = [{"state": {"terminated": {"exitCode": 1, "message": text}}} for text in marks]
        pods = [{"metadata": {"name": f"pod-{n}"}, "status": {"containerStatuses": [c]}} for n, c in enumerate(ended)]
        (tmp_path / "termination-log").write_text("")
        with monkeypatch.context() as patch:
            patch.setattr(attempts, "_pods", lambda _: pods)
            for name in ("SEGLINE_RUN", "KUBERNETES_SERVICE_HOST"):
                patch.setenv(name, "here")
            patch.setenv("SEGLINE_RETRIES", "3")
            assert attempts.run("label", ["label"]) == 4
        return capsys.readouterr().err.splitlines(), (tmp_path / "termination-log").read_text()

    return run


@pytest.mark.parametrize("lost", [[], [EVICTED]], ids=["", "one was lost"])
def test_a_stage_that_gave_up_is_the_reason_and_not_the_pods_after_it(lost, kube, conclude, give_up):
    """With ``retryPolicy: Always``, as the page advises, Argo starts more pods; each finds the mark of the first."""
    _, mark = give_up([])
    logs, later = zip(*(give_up([mark] * number) for number in (1, 2)), strict=True)
    assert all("pod pod-0 gave up with exit code 4" in log[0] for log in logs)
    messages = [OOM, *(f"main: Error (exit code 1): {text}" for text in (mark, *later))]
    kube.workflows = [flow(*failing("label", *messages, *lost))]
    for number, log in enumerate((["segline label: 3 masks are broken"], *logs), 1):
        add_pod(kube, f"{LINE}.label.executor({number})", *log, LAUNCHER)
    body, _ = conclude()
    assert body["reason"] == "main: Error (exit code 1); exit code 4 of the stage; segline label: 3 masks are broken"


def test_the_mark_tells_the_exit_code_where_the_pods_are_gone(kube, conclude):
    message = f"main: Error (exit code 1): {attempts.mark('train', '6')}"
    kube.workflows = [flow(*failing("train", message, message))]
    assert conclude()[0]["reason"] == "main: Error (exit code 1); exit code 6 of the stage"


def test_the_end_of_the_log_in_argos_message_is_read_too(kube, conclude):
    """As the termination message of a container, which later versions of Kubeflow let fall back to the log."""
    message = f"main: Error (exit code 1): label: 4 of 9\nsegline label: 3 masks are broken\n{LAUNCHER}\n"
    kube.workflows = [flow(*failing("label", message))]
    body, _ = conclude()
    assert body["reason"] == (
        "main: Error (exit code 1): label: 4 of 9; exit code 4 of the stage; segline label: 3 masks are broken"
    )


def test_a_stage_of_a_group_with_a_condition(kube, conclude):
    """As ``--when-changed`` compiles; the task ``changed`` writes no artifact."""
    group = f"{LINE}.condition-1"
    kube.workflows = [
        flow(
            *done("changed"),
            (f"{group}-driver", "Pod", "Succeeded", ""),
            (f"{group}.train.executor(0)", "Pod", "Failed", OOM),
        )
    ]
    assert conclude()[0]["stage"] == "train"


@pytest.mark.parametrize("path", [f"{LINE}.changed-driver", f"{LINE}.changed.executor(0)"])
def test_a_task_that_writes_no_artifact(kube, conclude, path):
    kube.workflows = [flow(*done("validate"), (path, "Pod", "Failed", OOM))]
    assert conclude()[0]["stage"] == "changed"


@pytest.mark.parametrize("spec", [{"activeDeadlineSeconds": 0}, {"shutdown": "Terminate"}])
def test_a_run_that_somebody_terminated(kube, conclude, spec):
    kube.workflows = [flow(*failing("train", "Step exceeded its deadline"), spec=spec)]
    body, shown = conclude()
    assert (body["state"], body["stage"]) == ("CANCELED", "train")
    assert body["reason"] == "the run was terminated; Step exceeded its deadline"
    assert f"{RUN} CANCELED in train" in shown


def test_a_deadline_of_the_pipeline_is_no_termination(kube, conclude):
    kube.workflows = [flow(*failing("train", "Step exceeded its deadline"), spec={"activeDeadlineSeconds": 3600})]
    assert conclude()[0]["state"] == "FAILED"


def test_kubeflows_own_word_for_a_termination(kube, conclude):
    kube.workflows = [flow(*done("ingest"))]
    body, _ = conclude(json.dumps({"state": "CANCELED"}))
    assert (body["state"], body["stage"]) == ("CANCELED", "ingest")


@pytest.mark.parametrize("state", ["COMPLETE", "SUCCEEDED"])
def test_a_success_asks_nothing(kube, conclude, state):
    kube.workflows = [flow(*done("promote"))]
    body, shown = conclude(json.dumps({"state": state, "error": {}}))
    assert body == {"run": RUN, "state": "SUCCEEDED", "error": "", "stage": "", "reason": ""}
    assert shown.endswith(f"outcome: run {RUN} SUCCEEDED\n")
    assert kube.done == set()


def test_an_attempt_that_was_repeated_is_not_the_reason(kube, conclude):
    first = [(f"{LINE}.train.executor(0)", "Pod", "Error", "pod deleted"), *done("train")]
    kube.workflows = [flow(*first, *failing("evaluate", OOM))]
    body, _ = conclude()
    assert (body["stage"], body["reason"]) == ("evaluate", OOM)


def test_without_a_step_that_failed_it_is_no_success_either(kube, conclude):
    kube.workflows = [flow(*done("ingest"), *done("validate"))]
    body, _ = conclude()
    assert (body["state"], body["stage"]) == ("FAILED", "validate")
    assert body["reason"] == ("the reason is unknown: Kubeflow's status is RUNNING, and no step of the run has failed")


def test_a_large_workflow_is_compressed(kube, conclude):
    large = flow(*failing("train", OOM))
    packed = base64.b64encode(gzip.compress(json.dumps(large["status"].pop("nodes")).encode())).decode()
    large["status"]["compressedNodes"] = packed
    kube.workflows = [flow(*failing("label", "other"), run="another"), large]
    assert conclude()[0]["reason"] == OOM


def test_an_outage_that_passes_is_waited_for(kube, conclude, monkeypatch):
    monkeypatch.setattr(workflow_module, "PATIENCE_S", 60)
    kube.faults = [Fault(verb="list", resource="workflows", status=503), Fault(verb="list", resource="workflows")]
    kube.workflows = [flow(*failing("train", OOM))]
    assert conclude()[0]["reason"] == OOM


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda kube: kube.forbidden.add(("list", "workflows")), "needs the Role of k8s/base/accounts.yaml"),
        (lambda kube: setattr(kube, "is_down", True), "Kubernetes does not list Workflows"),
        (lambda kube: kube.workflows.clear(), f"has no Workflow of the run {RUN!r}"),
        (lambda kube: kube.faults.extend([Fault(verb="list", resource="workflows", text="[]")] * 99), "not JSON"),
        (lambda kube: kube.workflows[0]["status"].update(compressedNodes="?"), "could not be read"),
    ],
)
def test_a_reason_that_cannot_be_had_is_unknown(kube, conclude, spoil, why):
    kube.workflows = [flow(*failing("train", OOM))]
    spoil(kube)
    body, shown = conclude()
    assert (body["state"], body["stage"]) == ("FAILED", "")
    assert body["reason"].startswith("the reason is unknown: ")
    assert why in body["reason"]
    assert f"{RUN} FAILED: the reason is unknown" in shown


@pytest.mark.parametrize("right", [("list", "pods"), ("get", "pods/log")])
def test_what_argo_says_is_told_without_the_rest(kube, conclude, right):
    kube.forbidden.add(right)
    kube.workflows = [flow(*failing("train", OOM))]
    add_pod(kube, f"{LINE}.train.executor(0)", "segline train: out of memory")
    assert conclude()[0]["reason"] == OOM


def test_the_role_permits_the_requests(kube, conclude):
    kube.workflows = [flow(*failing("train", OOM))]
    add_pod(kube, f"{LINE}.train.executor(0)", "segline train: out of memory")
    assert conclude()[0]["reason"] == f"{OOM}; segline train: out of memory"
    assert kube.done == {("list", "workflows"), ("list", "pods"), ("get", "pods/log")}
    assert kube.done <= {(verb, resource) for resource, verbs in PERMISSIONS.items() for verb in verbs}
