"""The RayJob that is created: its name, its fingerprint, its manifest and its entry point."""

import hashlib
import json
import os
import re
import shlex
from dataclasses import asdict
from pathlib import Path

from segline.config.params import Params
from segline.config.serialization import as_document
from segline.config.yaml_reader import parse_yaml
from segline.errors import StageError
from segline.parallel import AUTOSCALING
from segline.platforms.kubernetes import Json
from segline.platforms.kueue import put_into_queue
from segline.training.lease import FOLLOWED

LONGEST_NAME = 47
"""KubeRay's limit, because it makes longer names from it."""
LONGEST_LABEL = 63
PREFIX = "segline-train-"
FORWARDED_VARIABLES = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_WORKSPACE",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "SEGLINE_RUN",
    "SEGLINE_COMMIT",
)
"""Variables of this pod, such as Kubeflow's plug-in for MLflow sets them, that the containers of the RayJob get.

Never MLFLOW_TRACKING_TOKEN, _USERNAME or _PASSWORD: everybody who may read a RayJob would see their values.
"""
SHELL_SAFE = re.compile(r"[\w@%+=:,./~-]+", re.ASCII)
"""Text that every shell on the way leaves unchanged."""


def read_template(path: Path) -> Json:
    """Read the template of a RayJob.

    Raises:
        StageError: The file is missing or is not a RayJob.
    """
    try:
        template: Json = parse_yaml(path.read_text(encoding="utf-8"), strict=False)
        if template["kind"] == "RayJob" and pod_specs(template["spec"]):
            return template
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise StageError(
        f"SEGLINE_RAYJOB {path} is not the template of a RayJob; expected such as k8s/base/ray/rayjob.yaml"
    )


def fingerprint(params: Params, content_hash: str, image: str) -> str:
    """Return a hash of all that the candidates depend on; equal trainings share their folder in the bucket."""
    settings = asdict(params.train)
    del settings["checkpoints"]
    parts = (json.dumps(settings, sort_keys=True), params.seed, content_hash, image)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def rayjob_name(run: str) -> str:
    """Return the name of the RayJob of a run."""
    return f"{PREFIX}{_normalize(run.lower(), LONGEST_NAME - len(PREFIX), r'[^a-z0-9]+')}"


def heartbeat_url(training_url: str, name: str) -> str:
    """Return the object that says that a RayJob is followed; equal runs share their folder, but not this object."""
    return f"{training_url}/followed/{name}"


def make_rayjob(
    template: Json, params: Params, *, name: str, run: str, training_url: str, image: str, tracking_uri: str
) -> Json:
    """Return the RayJob to create: the template with a name, labels, an entry point, images and the environment.

    Args:
        template: The template of a RayJob.
        params: All parameters.
        name: The name of the RayJob.
        run: The id of the Kubeflow run.
        training_url: The folder of this training in the bucket, ``s3://bucket/prefix``.
        image: The image of every container.
        tracking_uri: The address of MLflow.
    """
    job: Json = json.loads(json.dumps(template))
    labels = {"app.kubernetes.io/part-of": "segline", "segline/run": _normalize(run or name, LONGEST_LABEL)}
    metadata = job.setdefault("metadata", {})
    metadata.pop("namespace", None)
    metadata |= {"name": name, "labels": metadata.get("labels", {}) | labels}
    put_into_queue(job, params)
    spec = job["spec"]
    spec["entrypoint"] = entrypoint(params, training_url=training_url, tracking_uri=tracking_uri)
    variables = {"MLFLOW_TRACKING_URI": tracking_uri, FOLLOWED: heartbeat_url(training_url, name)} | {
        variable: os.environ[variable] for variable in FORWARDED_VARIABLES if os.environ.get(variable)
    }
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
        variables[AUTOSCALING] = "1"
    for pod in pod_specs(spec):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            container["image"] = image
            others = [entry for entry in container.get("env", []) if entry["name"] not in variables]
            container["env"] = [*others, *({"name": key, "value": value} for key, value in variables.items())]
    return job


def pod_specs(spec: Json) -> list[Json]:
    """Return the pods of a RayJob: those of its head, its workers and its submitter."""
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"].get("workerGroupSpecs", [])]
    submitter = [spec["submitterPodTemplate"]["spec"]] if "submitterPodTemplate" in spec else []
    return [*(group["template"]["spec"] for group in groups), *submitter]


def entrypoint(params: Params, *, training_url: str, tracking_uri: str) -> str:
    """Return the command line that the head runs.

    It is read by two shells and by ``ray job submit``, which quotes as Windows does, one after the other.

    Raises:
        StageError: An address would be changed on the way, or would show a password.
    """
    document = as_document(params)
    document["train"]["checkpoints"] = f"{training_url}/checkpoints"
    addresses = {"dataset": f"{training_url}/dataset", "out": f"{training_url}/train"}
    addresses["tracking-uri"] = tracking_uri
    if "@" in tracking_uri:
        raise StageError(
            "the tracking URI holds a login, which everybody could read in the RayJob; "
            "remove it, and put it into the secret segline-mlflow-login"
        )
    for address in addresses.values():
        if not SHELL_SAFE.fullmatch(address):
            raise StageError(f"{address!r} has characters that a shell reads as its own; give another address")
    text = re.sub(r"\\\\|[`$!']", lambda match: f"\\u{ord(match[0][0]):04x}", json.dumps(document))
    words = [word for name, address in addresses.items() for word in (f"--{name}", address)]
    return shlex.join(["segline", "train", "--params", text, *words])


def _normalize(text: str, longest: int, forbidden: str = r"[^A-Za-z0-9]+") -> str:
    """Return a text that Kubernetes accepts as a name or label; one that had to change ends in a hash to be unique."""
    normalized = re.sub(forbidden, "-", text).strip("-")
    if normalized == text and len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{normalized[: longest - len(digest) - 1].strip('-')}-{digest}".strip("-")
