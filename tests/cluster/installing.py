"""What the tests make in a cluster: namespaces, secrets, the objects of an overlay, and pods that try something."""

import os
import secrets
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from kubectl import WAITS_S, Cluster

ROOT = Path(__file__).parents[2]
NAMESPACE = "segline"
"""The namespace of the manifests, which the addresses in them name."""
MADE = "segline-tests/made"
"""The label of each namespace that the tests made, and so may delete."""
USER = 10001


@dataclass(frozen=True)
class Options:
    """The options, all from the environment.

    Attributes:
        registry: The registry of the images; ``segline`` alone if they were copied to the nodes.
        tag: The tag of the images.
        keep: Whether what the tests made stays.
        reuse: Whether the namespace has an installation that is to be tested as it is.
        kubeflow: The address of Kubeflow Pipelines; empty to forward a port to it.
    """

    registry: str
    tag: str
    keep: bool
    reuse: bool
    kubeflow: str

    @classmethod
    def from_environment(cls):
        version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        given = {name: os.environ.get(f"SEGLINE_CLUSTER_{name.upper()}", "") for name in cls.__annotations__}
        return cls(
            registry=given["registry"] or "segline",
            tag=given["tag"] or version,
            keep=given["keep"] == "1",
            reuse=given["reuse"] == "1",
            kubeflow=given["kubeflow"],
        )

    def image(self, name):
        """Return the full name of the image ``data``, ``train`` or ``mlflow``."""
        return f"{self.registry}/{name}:{self.tag}"


def why_not():
    """Return why no cluster can be tested here, or an empty text."""
    if not shutil.which("kubectl"):
        return "kubectl is not installed"
    config = os.environ.get("KUBECONFIG", "")
    if not config:
        return "KUBECONFIG is not set; it names the cluster to test"
    if missing := [path for path in config.split(os.pathsep) if path and not Path(path).is_file()]:
        return f"KUBECONFIG names {missing[0]}, which is no file"
    if os.environ.get("SEGLINE_CLUSTER_TESTS") != "1":
        return "these tests change the cluster that KUBECONFIG names; `make test-cluster` runs them"
    return ""


def connect():
    """Return the cluster; the longest waits are those of WAITS_S or of SEGLINE_CLUSTER_WAIT_..., in seconds."""
    waits = {name: float(os.environ.get(f"SEGLINE_CLUSTER_WAIT_{name.upper()}") or s) for name, s in WAITS_S.items()}
    return Cluster(shutil.which("kubectl"), waits)


def overlay(cluster, name, options):
    """Return the objects of an overlay as ``kubectl apply -k`` would send them, with the images of the options."""
    built = cluster.run("kustomize", str(ROOT / "k8s" / "overlays" / name))
    objects = list(yaml.safe_load_all(built))
    for entry in objects:
        _set_images(entry, options)
    return objects


def _set_images(node, options):
    if isinstance(node, list):
        for entry in node:
            _set_images(entry, options)
    elif isinstance(node, dict):
        image = node.get("image")
        if isinstance(image, str) and "segline/mlflow" in image:
            node["image"] = options.image("mlflow")
        for entry in node.values():
            _set_images(entry, options)


def make_secrets():
    """Return the secrets of the small cluster, with keys and a password that nobody else knows."""
    keys = {name: (secrets.token_hex(8), secrets.token_hex(20)) for name in ("s3", "mlflow-s3", "backup-s3")}
    password = secrets.token_hex(20)
    contents = {
        f"segline-{name}": {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        for name, (key, secret) in keys.items()
    }
    contents["segline-mlflow-database"] = {
        "uri": f"postgresql+psycopg2://segline:{password}@postgres:5432/mlflow",
        "PGHOST": "postgres",
        "PGUSER": "segline",
        "PGPASSWORD": password,
        "PGDATABASE": "mlflow",
    }
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": _metadata(name, NAMESPACE), "stringData": content}
        for name, content in contents.items()
    ]


def make_namespace(cluster, name, labels=None):
    """Make a namespace anew that is deleted at the end, and wait until pods can be made in it."""
    cluster.delete("namespace", f"--selector={MADE}=true,kubernetes.io/metadata.name={name}")
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.run("create", "--filename=-", given=yaml.safe_dump(document))
    pairs = {MADE: "true", **(labels or {})}
    cluster.run("label", "namespace", name, *(f"{key}={value}" for key, value in pairs.items()))
    wait_for_account(cluster, "default", name)


def make_profile(cluster):
    """Let Kubeflow make the namespace, as it wants to where it has several users."""
    profile = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "Profile",
        "metadata": {"name": NAMESPACE, "labels": {MADE: "true"}},
        "spec": {"owner": {"kind": "User", "name": "cluster-tests@segline.example"}},
    }
    cluster.run("create", "--filename=-", given=yaml.safe_dump(profile))
    wait_for_account(cluster, "default-editor", NAMESPACE)
    cluster.run("label", "namespace", NAMESPACE, f"{MADE}=true")


def wait_for_account(cluster, name, namespace):
    """Wait for an account, without which pods are refused."""
    look = lambda: (cluster.get("serviceaccount", name, namespace), "no such account")  # noqa: E731
    cluster.wait(f"the account {namespace}/{name}", look, "api")


def remove(cluster):
    """Delete every namespace that these tests made, now or in an earlier session."""
    if cluster.has_kind("profiles.kubeflow.org"):
        cluster.delete("profiles.kubeflow.org", f"--selector={MADE}=true")
    cluster.delete("namespace", f"--selector={MADE}=true")


def check_namespace(cluster):
    """Fail if the namespace exists and is somebody's own."""
    existing = cluster.get("namespace", NAMESPACE)
    if existing and existing["metadata"].get("labels", {}).get(MADE) != "true":
        pytest.fail(
            f"the namespace {NAMESPACE} exists and was not made by these tests, so nothing was changed; use another "
            "cluster, delete it, or set SEGLINE_CLUSTER_REUSE=1 to test the installation that is in it as it is",
            pytrace=False,
        )


def make_pod(name, image, command, *, namespace=NAMESPACE, labels=None, **more):
    """Return a pod of one container that satisfies the restricted rules; ``more`` is added to the container."""
    account = more.pop("account", None)
    volumes = [{"name": "tmp", "emptyDir": {}}, *more.pop("volumes", [])]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, *more.pop("mounts", [])]
    container = {
        "name": "main",
        "image": image,
        "command": command,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
        **more,
    }
    spec = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(account),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
        **({"serviceAccountName": account} if account else {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(name, namespace, labels), "spec": spec}


def _metadata(name, namespace, labels=None):
    return {"name": name, "namespace": namespace, **({"labels": labels} if labels else {})}
