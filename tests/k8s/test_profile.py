"""What `kubectl apply` makes of the namespace that Kubeflow made for a profile, and who still admits its pods."""

from copy import deepcopy

import pytest
import yaml
from kubeflow_facts import (
    API,
    API_PORTS,
    MESH_LABELS,
    METADATA,
    METADATA_PORT,
    OPERATORS,
    POLICIES,
    PROFILE_LABELS,
    STORE,
    STORE_PORT,
)
from manifests import OVERLAYS, ROOT, build, find, of_kind, pods
from network import (
    DNS,
    HEAD,
    INTERNET,
    KUBERNETES,
    MAINTENANCE,
    MLFLOW,
    NODE_DNS,
    PROMETHEUS,
    RUN,
    STRANGER,
    SUBMITTER,
    WORKER,
    allowed,
    peer,
)

OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)
PROFILE = PROFILE_LABELS | MESH_LABELS
# What was applied before, with our label on the namespace.
BEFORE = {
    "app.kubernetes.io/part-of": "segline",
    "istio-injection": "disabled",
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",
}


def applied(ours, live, last):
    """Return the labels after `kubectl apply`: ours, and those that are there and were not in the last application.

    https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/ (merging maps).
    """
    return {name: value for name, value in live.items() if name in ours or name not in last} | ours


def reconciled(labels):
    """Return the labels after Kubeflow's profile controller has seen a change: see ``kubeflow_facts``."""
    return PROFILE_LABELS | labels | MESH_LABELS


def in_the_overlay(overlay):
    return find(build(overlay), "Namespace", "segline")["metadata"]["labels"]


def in_the_file(_):
    return yaml.safe_load((ROOT / "k8s/base/namespace.yaml").read_text(encoding="utf-8"))["metadata"]["labels"]


@OVERLAY
@pytest.mark.parametrize("source", [in_the_overlay, in_the_file])
def test_a_profiles_namespace_keeps_every_label(overlay, source):
    ours = source(overlay)
    assert applied(ours, PROFILE, {}) == PROFILE
    # A second time, and after the controller.
    assert reconciled(applied(ours, PROFILE, ours)) == PROFILE


@OVERLAY
def test_an_upgrade_gives_back_what_was_overwritten(overlay):
    overwritten = applied(BEFORE, PROFILE, {})
    assert overwritten["app.kubernetes.io/part-of"] == "segline"
    assert reconciled(applied(in_the_overlay(overlay), overwritten, BEFORE)) == PROFILE


@OVERLAY
def test_an_upgrade_sets_kubeflows_label_after_the_first_apply(overlay):
    """Also where the controller does not put a missing label back."""
    label = {"app.kubernetes.io/part-of": "kubeflow-profile"}
    ours, overwritten = in_the_overlay(overlay), applied(BEFORE, PROFILE, {})
    # Set before the first apply the label is lost, as the last application had one of this name.
    assert not label.keys() & applied(ours, overwritten | label, BEFORE).keys()
    right = applied(ours, overwritten, BEFORE) | label
    assert label.items() <= right.items()
    # Each later application, also of the namespace alone, keeps it.
    assert label.items() <= applied(in_the_file(overlay), right, ours).items()
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    command = "\nkubectl label --overwrite namespace segline app.kubernetes.io/part-of=kubeflow-profile\n"
    applying, upgrading = page.split(command)[:2]
    assert all("\nkubectl apply -k k8s/overlays/gpu" in text for text in (applying, upgrading))


@OVERLAY
def test_server_side_apply_finds_no_conflict(overlay):
    """It reports one for each field that another manager owns with another value."""
    ours = in_the_overlay(overlay)
    assert {name: PROFILE[name] for name in ours if name in PROFILE} == ours


def test_a_namespace_of_ones_own_refuses_pods_that_are_not_restricted():
    for overlay in OVERLAYS:
        assert applied(in_the_overlay(overlay), {}, {})["pod-security.kubernetes.io/enforce"] == "restricted"


@OVERLAY
def test_what_is_ours_is_labelled(overlay):
    """All objects of the base are found by one label, and the namespace is not."""
    base = {path.name for path in (ROOT / "k8s/base").glob("*.yaml")} - {"kustomization.yaml", "namespace.yaml"}
    names = {
        (entry["kind"], entry["metadata"]["name"])
        for name in base
        for document in yaml.safe_load_all((ROOT / "k8s/base" / name).read_text(encoding="utf-8"))
        for entry in document.get("items", [document])
    }
    labelled = {
        (entry["kind"], entry["metadata"]["name"])
        for entry in build(overlay)
        if entry["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "segline"
    }
    assert labelled >= names
    assert not {kind for kind, _ in labelled} & {"Namespace"}


def cluster(overlay, labels):
    """Return our objects and Kubeflow's policies, with these labels on the namespace."""
    objects = build(overlay) + deepcopy(POLICIES)
    find(objects, "Namespace", "segline")["metadata"]["labels"] = labels
    return objects


NEEDED = [*((API, port) for port in API_PORTS), (METADATA, METADATA_PORT), (STORE, STORE_PORT)]


@OVERLAY
@pytest.mark.parametrize(("labels", "port"), NEEDED)
def test_kubeflow_admits_the_pods_of_a_run(overlay, labels, port):
    target = peer(labels, "kubeflow")
    after = applied(in_the_overlay(overlay), PROFILE, {})
    assert allowed(cluster(overlay, after), RUN, target, port)
    # What this test is for: the label that was overwritten.
    assert not allowed(cluster(overlay, applied(BEFORE, PROFILE, {})), RUN, target, port)


@OVERLAY
@pytest.mark.parametrize(
    ("sources", "target", "port"),
    [
        ((RUN, HEAD, WORKER), MLFLOW, 5000),
        ((RUN, HEAD), KUBERNETES, 443),
        ((RUN, HEAD), KUBERNETES, 6443),
        ((RUN,), INTERNET, 443),
        ((HEAD, WORKER, SUBMITTER), HEAD, 6379),
        ((HEAD, WORKER), WORKER, 31337),
        ((SUBMITTER, *(peer(labels, "operators") for labels in OPERATORS.values())), HEAD, 8265),
        ((PROMETHEUS,), MLFLOW, 9100),
        ((RUN, HEAD, WORKER, SUBMITTER, MLFLOW, MAINTENANCE), DNS, 53),
        ((RUN, HEAD, WORKER, SUBMITTER, MLFLOW, MAINTENANCE), NODE_DNS, 53),
    ],
)
def test_a_run_in_a_profile_reaches_all_that_it_needs(overlay, sources, target, port):
    """Its storage and Kubeflow are the subjects of other tests."""
    objects = cluster(overlay, applied(in_the_overlay(overlay), PROFILE, {}))
    for source in sources:
        for protocol in ("TCP", "UDP") if port == 53 else ("TCP",):
            assert allowed(objects, source, target, port, protocol), (source, protocol)
    # Every pod may look up names.
    assert allowed(objects, STRANGER, target, port) is (port == 53)


@OVERLAY
def test_no_pod_is_in_the_mesh(overlay):
    """The mesh of a profile refuses the pods of a run, which have no sidecar: its policy ns-owner-access-istio."""
    outside = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}
    for pod in pods(build(overlay)):
        assert outside.items() <= pod.labels.items(), pod.where
    for entry in of_kind(build(overlay), "Deployment", "StatefulSet"):
        assert not outside.keys() & entry["spec"]["selector"]["matchLabels"].keys(), entry["metadata"]["name"]
