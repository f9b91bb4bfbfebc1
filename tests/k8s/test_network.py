"""Which connections the network policies allow: those that a run needs and no others, Kubeflow's policies included."""

import pytest
from kubeflow_facts import (
    API,
    API_PORTS,
    ARTIFACT_VIEWER,
    METADATA,
    OPERATORS,
    PAGE,
    PAGE_PORT,
    POLICIES,
    STORE,
    STORE_PORT,
)
from manifests import OVERLAYS, build, find
from network import (
    DNS,
    ELSEWHERE,
    HEAD,
    INTERNET,
    KUBERNETES,
    MAINTENANCE,
    MLFLOW,
    OPERATOR,
    PROMETHEUS,
    RUN,
    STRANGER,
    WORKER,
    Peer,
    allowed,
    peer,
)

OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture
def objects(overlay):
    return build(overlay)


@OVERLAY
@pytest.mark.parametrize(
    ("source", "target", "port", "open_"),
    [
        (RUN, MLFLOW, 5000, True),
        (WORKER, MLFLOW, 5000, True),
        (HEAD, MLFLOW, 5000, True),
        (HEAD, WORKER, 31337, True),
        (WORKER, HEAD, 6379, True),
        (OPERATOR, HEAD, 8265, True),
        (PROMETHEUS, MLFLOW, 9100, True),
        (WORKER, DNS, 53, True),
        (HEAD, KUBERNETES, 443, True),
        (RUN, KUBERNETES, 6443, True),
        (RUN, INTERNET, 443, True),
        (RUN, peer({}, "kubeflow"), 9000, True),
        (ELSEWHERE, STRANGER, 80, False),
        (STRANGER, MLFLOW, 5000, False),
        (MAINTENANCE, MLFLOW, 5000, False),
        (RUN, MLFLOW, 9100, False),
        (RUN, HEAD, 8265, False),
        (ELSEWHERE, HEAD, 6379, False),
        (OPERATOR, HEAD, 6379, False),
        (PROMETHEUS, MLFLOW, 5000, False),
        (WORKER, KUBERNETES, 443, False),
        (WORKER, INTERNET, 443, False),
        (MLFLOW, KUBERNETES, 443, False),
        (MLFLOW, HEAD, 8265, False),
        (MAINTENANCE, INTERNET, 443, False),
        (WORKER, peer({}, "default"), 53, False),
    ],
)
def test_only_what_is_needed_can_be_reached(objects, source, target, port, open_):
    assert allowed(objects, source, target, port) is open_


@OVERLAY
@pytest.mark.parametrize("labels", OPERATORS.values(), ids=OPERATORS)
def test_the_operator_is_admitted_however_it_is_installed(objects, labels):
    assert allowed(objects, peer(labels, "operators"), HEAD, 8265)
    assert not allowed(objects, peer(labels, "operators"), MLFLOW, 5000)


@OVERLAY
def test_the_page_of_kubeflow_reaches_the_viewer_of_artifacts(objects):
    objects += POLICIES
    find(objects, "Namespace", "segline")["metadata"]["labels"] |= {"app.kubernetes.io/part-of": "kubeflow-profile"}
    viewer, page = peer(ARTIFACT_VIEWER), peer(PAGE, "kubeflow")
    assert allowed(objects, page, viewer, PAGE_PORT)
    for labels, port in ((STORE, STORE_PORT), (API, API_PORTS[1])):
        assert allowed(objects, viewer, peer(labels, "kubeflow"), port)
    assert allowed(objects, viewer, KUBERNETES, 443)
    assert allowed(objects, viewer, peer({"app": "istiod"}, "istio-system"), 15012)
    for source, target, port in (
        (peer(METADATA, "kubeflow"), viewer, PAGE_PORT),
        (STRANGER, viewer, PAGE_PORT),
        (viewer, MLFLOW, 5000),
        (viewer, HEAD, 8265),
    ):
        assert not allowed(objects, source, target, port)


def test_another_port_of_the_bucket_is_set_once():
    objects = build("gpu")
    (rule,) = find(objects, "NetworkPolicy", "bucket")["spec"]["egress"]
    rule["ports"][0]["port"] = 9000
    for source in (RUN, HEAD, WORKER, MLFLOW, MAINTENANCE):
        assert allowed(objects, source, Peer(address="198.51.100.10"), 9000)
        assert not allowed(objects, source, INTERNET, 9000)


def test_the_small_cluster_reaches_its_storage():
    objects = build("dev")
    postgres, s3 = (peer({"app.kubernetes.io/name": name}) for name in ("postgres", "s3"))
    for source, database in ((MLFLOW, True), (MAINTENANCE, True), (WORKER, False), (RUN, False)):
        assert allowed(objects, source, postgres, 5432) is database
        assert allowed(objects, source, s3, 8333)
    assert not allowed(objects, OPERATOR, s3, 8333)


def test_production_reaches_storage_outside():
    objects = build("gpu")
    postgres, s3 = Peer(address="192.0.2.10"), Peer(address="198.51.100.10")
    for source, database in ((MLFLOW, True), (MAINTENANCE, True), (WORKER, False), (RUN, False)):
        assert allowed(objects, source, postgres, 5432) is database
        assert allowed(objects, source, s3, 443)


@pytest.mark.parametrize(
    ("name", "source", "target", "port", "open_"),
    [
        ("deny-all", ELSEWHERE, STRANGER, 80, True),
        ("dns", WORKER, DNS, 53, False),
        ("mlflow", RUN, MLFLOW, 5000, False),
        ("pipeline", RUN, KUBERNETES, 443, False),
        ("ray", WORKER, HEAD, 6379, False),
        ("ray-autoscaler", HEAD, KUBERNETES, 443, False),
    ],
)
def test_a_missing_policy_is_noticed(name, source, target, port, open_):
    objects = build("gpu")
    assert allowed(objects, source, target, port) is not open_
    objects.remove(find(objects, "NetworkPolicy", name))
    assert allowed(objects, source, target, port) is open_
