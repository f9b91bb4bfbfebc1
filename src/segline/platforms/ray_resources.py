"""The cores and GPUs of the pods of a Ray cluster, and whether a worker of a trial fits into one."""

import math
import os

from segline.config.sections import Train
from segline.errors import StageError
from segline.platforms.kubernetes import Json


def check_resources(template: Json, settings: Train) -> None:
    """Check that a pod of the template can hold a worker of a trial, and that no trial leaves GPUs unused.

    Raises:
        StageError: No pod can hold one, so that Ray would wait without end; or all that can have GPUs that nobody uses.
    """
    cluster = template["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    pods = [resources for resources in map(pod_resources, groups) if resources[0]]
    cpus, gpus = settings.cpus_per_worker, settings.gpus_per_worker
    fitting = [pod for pod in pods if cpus <= pod[0] and gpus <= pod[1]]
    if fitting and (gpus or any(not pod[1] for pod in fitting)):
        return
    got = f"train.cpus_per_worker is {cpus} and train.gpus_per_worker {gpus:g}"
    available = " or ".join(f"{pod[0]:g} cores and {pod[1]:g} GPUs" for pod in pods) or "no cores"
    advice = "lower these, or give the template larger workers"
    if fitting:
        advice = "set train.gpus_per_worker, or give the template workers without GPUs"
    path = os.environ.get("SEGLINE_RAYJOB", "the template")
    raise StageError(f"{got}, but a worker of {path} has {available}; {advice}")


def pod_resources(group: Json) -> tuple[float, float]:
    """Return the cores and GPUs of a pod as KubeRay tells Ray: by its parameters, else by its container's limits."""
    parameters, container = group.get("rayStartParams", {}), group["template"]["spec"]["containers"][0]
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    cores = str(parameters.get("num-cpus") or limits.get("cpu") or resources.get("requests", {}).get("cpu") or "inf")
    cpus = math.ceil(float(cores[:-1]) / 1000) if cores.endswith("m") else float(cores)
    gpus = sum(float(value) for name, value in limits.items() if name.endswith("gpu"))
    return cpus, float(parameters.get("num-gpus", gpus))
