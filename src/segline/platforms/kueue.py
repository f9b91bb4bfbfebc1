"""Kueue: a RayJob that waits in a queue until the cluster has room for all of it.

Kueue's webhook suspends a RayJob that names a queue, and resumes it when it is admitted. It refuses one whose cluster
outlives the job, and one with the autoscaler of Ray, unless the job is elastic, an alpha feature (kubernetes-sigs/kueue
0.13 and later, ``pkg/controller/jobs/rayjob/rayjob_webhook.go`` and ``raycluster/raycluster_webhook.go``).
"""

import math
import os

from segline.config.params import Params
from segline.config.sections import Train
from segline.platforms.kubernetes import Json
from segline.platforms.ray_resources import pod_resources
from segline.training.search.grid import first_round

QUEUE = "SEGLINE_QUEUE"
"""The environment variable that names the LocalQueue; without it a RayJob starts at once."""
PRIORITY = "SEGLINE_PRIORITY"
"""The environment variable that names the WorkloadPriorityClass."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
ELASTIC = "kueue.x-k8s.io/elastic-job"
"""The annotation of a template that keeps the autoscaler; Kueue must have ElasticJobsViaWorkloadSlices."""


def put_into_queue(job: Json, params: Params) -> None:
    """Add the labels of the queue that the environment names to a RayJob, and give its cluster a size that is fixed."""
    queue, priority = os.environ.get(QUEUE, ""), os.environ.get(PRIORITY, "")
    if not queue:
        return
    job["metadata"]["labels"] |= {QUEUE_LABEL: queue} | ({PRIORITY_LABEL: priority} if priority else {})
    job["spec"]["shutdownAfterJobFinishes"] = True
    if job["metadata"].get("annotations", {}).get(ELASTIC) != "true":
        _fix_size(job["spec"]["rayClusterSpec"], params)


def describe_state(job: Json) -> str:
    """Return the state of a RayJob for the log; empty while it has none."""
    status = job.get("status") or {}
    state = " ".join(filter(None, (status.get("jobDeploymentStatus"), status.get("jobStatus"))))
    queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    if queue and job["spec"].get("suspend"):
        state = f"{state or 'Suspended'}, it waits in the queue {queue} of Kueue; `kubectl get workloads` says for what"
    return state


def _fix_size(cluster: Json, params: Params) -> None:
    """Give each group as many workers as the trials of the first round use, at most ``maxReplicas``."""
    cluster["enableInTreeAutoscaling"] = False
    cluster.pop("autoscalerOptions", None)
    groups = cluster.get("workerGroupSpecs", [])
    needed = len(first_round(params.train, params.seed)) * params.train.workers_per_trial
    for group in groups:
        per_pod = _workers_in(group, params.train)
        if per_pod:
            group["replicas"] = min(int(group.get("maxReplicas", needed)), math.ceil(needed / per_pod))
            needed = max(0, needed - group["replicas"] * per_pod)
    head = cluster["headGroupSpec"]["template"]["spec"]
    if groups and "serviceAccountName" not in head:
        # KubeRay makes an account of its own only for the autoscaler.
        worker = groups[0]["template"]["spec"]
        head |= {
            name: worker[name] for name in ("serviceAccountName", "automountServiceAccountToken") if name in worker
        }


def _workers_in(group: Json, settings: Train) -> int:
    """Return the number of workers of trials that fit into a pod of a group at once; 0 for one with unused GPUs."""
    cpus, gpus = pod_resources(group)
    if bool(gpus) != bool(settings.gpus_per_worker):
        return 0
    fitting = math.floor(cpus / settings.cpus_per_worker)
    return min(fitting, math.floor(gpus / settings.gpus_per_worker)) if settings.gpus_per_worker else fitting
