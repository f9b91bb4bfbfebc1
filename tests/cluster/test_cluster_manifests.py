"""The overlays are applied; pods are admitted or refused by the rules of the namespace."""

from copy import deepcopy

import pytest
from admission import amount
from installing import NAMESPACE, make_namespace, make_pod, overlay
from kubectl import Refused
from manifests import of_kind, pods

pytestmark = pytest.mark.timeout(3600)

GPU = "nvidia.com/gpu"
SPARE = "segline-tests-gpu"
"""The namespace for the overlay of production, whose storage is elsewhere: its servers do not run here."""
AUTOSCALER = ("name", "image", "resources", "securityContext", "volumeMounts", "env", "envFrom")
"""What KubeRay passes on of the autoscaler's options to its container."""
BREACHES = {
    "privileged": lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
    "root": lambda pod: pod["securityContext"].update(runAsNonRoot=False, runAsUser=0),
    "host network": lambda pod: pod.update(hostNetwork=True),
    "host path": lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "escalation": lambda pod: pod["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True),
}


def known(cluster, objects):
    """Return the objects without those of an operator that is not installed."""
    if cluster.has_kind("servicemonitors.monitoring.coreos.com"):
        return objects
    return [entry for entry in objects if entry["kind"] != "ServiceMonitor"]


def moved(objects, namespace):
    """Return the objects in another namespace, with no pod of a server."""
    objects = deepcopy([entry for entry in objects if entry["kind"] != "Namespace"])
    for entry in objects:
        entry["metadata"]["namespace"] = namespace
        for subject in entry.get("subjects", []):
            subject["namespace"] = namespace
        if entry["kind"] == "Deployment":
            entry["spec"]["replicas"] = 0
    return objects


@pytest.mark.parametrize("name", ["dev", "gpu"])
def test_the_api_server_accepts_the_overlay(cluster, namespace, options, name):
    objects = known(cluster, overlay(cluster, name, options))
    said = cluster.apply(objects, "--server-side", "--dry-run=server", "--force-conflicts")
    assert len(said) == len(objects), said


def test_the_api_server_accepts_the_monitor(cluster, namespace, options):
    if not cluster.has_kind("servicemonitors.monitoring.coreos.com"):
        pytest.skip("the operator of Prometheus is not installed: there is no servicemonitors.monitoring.coreos.com")
    monitors = of_kind(overlay(cluster, "gpu", options), "ServiceMonitor")
    assert cluster.apply(monitors, "--server-side", "--dry-run=server", "--force-conflicts")


def test_the_overlay_of_production_is_applied_as_it_is(cluster, options):
    objects = moved(known(cluster, overlay(cluster, "gpu", options)), SPARE)
    make_namespace(cluster, SPARE)
    try:
        cluster.apply(objects)
        assert cluster.differences(objects) == ""
    finally:
        if not options.keep:
            cluster.delete("namespace", SPARE)


def test_a_second_apply_changes_nothing(cluster, applied, own, small_cluster):
    assert cluster.differences(small_cluster) == ""


def test_every_server_starts(cluster, installation):
    """The fixture waits for the database, the bucket and the tracking server."""
    claims = {
        entry["metadata"]["name"]: entry["status"]["phase"]
        for entry in cluster.list("persistentvolumeclaims", installation)
    }
    assert set(claims.values()) <= {"Bound"}, claims


def as_pod(pod):
    """Return a pod as its controller would make it, with a volume for each mount."""
    spec = deepcopy(pod.spec)
    for container in spec["containers"]:
        if container["name"] == "autoscaler":
            for key in container.keys() - set(AUTOSCALER):
                del container[key]
    named = {volume["name"] for volume in spec.get("volumes", [])}
    mounted = {mount["name"] for entry in spec["containers"] for mount in entry.get("volumeMounts", [])}
    spec["volumes"] = [*spec.get("volumes", []), *({"name": name, "emptyDir": {}} for name in mounted - named)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "trial-", "labels": pod.labels},
        "spec": spec,
    }


def test_our_pods_are_admitted(cluster, applied, small_cluster):
    """Those of the servers, the maintenance, and a Ray cluster."""
    for pod in pods(small_cluster):
        made = cluster.dry_run(as_pod(pod), f"--namespace={applied}")
        assert made["spec"]["containers"], pod.where


@pytest.mark.parametrize("breach", BREACHES)
def test_an_unsafe_pod_is_refused(cluster, applied, breach):
    pod = make_pod("trial", "trial", ["true"])
    cluster.dry_run(pod)
    BREACHES[breach](pod["spec"])
    with pytest.raises(Refused, match="violates PodSecurity"):
        cluster.dry_run(pod)


@pytest.fixture(scope="module")
def quota(cluster, applied):
    """The hard limits, when Kubernetes has counted what is used of them; before that it refuses every pod."""

    def look():
        status = cluster.get("resourcequota", "segline", applied).get("status", {})
        return (status["hard"] if status.get("used") else None), f"status {status}"

    return cluster.wait("the quota to be counted", look, "api")


def with_requests(**requests):
    pod = make_pod("trial", "trial", ["true"])
    resources = pod["spec"]["containers"][0]["resources"]
    resources["requests"] |= requests
    resources["limits"] = {key: value for key, value in resources["requests"].items() if key != "cpu"}
    return pod


@pytest.mark.parametrize("resource", ["cpu", "memory", GPU])
def test_the_quota_refuses_what_is_above_it(cluster, quota, resource):
    cluster.dry_run(with_requests())
    above = with_requests(**{resource: str(int(amount(quota[f"requests.{resource}"])) + 1)})
    with pytest.raises(Refused, match="exceeded quota"):
        cluster.dry_run(above)


@pytest.mark.parametrize("kind", ["LoadBalancer", "NodePort"])
def test_no_service_is_open_to_the_outside(cluster, quota, kind):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "trial", "namespace": NAMESPACE},
        "spec": {"type": kind, "selector": {"app": "trial"}, "ports": [{"port": 80}]},
    }
    with pytest.raises(Refused, match="exceeded quota"):
        cluster.dry_run(service)


def test_a_container_that_says_nothing_gets_requests_and_limits(cluster, quota):
    """Without them the quota would refuse the containers of Kubeflow."""
    pod = make_pod("trial", "trial", ["true"])
    del pod["spec"]["containers"][0]["resources"]
    made = cluster.dry_run(pod)
    given = made["spec"]["containers"][0]["resources"]
    assert set(given["requests"]) == {"cpu", "memory", "ephemeral-storage"}
    assert set(given["limits"]) == {"memory", "ephemeral-storage"}
