"""The cluster that KUBECONFIG names, and an installation in it; without one, each test says what it lacks."""

import shutil

import pytest
from fake_cluster import fake_cluster
from installing import (
    NAMESPACE,
    Options,
    check_namespace,
    connect,
    make_namespace,
    make_profile,
    make_secrets,
    overlay,
    remove,
    why_not,
)
from kubectl import Cluster, Refused, describe

CLUSTER = pytest.StashKey[Cluster]()
REPORTED = pytest.StashKey[set]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Add to a failure what is in the namespace; once, if many tests fail by the same fixture."""
    report = yield
    cluster = item.config.stash.get(CLUSTER, None)
    known = item.config.stash.setdefault(REPORTED, set())
    reason = str(report.longrepr)[-500:]
    if report.failed and cluster and reason not in known:
        known.add(reason)
        report.sections.append((f"the namespace {NAMESPACE}", describe(cluster, NAMESPACE)))
    return report


@pytest.fixture(scope="session")
def options():
    return Options.from_environment()


@pytest.fixture(scope="session")
def cluster(pytestconfig):
    """The cluster, which answers."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = connect()
    try:
        cluster.run("get", "namespace", "kube-system", "--request-timeout=30s")
    except Refused as error:
        pytest.fail(f"the cluster that KUBECONFIG names does not answer: {error}", pytrace=False)
    pytestconfig.stash[CLUSTER] = cluster
    return cluster


@pytest.fixture(scope="session")
def namespace(cluster, options):
    """The namespace of the manifests, which is made for the tests unless SEGLINE_CLUSTER_REUSE is set."""
    if options.reuse:
        if not cluster.get("deployment", "mlflow", NAMESPACE):
            pytest.fail(f"SEGLINE_CLUSTER_REUSE=1, but {NAMESPACE} has no deployment mlflow", pytrace=False)
        yield NAMESPACE
        return
    check_namespace(cluster)
    remove(cluster)
    try:
        if cluster.has_kind("profiles.kubeflow.org"):
            make_profile(cluster)
        else:
            make_namespace(cluster, NAMESPACE)
        yield NAMESPACE
    finally:
        if not options.keep:
            remove(cluster)


@pytest.fixture(scope="session")
def small_cluster(cluster, options):
    """The objects of k8s/overlays/dev."""
    return overlay(cluster, "dev", options)


@pytest.fixture(scope="session")
def applied(cluster, namespace, options, small_cluster):
    """The namespace after `kubectl apply` of k8s/overlays/dev; its pods may still start, or lack their images."""
    if not options.reuse:
        cluster.apply(make_secrets())
        cluster.apply(small_cluster)
    return namespace


@pytest.fixture(scope="session")
def installation(cluster, applied):
    """The namespace when its database, bucket and tracking server are ready."""
    for name in ("postgres", "s3"):
        if cluster.get("statefulset", name, applied):
            cluster.wait_for_rollout("statefulset", name, applied)
    cluster.wait_for_rollout("deployment", "mlflow", applied)
    return applied


@pytest.fixture(scope="session")
def own(options):
    """Skip where the installation is somebody's own, as the test replaces or stops a part of it."""
    if options.reuse:
        pytest.skip("SEGLINE_CLUSTER_REUSE=1: this test would replace or stop a part of the installation")


@pytest.fixture(scope="session")
def kuberay(cluster):
    if not cluster.has_kind("rayjobs.ray.io"):
        pytest.skip("KubeRay's operator is not installed: there is no rayjobs.ray.io")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The state of a server that kubectl takes for a cluster; KUBECONFIG names it."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    with fake_cluster(tmp_path) as (state, path):
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
        yield state
