"""The network policies, by pods that try to connect."""

import json

import pytest
from installing import make_namespace, make_pod

pytestmark = pytest.mark.timeout(3600)

OUTSIDE = "segline-tests-net"
"""A namespace without policies, for pods that are nobody's."""
PROBE = """
import json, socket, sys, time

def look_up(host):
    for _ in range(5):
        try:
            return socket.getaddrinfo(host, None)[0][4][0]
        except OSError:
            time.sleep(2)

def reach(target):
    host, port = target.rsplit(":", 1)
    address = look_up(host)
    if not address:
        return "no address"
    for _ in range(3):
        try:
            socket.create_connection((address, int(port)), timeout=5).close()
            return "open"
        except OSError:
            time.sleep(2)  # some plug-ins drop what is forbidden, others refuse it
    return "closed"

# A policy holds for a new pod some seconds after its start.
time.sleep(10)
print(json.dumps({target: reach(target) for target in sys.argv[1:]}))
"""
SERVER = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8265)"
RUN = {"workflows.argoproj.io/workflow": "segline-tests"}
RAY = {"app.kubernetes.io/component": "ray"}
MAINTENANCE = {"app.kubernetes.io/name": "mlflow-maintenance"}
MLFLOW, METRICS = "mlflow.segline.svc:5000", "mlflow.segline.svc:9100"
DATABASE, BUCKET = "postgres.segline.svc:5432", "s3.segline.svc:8333"
API = "kubernetes.default.svc:443"
MAY = {
    "run": (RUN, {MLFLOW, BUCKET, API}),
    "ray": (RAY, {MLFLOW, BUCKET}),
    "maintenance": (MAINTENANCE, {DATABASE, BUCKET}),
    "other": ({}, {BUCKET}),
}
"""The pods of the namespace, by their labels, and what each of them reaches in the small cluster."""
TARGETS = {MLFLOW, METRICS, DATABASE, BUCKET, API}
KUBEFLOW = [("ml-pipeline", 8887), ("metadata-grpc-service", 8080), ("seaweedfs", 9000), ("minio-service", 9000)]
"""What the driver and the launcher of Kubeflow use, where it is there."""


@pytest.fixture(scope="module")
def image(options):
    return options.image("mlflow")


@pytest.fixture(scope="module")
def connect(cluster, image):
    """A function that lets a pod try targets, ``host:port``, and returns what became of each: open, closed, ..."""
    made = []

    def probe(targets, namespace, labels):
        name = f"trial-{len(made)}"
        made.append((name, namespace))
        command = ["python", "-c", PROBE, *sorted(targets)]
        cluster.apply([make_pod(name, image, command, namespace=namespace, labels=labels)])
        pod = cluster.wait_for_pod(name, namespace)
        said = cluster.log(name, namespace)
        assert pod["status"]["phase"] == "Succeeded", said
        return json.loads(said.splitlines()[-1])

    yield probe
    for name, namespace in made:
        cluster.delete("pod", name, f"--namespace={namespace}", wait=False)


@pytest.fixture(scope="module")
def outside(cluster, installation, options):
    make_namespace(cluster, OUTSIDE)
    yield OUTSIDE
    if not options.keep:
        cluster.delete("namespace", OUTSIDE)


def serve(cluster, image, namespace, labels):
    """Start a pod that listens on port 8265, and return its name and address when it is ready."""
    probe = {"tcpSocket": {"port": 8265}, "periodSeconds": 2}
    pod = make_pod("server", image, ["python", "-c", SERVER], namespace=namespace, labels=labels, readinessProbe=probe)
    cluster.apply([pod])
    cluster.wait_for_pod("server", namespace, phases=("Running",))
    cluster.run("wait", "--for=condition=Ready", "pod/server", f"--namespace={namespace}", "--timeout=120s")
    return f"{cluster.get('pod', 'server', namespace)['status']['podIP']}:8265"


@pytest.fixture(scope="module")
def enforced(cluster, image, outside, connect):
    """Skip if the network of this cluster does not enforce policies."""
    address = serve(cluster, image, outside, {"role": "server"})
    assert connect([address], outside, {}) == {address: "open"}, "two pods without policies cannot connect"
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": outside},
        "spec": {"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"]},
    }
    cluster.apply([policy])
    if connect([address], outside, {}) == {address: "open"}:
        pytest.skip(
            "the network plug-in of this cluster does not enforce network policies: a connection that one forbids was "
            "open; all policies of Segline are without effect here"
        )


@pytest.mark.parametrize("who", MAY)
def test_a_pod_reaches_what_it_may_and_nothing_else(enforced, installation, connect, who):
    labels, may = MAY[who]
    assert connect(TARGETS, installation, labels) == {
        target: "open" if target in may else "closed" for target in TARGETS
    }


def test_a_pod_of_another_namespace_reaches_nothing(enforced, outside, connect):
    inside = TARGETS - {API}
    assert connect(inside, outside, RUN | RAY | MAINTENANCE) == dict.fromkeys(inside, "closed")


def test_only_pods_of_ray_reach_pods_of_ray(cluster, enforced, installation, connect, image, outside):
    address = serve(cluster, image, installation, RAY)
    try:
        seen = {who: connect([address], installation, labels)[address] for who, (labels, _) in MAY.items()}
        seen["outside"] = connect([address], outside, RAY)[address]
    finally:
        cluster.delete("pod", "server", f"--namespace={installation}")
    assert seen == {"run": "closed", "ray": "open", "maintenance": "closed", "other": "closed", "outside": "closed"}


@pytest.fixture(scope="module")
def kubeflow(cluster):
    """What of Kubeflow is there, as ``host:port``."""
    services = [(cluster.get("service", name, "kubeflow"), port) for name, port in KUBEFLOW]
    found = [
        f"{service['metadata']['name']}.kubeflow.svc:{port}"
        for service, port in services
        if service and port in [entry["port"] for entry in service["spec"]["ports"]]
    ]
    if not found:
        pytest.skip("Kubeflow Pipelines is not installed: the namespace kubeflow has no service ml-pipeline")
    return found


def test_a_run_reaches_kubeflow(kubeflow, installation, connect):
    """Kubeflow's own policies admit the namespace by a label that is not to be overwritten."""
    assert connect(kubeflow, installation, RUN) == dict.fromkeys(kubeflow, "open")


def test_other_pods_do_not_reach_kubeflow(enforced, kubeflow, installation, connect):
    assert connect(kubeflow, installation, {}) == dict.fromkeys(kubeflow, "closed")
