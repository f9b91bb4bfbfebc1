"""Kubernetes: the way to it, the RayJobs of a namespace, the pods that submit them, and the logs of these pods.

The kubernetes package is imported inside functions, as its import takes a second.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segline.errors import StageError, StoppedError, one_line
from segline.files.retry import attempts

if TYPE_CHECKING:
    from kubernetes.client import Configuration

PERMISSIONS = {
    "rayjobs": ("create", "delete", "get"),
    "pods": ("list",),
    "pods/log": ("get",),
    "workflows": ("list",),
}
"""The rights of the service account; the Role in k8s/base grants the same."""
RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
SUBMITTER = "ray-job-submitter"
"""KubeRay's name of the container that submits the job, whose output is the output of the job."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
OUTAGE_S = 900.0
"""The time after which a Kubernetes that gives no usable answer is given up."""
TIMEOUTS_S = (10, 30)
"""The longest time to connect, and the longest silence of an answer; by default the client waits without end."""
LOG_OVERLAP_S = 60
"""The time by which a window of the log begins before the last read: more than a request and the log itself may lag."""

Json = dict[str, Any]


def require_variable(name: str, meaning: str) -> str:
    """Return the value of an environment variable.

    Raises:
        StageError: The variable is missing or empty.
    """
    value = os.environ.get(name, "")
    if not value:
        raise StageError(f"training on a Ray cluster needs {name} in the environment: {meaning}")
    return value


def configure() -> tuple["Configuration", str]:
    """Return the way to Kubernetes, and the namespace.

    The way is that of KUBECONFIG, else of the service account of this pod, whose token file the client re-reads.

    Raises:
        StageError: There is neither, or the namespace is unknown.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    # A refused answer has to be seen here; and a model that is stricter than the server must not reject its answer.
    configuration.retries, configuration.client_side_validation = False, False
    try:
        if os.environ.get("KUBECONFIG"):
            config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise StageError(f"no way to Kubernetes ({error}); run it in a pod, or set KUBECONFIG") from None
    namespace = os.environ.get("SEGLINE_NAMESPACE", "")
    if not namespace and NAMESPACE_FILE.is_file():
        namespace = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return configuration, namespace or require_variable("SEGLINE_NAMESPACE", "where RayJobs are made")


class RayJobApi:
    """The RayJobs of a namespace. Requests are repeated until Kubernetes answers, except for those of pods and logs."""

    def __init__(self, configuration: "Configuration", namespace: str) -> None:
        from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi

        client = ApiClient(configuration)
        self.namespace = namespace
        self._objects, self._core = CustomObjectsApi(client), CoreV1Api(client)
        self._resource = RAYJOBS | {"namespace": namespace}

    @classmethod
    def from_environment(cls) -> "RayJobApi":
        """Connect as :func:`configure` says."""
        return cls(*configure())

    def create(self, job: Json) -> bool:
        """Create a RayJob; return False if one of this name exists."""
        call = partial(self._objects.create_namespaced_custom_object, **self._resource, body=job)
        return self._retry("create", call, expected=409) is not None

    def get(self, name: str) -> Json | None:
        """Return a RayJob, or None if it does not exist."""
        call = partial(self._objects.get_namespaced_custom_object, **self._resource, name=name)
        return self._retry("read", call, expected=404)

    def delete(self, name: str, *, patience_s: float = math.inf) -> None:
        """Delete a RayJob, and with it its cluster, if it exists; give up after ``patience_s`` or ``OUTAGE_S``."""
        options = {"propagationPolicy": "Background"}
        call = partial(self._objects.delete_namespaced_custom_object, **self._resource, name=name, body=options)
        self._retry("delete", call, expected=404, patience_s=patience_s)

    def submitter_pod(self, name: str) -> str | None:
        """Return the name of the newest started pod that submits a RayJob, if there is one."""
        selector = f"job-name={name}"
        pods = self._core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=TIMEOUTS_S)
        started = [pod.metadata for pod in pods.items if pod.status and pod.status.phase not in (None, "Pending")]
        newest = max(started, key=lambda metadata: metadata.creation_timestamp, default=None)
        return newest and str(newest.name)

    def log_lines(self, pod: str, since_s: int | None) -> list[str]:
        """Return the lines of the log of a submitter that are at most ``since_s`` seconds old, with their times."""
        answer = self._core.read_namespaced_pod_log(
            pod,
            self.namespace,
            container=SUBMITTER,
            timestamps=True,
            since_seconds=since_s,
            # The client would parse a log of one line of JSON, and fail at bytes that are not UTF-8.
            _preload_content=False,
            _request_timeout=TIMEOUTS_S,
        )
        return [line for line in answer.data.decode(errors="replace").split("\n") if line]

    def _retry(
        self, verb: str, call: Callable[..., Any], *, expected: int, patience_s: float = math.inf
    ) -> Json | None:
        """Repeat a request until it is answered; return None for the expected status.

        Raises:
            StageError: Kubernetes refuses the request.
            StoppedError: Kubernetes gives no usable answer for ``patience_s``, or for ``OUTAGE_S``.
        """
        reason, patience_s = "", min(patience_s, OUTAGE_S)
        for _ in attempts(within_s=patience_s):
            try:
                answer = call(_request_timeout=TIMEOUTS_S)
                if isinstance(answer, dict):
                    return answer
                reason = "the answer is not JSON"
            except transient_errors() as error:
                status = getattr(error, "status", None)
                if status == expected:
                    return None
                reason = describe(error)
                if status and status < 500 and status != 429:
                    self._raise_permanent(status, reason, verb)
        raise StoppedError(
            f"Kubernetes has given no usable answer for {patience_s:.0f} s ({reason}); the same command goes on"
        )

    def _raise_permanent(self, status: int, reason: str, verb: str) -> None:
        advice = {
            401: "is the token of the service account valid?",
            403: "the service account needs the Role of k8s/base/accounts.yaml",
            404: f"is KubeRay installed, and does the namespace {self.namespace!r} exist?",
        }.get(status, "look at the template in SEGLINE_RAYJOB")
        raise StageError(f"Kubernetes refuses to {verb} RayJobs ({reason}); {advice}") from None


class SubmitterLog:
    """The log of the pod that submits a RayJob, of which every line is returned once.

    The log is read in windows that overlap, and lines that were in an earlier one are left out: they have equal text
    and time, and are counted, as several lines may be equal.
    """

    def __init__(self, api: RayJobApi, name: str) -> None:
        self.api, self.name = api, name
        self.pod: str | None = None
        self.seen: Counter[str] = Counter()
        self.read_at = -math.inf

    def read_new(self) -> list[str]:
        """Return the lines that are new since the last call, without their times.

        Raises:
            Exception: One of :func:`transient_errors`; the next call returns the lines.
        """
        pod = self.api.submitter_pod(self.name)
        if not pod:
            return []
        if pod != self.pod:
            self.pod, self.seen, self.read_at = pod, Counter(), -math.inf
        now, new, window = time.monotonic(), list[str](), Counter[str]()
        since_s = now - self.read_at + LOG_OVERLAP_S
        for line in self.api.log_lines(pod, None if math.isinf(since_s) else math.ceil(since_s)):
            window[line] += 1
            if window[line] > self.seen[line]:
                new.append(line)
        self.seen.update(new)
        self.read_at = now
        return [line.partition(" ")[2] for line in new]


def transient_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a request may meet: a refusal, a connection that breaks, an answer that cannot be read."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    return ApiException, HTTPError, ValueError


def describe(error: Exception) -> str:
    """Return what Kubernetes says of a request that failed, in one line."""
    status, body = getattr(error, "status", None), getattr(error, "body", "")
    with suppress(ValueError, TypeError, KeyError):
        return f"{status}: {' '.join(str(json.loads(body)['message']).split())}"
    return f"{status}: {getattr(error, 'reason', '')}" if status else one_line(error)
