"""What Argo does after a pod has ended, restated from its source so that what we compile can be judged by it.

argoproj/argo-workflows 4.0: workflow/controller/operator.go (mergedTemplateDefaultsInto, processNodeRetries,
podReconciliation, inferFailedReason) and pkg/apis/workflow/v1alpha1/workflow_types.go (RetryPolicyActual);
kubeflow/pipelines 2.17: backend/src/v2/compiler/argocompiler/container.go (getTaskRetryStrategyFromInput).
"""

from dataclasses import dataclass, field

KUBEFLOW = {"retryStrategy": {"limit": "2", "retryPolicy": "OnError"}}
"""The `templateDefaults` of Kubeflow Pipelines 2.17 (workflowDefaults in its workflow-controller-configmap)."""
REPEATED_PHASES = {"Always": {"Failed", "Error"}, "OnFailure": {"Failed"}, "OnError": {"Error"}}


@dataclass
class Pod:
    """A pod that has ended.

    Attributes:
        message: The message of its status, which the kubelet sets when it ends a pod.
        exits: The exit codes of its containers that are known.
        is_gone: Whether it vanished while it ran, so that Argo never saw its end.
    """

    message: str = ""
    exits: dict = field(default_factory=dict)
    is_gone: bool = False


def compiled_template(retry_policy):
    """Return a template as Kubeflow's compiler makes it of a task's retry policy: there is no `retryPolicy` in it."""
    backoff = {
        "duration": retry_policy["backoffDuration"],
        "factor": retry_policy["backoffFactor"],
        "maxDuration": retry_policy["backoffMaxDuration"],
    }
    return {"retryStrategy": {"limit": str(retry_policy["maxRetryCount"]), "backoff": backoff}}


def merged(defaults, template):
    """Return a template with the defaults in it: a strategic merge of maps, in which the template's values win."""
    if not (isinstance(defaults, dict) and isinstance(template, dict)):
        return template
    found = defaults | template
    return found | {key: merged(defaults[key], template[key]) for key in defaults.keys() & template.keys()}


def phase(pod):
    """Return the phase of a node by its pod."""
    if pod.is_gone:
        return "Error"  # "pod deleted"
    if pod.message:
        return "Failed"
    for name in ("init", "main", "wait"):
        if pod.exits.get(name, 0) != 0:
            return "Failed" if name == "main" else "Error"
    return "Succeeded" if pod.exits.keys() >= {"main", "wait"} else "Failed"


def repeats(template, ended):
    """Return whether another pod is started after a node's phase when ``ended`` pods of it have ended."""
    strategy = template.get("retryStrategy")
    if strategy is None or ended.phase == "Succeeded":
        return False
    policy = strategy.get("retryPolicy") or ("Always" if strategy.get("expression") else "OnFailure")
    return ended.phase in REPEATED_PHASES[policy] and ended.pods <= int(strategy["limit"])


@dataclass(frozen=True)
class Ended:
    """The phase of the last pod, and the number of pods."""

    phase: str
    pods: int


def pods_started(template, pod):
    """Return how many pods are started for a template when each ends as ``pod`` does."""
    number = 1
    while repeats(template, Ended(phase(pod), number)):
        number += 1
    return number
