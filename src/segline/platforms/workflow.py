"""How a Kubeflow run ended that did not succeed, by Argo's record of it.

Kubeflow's own status of a run is what the pods wrote about themselves. A pod that is killed whole (memory, eviction,
deadline, lost node) or a driver that fails writes nothing, and the status stays ``RUNNING``. Argo's Workflow has a node
for each pod, which also outlives the pod.

The names of nodes follow from Kubeflow's compiler (kubeflow/pipelines 2.17, dag.go and container.go in
backend/src/v2/compiler/argocompiler): ``WORKFLOW.root.exit-handler-1.train.executor(0)`` is the first attempt at a
stage, and ``WORKFLOW.root.exit-handler-1.train-driver`` its driver, a pod or a plugin. The messages are those of
``inferFailedReason`` (argoproj/argo-workflows 4.0, workflow/controller/operator.go); they end with the text that a
container has left in its status, such as the mark of a stage that gave up.
"""

import base64
import gzip
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segline.errors import StageError, clip
from segline.files.retry import attempts
from segline.platforms.attempts import mark
from segline.platforms.kubernetes import TIMEOUTS_S, Json, configure, describe, transient_errors
from segline.redaction import redact

if TYPE_CHECKING:
    from kubernetes.client import V1Pod

WORKFLOWS = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflows"}
RUN_LABEL = "pipeline/runid"
"""Kubeflow's label of a run's Workflow and pods."""
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
NODE_ANNOTATION = "workflows.argoproj.io/node-name"
"""Argo's annotation of a pod with the name of its node."""
PATIENCE_S = 60.0
"""The time after which a Kubernetes that does not answer is given up: the exit handler has more to do."""
LOG_LINES = 100
"""The number of lines at the end of a log in which the error of a stage is looked for."""
LONGEST_REASON = 1000
FAILED, SKIPPED, SUCCEEDED = ("Failed", "Error"), ("Omitted", "Skipped"), "Succeeded"
EXIT_HANDLER = ".onExit"
"""The part of a node's name by which Argo marks those of an exit handler."""
GROUP = re.compile(r"|root|executor|(exit-handler|condition|condition-branches)-\d+")
"""The parts of a node's name that are no task: the groups of tasks, and what runs a task."""
ATTEMPT = re.compile(r"\(\d+\)$")
"""The end of the name of an attempt, which without it is the name of the node of all attempts."""
DELETED = "pod deleted"
"""Argo's message about a pod that is gone without a trace."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended that did not succeed.

    Attributes:
        state: ``FAILED``, or ``CANCELED`` if somebody terminated the run.
        stage: The stage that failed, else the last that began; empty if none did.
        reason: Why it ended, in a line; empty if no step has failed for good and nobody terminated the run.
    """

    state: str = "FAILED"
    stage: str = ""
    reason: str = ""


def find_ending(run: str) -> Ending:
    """Return how a run ended.

    Args:
        run: The id of the Kubeflow run.

    Raises:
        StageError: Kubernetes cannot be reached, refuses to answer, or has no record of the run.
    """
    return _Run(run).ending()


class _Run:
    """The Workflow of a Kubeflow run, and its pods."""

    def __init__(self, run: str) -> None:
        from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi

        configuration, self.namespace = configure()
        client = ApiClient(configuration)
        self._objects, self._core = CustomObjectsApi(client), CoreV1Api(client)
        self.workflow = self._read(run)
        self.name: str = self.workflow["metadata"]["name"]

    def _read(self, run: str) -> Json:
        reason = ""
        for _ in attempts(within_s=PATIENCE_S):
            try:
                answer = self._objects.list_namespaced_custom_object(
                    **WORKFLOWS,
                    namespace=self.namespace,
                    label_selector=f"{RUN_LABEL}={run}",
                    _request_timeout=TIMEOUTS_S,
                )
            except transient_errors() as error:
                status, reason = getattr(error, "status", None) or 0, describe(error)
                if 400 <= status < 500 and status != 429:
                    break
                continue
            if not isinstance(answer, dict):
                reason = "the answer is not JSON"
                continue
            if not run or not answer["items"]:
                raise StageError(f"the namespace {self.namespace!r} has no Workflow of the run {run!r}")
            workflow: Json = answer["items"][-1]
            return workflow
        raise StageError(
            f"Kubernetes does not list Workflows ({reason}); the account of the pipeline needs the Role of "
            "k8s/base/accounts.yaml"
        )

    def ending(self) -> Ending:
        nodes = [
            node for node in self._nodes() if EXIT_HANDLER not in node["name"] and node.get("phase") not in SKIPPED
        ]
        nodes.sort(key=lambda node: node.get("startedAt") or "")
        failed = _failures(nodes)
        stages = [stage for node in failed[-1:] or nodes if (stage := self._stage(node))]
        reason = self._reason(self._decisive(failed)) if failed else ""
        state = "FAILED"
        if self._is_terminated():
            state, reason = "CANCELED", "; ".join(filter(None, ("the run was terminated", reason)))
        return Ending(state=state, stage=stages[-1] if stages else "", reason=clip(redact(reason), LONGEST_REASON))

    def _nodes(self) -> list[Json]:
        """Return the nodes, which Argo compresses in a large Workflow."""
        status = self.workflow.get("status") or {}
        packed = status.get("compressedNodes")
        nodes = json.loads(gzip.decompress(base64.b64decode(packed))) if packed else status.get("nodes")
        return list((nodes or {}).values())

    def _stage(self, node: Json) -> str:
        """Return the stage of a node or of its driver; empty for a node of a group of stages."""
        path = re.sub(r"\([^)]*\)", "", node["name"].removeprefix(self.name)).split(".")
        return next((task for part in path if not GROUP.fullmatch(task := part.removesuffix("-driver"))), "")

    def _decisive(self, failed: list[Json]) -> Json:
        """Return the failure that ended the run: the last, or of its stage the first attempt that gave up.

        Pods that Argo starts after that one only repeat its exit code, or are lost themselves.
        """
        of_stage = [node for node in failed if self._stage(node) == self._stage(failed[-1])]
        return next((node for node in of_stage if self._mark(node).search(_message(node))), failed[-1])

    def _mark(self, node: Json) -> re.Pattern[str]:
        """Return a pattern: the end of Argo's message about a pod in which the stage gave up, with the exit code."""
        return re.compile(f"(?:: )?{mark(re.escape(self._stage(node)), '([0-9]+)')}$")

    def _is_terminated(self) -> bool:
        """Return whether the run was terminated: Kubeflow sets a deadline of 0 then, and Argo itself ``shutdown``.

        Source: kubeflow/pipelines 2.17, backend/src/common/util/execution_spec.go, ``GetTerminatePatch``.
        """
        spec = self.workflow.get("spec") or {}
        return bool(spec.get("shutdown")) or spec.get("activeDeadlineSeconds") == 0

    def _reason(self, node: Json) -> str:
        given_up = self._mark(node).search(_message(node))
        message = self._mark(node).sub("", _message(node)).splitlines() or [f"{node['phase']} without a message"]
        pod = self._pod(node)
        # Kubeflow's launcher ends with 1, whatever the exit code of the stage, which it logs as "exit status 4".
        lines = [*message, *self._log(pod)]
        is_driver = re.sub(r"\([^)]*\)", "", node["name"]).endswith("-driver")
        errors = [line for line in lines if is_driver or line.startswith(f"segline {self._stage(node)}: ")]
        codes = [] if is_driver else re.findall(r"exit status (\d+)", "\n".join(lines))
        codes += [given_up[1]] if given_up else []
        parts = [
            "Kubeflow's driver failed" if is_driver else "",
            _cause(message[0].strip(), pod),
            f"exit code {codes[-1]} of the stage" if codes else "",
            *(error for error in errors[-1:] if error not in message[0]),
        ]
        return "; ".join(" ".join(part.split()) for part in parts if part)

    def _pod(self, node: Json) -> "V1Pod | None":
        """Return the pod of a node, if it is still there."""
        with suppress(*transient_errors()):
            pods = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{WORKFLOW_LABEL}={self.name}", _request_timeout=TIMEOUTS_S
            )
            for pod in pods.items:
                if (pod.metadata.annotations or {}).get(NODE_ANNOTATION) == node["name"]:
                    return pod
        return None

    def _log(self, pod: "V1Pod | None") -> list[str]:
        """Return the last lines of the log of a pod; none if the pod or its log is gone."""
        if pod is None or pod.metadata is None:
            return []
        with suppress(*transient_errors()):
            answer = self._core.read_namespaced_pod_log(
                pod.metadata.name,
                self.namespace,
                container="main",
                tail_lines=LOG_LINES,
                _preload_content=False,
                _request_timeout=TIMEOUTS_S,
            )
            return [line for line in answer.data.decode(errors="replace").splitlines() if line.strip()]
        return []


def _message(node: Json) -> str:
    return (node.get("message") or "").strip()


def _failures(nodes: list[Json]) -> list[Json]:
    """Return the nodes that failed, without attempts after which another one succeeded."""
    phases = {node["name"]: node.get("phase") for node in nodes}
    failed = [
        node for node in nodes if node.get("phase") in FAILED and phases.get(ATTEMPT.sub("", node["name"])) != SUCCEEDED
    ]
    # A node of another type only says that one of its children failed.
    return [node for node in failed if node.get("type") in ("Pod", "Plugin")] or failed


def _cause(message: str, pod: "V1Pod | None") -> str:
    """Return Argo's message about a pod, with Kubernetes' word for it, such as Evicted or DeadlineExceeded."""
    if message == DELETED:
        return f"{DELETED}: its node was lost, or somebody deleted it"
    word = (pod.status.reason if pod and pod.status else "") or ""
    return f"{word}: {message}" if word and word not in message else message
