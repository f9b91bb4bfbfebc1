"""What each account may do at the Kubernetes API, decided as `kubectl auth can-i` does: by the Roles bound to it.

That the code makes these requests and no others, tests/platforms/test_rayjob.py sees at a server.
"""

import pytest
from authorization import can
from manifests import OVERLAYS, build, of_kind

from segline.platforms.kubernetes import PERMISSIONS, RAYJOBS

GROUPS = {RAYJOBS["plural"]: RAYJOBS["group"], "workflows": "argoproj.io"}
USED = [(verb, GROUPS.get(resource, ""), resource, "") for resource, verbs in PERMISSIONS.items() for verb in verbs]
# What Argo's executor, and Kubeflow's driver and launcher do in a pod of a run.
EXECUTOR = [
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", "x"),
    ("get", "", "configmaps", "kfp-launcher"),
    ("get", "", "secrets", "mlpipeline-minio-artifact"),
]
DENIED = [
    ("get", "", "secrets", "segline-mlflow-database"),
    ("get", "", "secrets", "segline-backup-s3"),
    ("get", "", "secrets", "segline-s3"),
    ("list", "", "secrets", ""),
    ("get", "", "configmaps", "segline-settings"),
    ("create", "", "pods", ""),
    ("delete", "", "pods", "mlflow-0"),
    ("create", "", "pods/exec", "mlflow-0"),
    ("create", "", "serviceaccounts/token", "segline-backup"),
    ("update", "ray.io", "rayjobs", "x"),
    ("create", "ray.io", "rayclusters", ""),
    ("create", "argoproj.io", "workflows", ""),
    ("create", "batch", "jobs", ""),
    ("patch", "apps", "deployments", "mlflow"),
    ("delete", "networking.k8s.io", "networkpolicies", "deny-all"),
    ("patch", "", "resourcequotas", "segline"),
    ("create", "rbac.authorization.k8s.io", "rolebindings", ""),
    ("get", "", "nodes", ""),
]
OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@OVERLAY
@pytest.mark.parametrize("request_", [*USED, *EXECUTOR], ids=" ".join)
def test_a_run_may_do_what_it_does_and_no_one_else_may(overlay, request_):
    objects = build(overlay)
    assert can(objects, "segline-pipeline", *request_)
    assert not can(objects, "segline-pipeline", *request_, namespace="kubeflow")
    for entry in of_kind(objects, "ServiceAccount"):
        name = entry["metadata"]["name"]
        assert can(objects, name, *request_) is (name == "segline-pipeline"), name


@OVERLAY
@pytest.mark.parametrize("request_", DENIED, ids=" ".join)
def test_no_account_may_do_more(overlay, request_):
    objects = build(overlay)
    for entry in of_kind(objects, "ServiceAccount"):
        assert not can(objects, entry["metadata"]["name"], *request_), entry["metadata"]["name"]


@pytest.mark.parametrize(
    ("change", "request_"),
    [
        (lambda role: role["rules"][0].update(apiGroups=["batch"]), USED[0]),
        (lambda role: role["rules"][0].update(verbs=["watch"]), USED[0]),
        (lambda role: role.update(rules=[]), USED[-1]),
        (lambda role: role["metadata"].update(namespace="kubeflow"), USED[0]),
    ],
)
def test_a_right_that_is_missing_is_noticed(change, request_):
    objects = build("gpu")
    (role,) = [entry for entry in of_kind(objects, "Role") if entry["metadata"]["name"] == "segline-rayjobs"]
    change(role)
    assert not can(objects, "segline-pipeline", *request_)
