"""The tests of a cluster themselves, by a server that kubectl takes for one: what they accept, and what they find."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from fake_cluster import fake_cluster
from installing import MADE, NAMESPACE, ROOT, Options, make_pod, overlay
from kubectl import WAITS_S, Cluster, Refused, describe

HERE = "tests/cluster"


@pytest.fixture
def kubectl(fake):
    fake.add("namespaces", {"metadata": {"name": NAMESPACE}})
    return Cluster(shutil.which("kubectl"), dict.fromkeys(WAITS_S, 0.5))


def run(*words, **environment):
    """Run tests of a cluster in another process, and return the exit code, what was said, and each test that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider", *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEGLINE_CLUSTER")}
    done = subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True)
    return done.returncode, done.stdout, re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)


def run_for_real(*words, **environment):
    waits = {f"SEGLINE_CLUSTER_WAIT_{name.upper()}": "2" for name in WAITS_S}
    return run(*words, SEGLINE_CLUSTER_TESTS="1", **waits, **environment)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"KUBECONFIG": ""}, "KUBECONFIG is not set"),
        ({"KUBECONFIG": "/nowhere", "SEGLINE_CLUSTER_TESTS": "1"}, "KUBECONFIG names /nowhere, which is no file"),
        ({"KUBECONFIG": __file__}, "`make test-cluster` runs them"),
    ],
)
def test_without_a_cluster_every_test_says_why_it_is_skipped(environment, reason):
    code, said, _ = run(HERE, "--ignore-glob=*_suite.py", "--ignore-glob=*_parts.py", **environment)
    assert code == 0, said
    assert re.fullmatch(r"\d+ skipped in .*", said.splitlines()[-1])
    skipped = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if reason not in line] == []
    assert skipped


def test_a_cluster_that_does_not_answer_is_a_failure(tmp_path):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    with fake_cluster(tmp_path) as (_, path):
        pass
    code, said, failed = run_for_real(f"{HERE}/test_cluster_rights.py", "-k", "other_accounts", KUBECONFIG=str(path))
    assert code == 1
    assert failed
    assert "does not answer: kubectl get namespace kube-system" in said


@pytest.mark.slow
def test_the_tests_pass_in_a_good_cluster_and_leave_nothing(fake):
    for name in ("rayjobs.ray.io", "workflows.argoproj.io", "workflowtaskresults.argoproj.io"):
        fake.add("customresourcedefinitions", {"metadata": {"name": name}})
    before = {key: entry["metadata"]["name"] for key, entry in fake.objects.items()}
    code, said, _ = run_for_real(f"{HERE}/test_cluster_manifests.py", f"{HERE}/test_cluster_rights.py")
    assert code == 0, said
    assert " failed" not in said
    assert {key: entry["metadata"]["name"] for key, entry in fake.objects.items()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "tests"),
    [
        ("pods", ("test_an_unsafe_pod",)),
        ("quota", ("test_the_quota", "test_no_service")),
        ("rights", ("test_the_other",)),
    ],
)
def test_a_cluster_without_a_rule_is_noticed(fake, rule, tests):
    fake.add("customresourcedefinitions", {"metadata": {"name": "rayjobs.ray.io"}})
    fake.enforced.remove(rule)
    file = "test_cluster_rights.py" if rule == "rights" else "test_cluster_manifests.py"
    code, said, failed = run_for_real(f"{HERE}/{file}", "-k", " or ".join(tests))
    assert code == 1
    assert len(failed) == int(re.search(r"(\d+) failed", said)[1]) > 1
    assert "passed" not in said.splitlines()[-1], said
    assert "the namespace segline" in said


@pytest.mark.parametrize("labels", [{}, {"app.kubernetes.io/part-of": "segline"}])
def test_a_namespace_of_somebody_is_left_alone(fake, labels):
    fake.add("namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    fake.add("pods", make_pod("theirs", "theirs", ["true"]), NAMESPACE)
    before = set(fake.objects)
    code, said, _ = run_for_real(f"{HERE}/test_cluster_manifests.py", "-k", "accepts_the_overlay")
    assert code == 1
    assert "was not made by these tests, so nothing was changed" in said
    assert set(fake.objects) == before


@pytest.mark.slow
def test_what_was_kept_is_made_anew_the_next_time(fake):
    words = (f"{HERE}/test_cluster_manifests.py", "-k", "test_every_server_starts")
    code, said, _ = run_for_real(*words, SEGLINE_CLUSTER_KEEP="1")
    assert code == 0, said
    (kept,) = [entry for entry in fake.of("namespaces") if entry["metadata"]["name"] == NAMESPACE]
    assert kept["metadata"]["labels"][MADE] == "true"
    fake.add("configmaps", {"metadata": {"name": "left"}}, NAMESPACE)
    assert run_for_real(*words)[0] == 0
    assert [key for key in fake.objects if NAMESPACE in key] == []


@pytest.mark.slow
def test_an_installation_is_tested_as_it_is(fake):
    fake.add("namespaces", {"metadata": {"name": NAMESPACE}})
    words = (f"{HERE}/test_cluster_manifests.py", "-k", "every_server or second_apply")
    code, said, _ = run_for_real(*words, SEGLINE_CLUSTER_REUSE="1")
    assert code == 1
    assert "but segline has no deployment mlflow" in said
    labels = {"app": "mlflow"}
    spec = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
    }
    fake.add("deployments", {"metadata": {"name": "mlflow"}, "spec": spec}, NAMESPACE)
    before = set(fake.objects)
    code, said, _ = run_for_real(*words, SEGLINE_CLUSTER_REUSE="1")
    assert code == 0, said
    assert "1 passed, 1 skipped" in said
    assert set(fake.objects) == before


@pytest.mark.slow
def test_an_image_that_the_nodes_lack_is_a_reason_to_skip(fake):
    fake.absent = ("example.org/line/mlflow:7",)
    environment = {"SEGLINE_CLUSTER_REGISTRY": "example.org/line", "SEGLINE_CLUSTER_TAG": "7"}
    code, said, _ = run_for_real(f"{HERE}/test_cluster_manifests.py", "-k", "every_server", **environment)
    assert code == 0, said
    assert "no image example.org/line/mlflow:7 for the nodes (ImagePullBackOff)" in said


def test_a_wait_that_ends_says_for_what_and_what_it_saw(kubectl, fake):
    fake.ends = lambda _: ("Pending", "")
    fake.add("pods", make_pod("slow", "some", ["true"]), NAMESPACE)
    fake.objects["pods", NAMESPACE, "slow"]["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu"}
    ]
    with pytest.raises(pytest.fail.Exception) as caught:
        kubectl.wait_for_pod("slow", NAMESPACE)
    said = str(caught.value)
    assert said.startswith(
        "waited 0.5 s for pod segline/slow to be Succeeded or Failed; last seen: Pending, Unschedulable"
    )
    assert "0/1 nodes: Insufficient cpu" in said
    assert "SEGLINE_CLUSTER_WAIT_POD=1" in said


def test_a_wait_goes_on_when_the_cluster_does_not_answer(kubectl):
    answers = iter([Refused("no route"), (None, "not yet"), ("there", "")])

    def look():
        answer = next(answers)
        if isinstance(answer, Refused):
            raise answer
        return answer

    assert kubectl.wait("it", look, "api") == "there"


def test_a_report_shows_the_log_and_description_of_a_pod_that_is_not_well(kubectl, fake):
    fake.ends = lambda pod: (
        ("Failed", "segline train: no GPU") if pod["metadata"]["name"] == "bad" else ("Succeeded", "")
    )
    for name in ("bad", "good"):
        fake.add("pods", make_pod(name, "some", ["true"]), NAMESPACE)
    fake.objects["pods", NAMESPACE, "bad"]["status"]["containerStatuses"][0] |= {
        "ready": False,
        "state": {"terminated": {"exitCode": 6, "reason": "Error"}},
    }
    said = describe(kubectl, NAMESPACE)
    assert "# pod bad: Failed, main: Error (exit 6)" in said
    assert "segline train: no GPU" in said
    assert "# pod good" not in said
    fake.objects.clear()
    assert describe(kubectl, NAMESPACE)


def test_a_rollout_counts_the_pods_that_are_ready(kubectl, fake):
    objects = {entry["kind"]: entry for entry in overlay(kubectl, "dev", Options("segline", "7", False, False, ""))}
    deployment = objects["Deployment"]
    assert {container["image"] for container in deployment["spec"]["template"]["spec"]["containers"]} == {
        "segline/mlflow:7"
    }
    fake.add("deployments", deployment, NAMESPACE)
    kubectl.wait_for_rollout("deployment", "mlflow", NAMESPACE)
    fake.objects["deployments", NAMESPACE, "mlflow"]["status"]["readyReplicas"] = 0
    with pytest.raises(pytest.fail.Exception, match=r"deployment segline/mlflow to be ready; last seen: 0 of 1 ready"):
        kubectl.wait_for_rollout("deployment", "mlflow", NAMESPACE)


def test_a_port_is_forwarded_until_the_block_ends(tmp_path):
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho 'Forwarding from 127.0.0.1:4321 -> 5000'\nexec sleep 60\n", encoding="utf-8")
    program.chmod(0o755)
    with Cluster(str(program)).forward("service/mlflow", 5000, NAMESPACE) as address:
        assert address == "http://127.0.0.1:4321"
    program.write_text("#!/bin/sh\necho 'error: services \"mlflow\" not found' >&2\nexit 1\n", encoding="utf-8")
    with (
        pytest.raises(pytest.fail.Exception, match="not found"),
        Cluster(str(program)).forward("service/mlflow", 5000, NAMESPACE),
    ):
        pass
