"""What the API server makes of a pod in a namespace with a LimitRange and a ResourceQuota, and whether it admits it.

The order is Kubernetes' own: a request that is missing is the container's own limit; then the LimitRange gives
defaults; then the sums are compared with the quota (https://kubernetes.io/docs/concepts/policy/limit-range/, and
resource-quotas/ beside it).
"""

from kubeflow_facts import DRIVER, LAUNCHER
from manifests import GPU, Pod, find, name_of, of_kind, pods, template

COUNTED = ("cpu", "memory", GPU)


def amount(text):
    """Return a quantity of Kubernetes as a number."""
    units = {"m": 0.001, "Mi": 2**20, "Gi": 2**30, "G": 10**9}
    text = str(text)
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def defaulted(container, limit_range):
    """Return the requests and the limits of a container in the namespace, as numbers."""
    own = container.get("resources", {})
    limits, requests = dict(own.get("limits", {})), dict(own.get("requests", {}))
    requests = limits | requests
    limits = limit_range.get("default", {}) | limits
    requests = limit_range.get("defaultRequest", {}) | requests
    return tuple({name: amount(value) for name, value in entry.items()} for entry in (requests, limits))


def defaults(objects):
    (found,) = find(objects, "LimitRange", "segline")["spec"]["limits"]
    return found


def refused(made, objects):
    """Return the containers that Kubernetes refuses: with more requested than the limit, or nothing for the quota."""
    found = []
    for pod in made:
        for container in pod.containers:
            requests, limits = defaulted(container, defaults(objects))
            where = f"{pod.where} {container['name']}"
            found += [
                f"{where}: {name} {requests[name]:g} above the limit {limits[name]:g}"
                for name in requests.keys() & limits.keys()
                if requests[name] > limits[name]
            ]
            found += [f"{where}: no request of {name}" for name in ("cpu", "memory") if name not in requests]
    return sorted(found)


def requested(pod, objects):
    """Return what a pod requests: its containers together, or the largest of those that run before them."""
    first, together = (
        [defaulted(container, defaults(objects))[0] for container in pod.spec.get(part, [])]
        for part in ("initContainers", "containers")
    )
    return {
        name: max([sum(entry.get(name, 0) for entry in together), *(entry.get(name, 0) for entry in first)])
        for name in COUNTED
    }


def over_quota(objects, more=()):
    """Return what all pods, one Ray cluster at its largest, and ``more`` pods request beyond the quota."""
    hard = find(objects, "ResourceQuota", "segline")["spec"]["hard"]
    times = {name_of(entry): entry["spec"].get("replicas", 1) for entry in objects if "spec" in entry}
    (group,) = template(objects)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    times["RayJob worker"] = group["maxReplicas"]
    total = dict.fromkeys((*COUNTED, "pods"), 0.0)
    for pod in [*pods(objects), *more]:
        for name, value in (requested(pod, objects) | {"pods": 1}).items():
            total[name] += times.get(pod.where, 1) * value
    total["persistentvolumeclaims"] = sum(
        entry["spec"].get("replicas", 1) * len(entry["spec"].get("volumeClaimTemplates", []))
        for entry in of_kind(objects, "StatefulSet")
    )
    limit = {name: hard.get(f"requests.{name}", hard.get(name)) for name in total}
    return [f"{name}: {total[name]:g} of {limit[name]}" for name in total if total[name] > amount(limit[name])]


def task_pod(name, container):
    """Return the pod that Kubeflow and Argo make of a task of the compiled pipeline, as far as it concerns resources.

    Argo's containers, ``init`` and ``wait``, are taken to have none in Argo's configuration, and so get the defaults.
    """
    asked = container["resources"]
    limits = {"cpu": asked.get("resourceCpuLimit"), "memory": asked.get("resourceMemoryLimit")}
    requests = {"cpu": asked.get("resourceCpuRequest"), "memory": asked.get("resourceMemoryRequest")}
    if gpus := asked.get("accelerator"):
        limits[gpus["type"]] = gpus["count"]
    resources = {
        kind: {key: value for key, value in entry.items() if value is not None}
        for kind, entry in (("limits", limits), ("requests", requests))
    }
    spec = {
        "initContainers": [{"name": "init"}, {"name": "kfp-launcher", "resources": LAUNCHER}],
        "containers": [{"name": "main", "resources": resources}, {"name": "wait"}],
    }
    return Pod(name, {}, spec)


def driver_pod():
    """Return the pod that prepares a task."""
    spec = {
        "initContainers": [{"name": "init"}],
        "containers": [{"name": "main", "resources": DRIVER}, {"name": "wait"}],
    }
    return Pod("driver", {}, spec)
