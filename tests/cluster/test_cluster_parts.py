"""The parts of the tests of a cluster that need more than kubectl: connections, Kubeflow's API, MLflow's API, a log."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from installing import NAMESPACE, Options, make_pod
from kfp_server import kubeflow as kubeflow_server
from kubectl import WAITS_S, Cluster
from kubeflow_pipelines import Kubeflow, stage_of
from network import KUBERNETES, allowed, peer
from servers import free_port, wait_for
from test_cluster_suite import run_for_real
from test_cluster_training import Training
from tracking_server import FILES, Answer, TrackingServer

OPTIONS = Options(registry="segline", tag="7", keep=False, reuse=False, kubeflow="")


class Network:
    """Lets the pods of a fake cluster connect as the policies that were applied to it say."""

    def __init__(self, fake, *, enforces=True):
        self.fake, self.enforces = fake, enforces
        fake.ends = self.end

    def end(self, pod):
        """Return the phase and the log of a pod that tries to connect, or of a server."""
        command = pod["spec"]["containers"][0].get("command", [])
        if not pod["metadata"]["name"].startswith("trial-"):
            return "Running", ""
        return "Succeeded", json.dumps({target: self.outcome(pod, target) for target in command[3:]})

    def outcome(self, pod, target):
        host, _, port = target.rpartition(":")
        policies = [entry | {"kind": "NetworkPolicy"} for entry in self.fake.of("networkpolicies")]
        source = peer(pod["metadata"].get("labels", {}), pod["metadata"]["namespace"])
        is_open = not self.enforces or allowed(policies, source, self.peer_at(host), int(port))
        return "open" if is_open else "closed"

    def peer_at(self, host):
        if host.startswith("kubernetes."):
            return KUBERNETES
        for pod in self.fake.of("pods"):
            if pod.get("status", {}).get("podIP") == host:
                return peer(pod["metadata"].get("labels", {}), pod["metadata"]["namespace"])
        service = self.fake.objects["services", NAMESPACE, host.split(".")[0]]
        return peer(service["spec"]["selector"])


@pytest.mark.slow
def test_the_policies_of_the_small_cluster_are_as_the_tests_of_the_network_expect(fake):
    Network(fake)
    code, said, _ = run_for_real("tests/cluster/test_cluster_network.py")
    assert code == 0, said
    assert "6 passed, 2 skipped" in said
    assert "Kubeflow Pipelines is not installed" in said


@pytest.mark.slow
def test_a_policy_that_is_missing_is_noticed(fake):
    network = Network(fake)
    by_policies = network.outcome
    network.outcome = lambda pod, target: "open" if target.endswith(":5432") else by_policies(pod, target)
    code, said, failed = run_for_real("tests/cluster/test_cluster_network.py")
    assert code == 1
    assert set(failed) == {
        *(f"test_a_pod_reaches_what_it_may_and_nothing_else[{who}]" for who in ("run", "ray", "other")),
        "test_a_pod_of_another_namespace_reaches_nothing",
    }, said


@pytest.mark.slow
def test_a_network_that_enforces_nothing_is_a_reason_to_skip(fake):
    Network(fake, enforces=False)
    code, said, _ = run_for_real("tests/cluster/test_cluster_network.py")
    assert code == 0, said
    assert "does not enforce network policies" in said
    assert "passed" not in said.splitlines()[-1]


@pytest.mark.slow
def test_runs_and_schedules_are_made_by_the_command_line(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    with kubeflow_server(multi_user=True, token="secret") as server:
        cluster = Cluster("kubectl", dict.fromkeys(WAITS_S, 60))
        kubeflow = Kubeflow(cluster, NAMESPACE, server.address, token, OPTIONS)
        run = kubeflow.start()
        assert list(server.runs) == [run]
        assert kubeflow.ask(f"runs/{run}")["run_id"] == run
        code, said = kubeflow.pipelines("schedule", "--cron", "0 * * * * *", "--name", "trial")
        assert code == 0, said
        code, listed = kubeflow.pipelines("list")
        assert code == 0, listed
        assert "  trial  '0 * * * * *'  enabled" in listed
        assert listed.split("schedule ")[1].split()[0] in server.recurring_runs
        (made,) = server.runs.values()
        assert json.loads(made["runtime_config"]["parameters"]["train"])["epochs"] == 2


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (
            ["/argoexec", "--", "/launch", "--pipeline_name", "segline", "--run_id", "1", "--", "segline", "train"],
            "train",
        ),
        (["/launch", "--pipeline_name", "segline", "--run_id", "1"], ""),
        (["/launch", "--", "segline", "outcome", "--status", "{}"], "outcome"),
        (["driver", '{"command": ["segline", "train"]}'], ""),
    ],
)
def test_a_pod_tells_its_stage(words, stage):
    wait = {"name": "wait", "command": ["argoexec", "wait"]}
    assert (
        stage_of({"spec": {"containers": [wait, {"name": "main", "command": words[:2], "args": words[2:]}]}}) == stage
    )


@pytest.mark.slow
def test_models_and_files_are_asked_from_mlflow(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [f"--backend-store-uri=sqlite:///{tmp_path}/mlflow.db", f"--artifacts-destination={tmp_path}/files"]
    command += ["--allowed-hosts=localhost:5000"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(port, process)
        server = TrackingServer(f"http://127.0.0.1:{port}")
        assert server.send("GET", "/health") == b"OK"
        with pytest.raises(Answer, match="403"):
            server.send("GET", "/api/2.0/mlflow/experiments/search?max_results=1", host="elsewhere.example.org")
        assert not server.knows("trial")
        assert server.champion("trial") is None
        assert server.number_of_runs("trial") == 0
        server.ask("POST", "registered-models/create", name="trial")
        assert server.knows("trial")
        assert server.champion("trial") is None
        made = server.ask("POST", "experiments/create", name="trial")["experiment_id"]
        run = server.ask("POST", "runs/create", experiment_id=made)["run"]["info"]
        version = {"name": "trial", "run_id": run["run_id"], "source": f"{run['artifact_uri']}/model"}
        server.ask("POST", "model-versions/create", **version)
        server.ask("POST", "registered-models/alias", name="trial", alias="champion", version="1")
        assert server.champion("trial") == "1"
        assert server.number_of_runs("trial") == 1
        server.send("PUT", f"{FILES}/trial/weights.bin", b"weights")
        assert server.send("GET", f"{FILES}/trial/weights.bin") == b"weights"
        server.ask("DELETE", "registered-models/delete", name="trial")
        assert not server.knows("trial")
    finally:
        process.terminate()
        process.wait(60)


def test_a_line_is_waited_for_in_the_log_of_a_training(fake):
    fake.add("namespaces", {"metadata": {"name": NAMESPACE}})
    training = Training(Cluster(shutil.which("kubectl"), dict.fromkeys(WAITS_S, 2)), NAMESPACE, "segline/train:7")
    fake.ends = lambda _: ("Running", "train: RayJob made\n")
    pod = training.follow()
    assert re.fullmatch(r"train-tests-[0-9a-f]{8}-1", pod)
    assert "RayJob made" in training.wait_for_line(pod, "RayJob made")
    fake.objects["pods", NAMESPACE, pod]["status"]["phase"] = "Failed"
    with pytest.raises(
        pytest.fail.Exception, match=r"ended \(Failed\) without a line with 'done'; its log:\ntrain: RayJob"
    ):
        training.wait_for_line(pod, "done")
    fake.add("rayjobs", {"metadata": {"name": "job", "labels": {"segline/run": training.run}}}, NAMESPACE)
    assert training.rayjobs()
    training.end()
    assert training.rayjobs() == []
    assert fake.of("pods") == []


def test_the_pod_of_a_training_has_what_train_needs(fake):
    fake.add("namespaces", {"metadata": {"name": NAMESPACE}})
    training = Training(Cluster(shutil.which("kubectl")), NAMESPACE, "segline/train:7")
    fake.ends = lambda _: ("Running", "")
    training.follow()
    (pod,) = fake.of("pods")
    (container,) = pod["spec"]["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert pod["spec"]["serviceAccountName"] == "segline-pipeline"
    assert values["SEGLINE_IMAGE"] == container["image"] == "segline/train:7"
    done = subprocess.run(
        [sys.executable, "-m", "segline.cli", "train", "--params", values["PARAMS"], "--plan", "--dataset", "/nowhere"],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    # The parameters are right; only the dataset is missing.
    assert done.returncode != 2, done.stderr
    assert make_pod("a", "b", ["c"])["spec"]["automountServiceAccountToken"] is False
