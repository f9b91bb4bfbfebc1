"""The accounts may do what code does, and no more; `kubectl auth can-i` asks the API server as each of them."""

from copy import deepcopy

import pytest
import yaml
from installing import NAMESPACE, ROOT
from kubectl import Refused
from manifests import template

from segline.platforms.kubernetes import PERMISSIONS

pytestmark = pytest.mark.timeout(1800)

PIPELINE = "segline-pipeline"
CODE = [(verb, resource, "") for resource, verbs in PERMISSIONS.items() for verb in verbs]
"""What train and the exit handler do."""
EXECUTOR = [
    ("create", "workflowtaskresults.argoproj.io", ""),
    ("patch", "workflowtaskresults.argoproj.io", ""),
    ("get", "configmaps", "kfp-launcher"),
    ("get", "secrets", "mlpipeline-minio-artifact"),
]
"""What Argo's executor and Kubeflow's driver and launcher do in the same pods."""
DENIED = [
    ("create", "pods", ""),
    ("delete", "pods", ""),
    ("create", "pods/exec", ""),
    ("get", "secrets", "segline-mlflow-database"),
    ("get", "secrets", "segline-backup-s3"),
    ("list", "secrets", ""),
    ("update", "configmaps", "segline-rayjob"),
    ("patch", "deployments.apps", "mlflow"),
    ("create", "jobs.batch", ""),
    ("create", "serviceaccounts/token", "segline-backup"),
    ("create", "rolebindings.rbac.authorization.k8s.io", ""),
    ("delete", "persistentvolumeclaims", ""),
    ("list", "rayjobs.ray.io", ""),
    ("update", "rayjobs.ray.io", ""),
]
OPERATORS = {"rayjobs": "rayjobs.ray.io", "workflows": "workflows.argoproj.io"}
"""The kinds that PERMISSIONS names without their group, and that operators define."""
POLICY = "validatingadmissionpolicy"


def can(cluster, account, verb, resource, name="", namespace=NAMESPACE):
    """Return whether an account of the installation may do something."""
    resource, _, part = resource.partition("/")
    resource = OPERATORS.get(resource, resource)
    if resource.endswith((".ray.io", ".argoproj.io")) and not cluster.has_kind(resource):
        pytest.skip(f"the operator of {resource} is not installed")
    words = [verb, f"{resource}/{name}" if name else resource, *([f"--subresource={part}"] if part else [])]
    who = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    answer = cluster.run("auth", "can-i", *words, who, f"--namespace={namespace}", expected=(0, 1)).split()
    assert answer, f"no answer to {words}"
    return answer[0] == "yes"


def label(right):
    return " ".join(filter(None, right))


@pytest.mark.parametrize("right", CODE + EXECUTOR, ids=label)
def test_the_account_of_runs_may(cluster, applied, right):
    assert can(cluster, PIPELINE, *right)


@pytest.mark.parametrize("right", DENIED, ids=label)
def test_the_account_of_runs_may_not(cluster, applied, right):
    assert not can(cluster, PIPELINE, *right)


@pytest.mark.parametrize("right", [("create", "rayjobs"), ("list", "pods"), ("get", "pods/log")], ids=label)
def test_the_account_of_runs_may_nothing_in_another_namespace(cluster, applied, right):
    assert not can(cluster, PIPELINE, *right, namespace="default")


@pytest.mark.parametrize("account", ["segline-ray", "segline-mlflow", "segline-backup"])
@pytest.mark.parametrize("right", [("list", "pods"), ("get", "secrets"), ("create", "rayjobs")], ids=label)
def test_the_other_accounts_may_nothing(cluster, applied, account, right):
    assert not can(cluster, account, *right)


@pytest.fixture(scope="module")
def admission(cluster, applied, kuberay, options):
    """k8s/examples/rayjob-policy.yaml is in force."""
    file = ROOT / "k8s" / "examples" / "rayjob-policy.yaml"
    if cluster.get(POLICY, "segline-rayjobs"):
        yield
        return
    try:
        cluster.run("apply", f"--filename={file}")
    except Refused as error:
        pytest.skip(f"the policy needs Kubernetes 1.30 and the rights of an administrator: {error}")
    try:
        yield
    finally:
        if not options.keep:
            cluster.delete(f"--filename={file}")


@pytest.fixture
def rayjob(small_cluster):
    """The RayJob of the template, with a name of its own."""
    job = deepcopy(template(small_cluster))
    job["metadata"] |= {"name": "trial", "namespace": NAMESPACE}
    job["spec"]["entrypoint"] = "true"
    return job


def create_as_a_run(cluster, job):
    cluster.dry_run(job, f"--as=system:serviceaccount:{NAMESPACE}:{PIPELINE}")


def test_a_run_makes_the_rayjob_of_the_template(cluster, admission, rayjob):
    create_as_a_run(cluster, rayjob)


def test_a_run_makes_no_rayjob_that_reads_another_secret(cluster, admission, rayjob):
    pod = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    pod["volumes"].append({"name": "stolen", "secret": {"secretName": "segline-backup-s3"}})

    def look():
        # A new policy is in force after some seconds.
        try:
            create_as_a_run(cluster, rayjob)
        except Refused as error:
            said = str(error)
            return ("volume that is no emptyDir" in said) or None, said
        return None, f"admitted:\n{yaml.safe_dump(pod['volumes'])}"

    assert cluster.wait("the policy to refuse a RayJob with the secret of the backup", look, "api")
