"""A server that speaks the part of the Kubernetes API for RayJobs, Workflows, pods and logs, with a real one's faults.

RayJobs that are created are checked against KubeRay's own definition, where that is at hand.
"""

import json
import re
import threading
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml
from servers import listening

TOKEN = "secret-token"
NAMESPACE = "lines"
SECOND = "%Y-%m-%dT%H:%M:%S"
CRD = Path(__file__).parents[2] / "shared" / "schemas" / "ray.io_rayjobs.yaml"
JOBS = re.compile(rf"/apis/ray\.io/v1/namespaces/{NAMESPACE}/rayjobs(?:/(?P<name>[^/]+))?")
WORKFLOWS = re.compile(rf"/apis/argoproj\.io/v1alpha1/namespaces/{NAMESPACE}/workflows(?:/(?P<name>[^/]+))?")
PODS = re.compile(rf"/api/v1/namespaces/{NAMESPACE}/pods(?:/(?P<name>[^/]+)/log)?")


@cache
def schema():
    """Return the strict schema of a RayJob, or None where it is not at hand."""
    if not CRD.exists():
        return None
    versions = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (v1,) = [entry["schema"]["openAPIV3Schema"] for entry in versions if entry["name"] == "v1"]
    return _closed(v1)


def _closed(node):
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(value) for name, value in node.items() if name != "description" or isinstance(value, dict)}
    if isinstance(node.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in node:
        closed.setdefault("additionalProperties", False)
    return closed


@dataclass(kw_only=True)
class Fault:
    """What the next request of a kind meets.

    Attributes:
        verb: The verb of the request, such as ``get``.
        resource: The resource, such as ``pods/log``.
        status: The status of the answer; 0 closes the connection instead.
        after: The number of lines of a log to send before the connection is closed.
        silence_s: The time until the answer, which is then the right one.
        text: An answer that is sent in place of JSON, with status 200.
    """

    verb: str
    resource: str = "rayjobs"
    status: int = 0
    after: int = 0
    silence_s: float = 0.0
    text: str = ""


@dataclass
class Pod:
    """A pod and the lines of its log, each with its time.

    Attributes:
        annotations: Argo's annotations.
        reason: Kubernetes' word for the end of a pod, such as ``Evicted``.
        container: The container that writes the log.
    """

    labels: dict
    created: str
    phase: str = "Running"
    log: list = field(default_factory=list)
    annotations: dict = field(default_factory=dict)
    reason: str = ""
    container: str = "ray-job-submitter"


@dataclass
class Kubernetes:
    """The state of the server, and the requests that it got.

    Attributes:
        jobs: The RayJobs by name.
        pods: The pods by name.
        workflows: Argo's Workflows.
        faults: The faults to come; each is met once, by the first request that it fits.
        forbidden: The pairs of verb and resource that the account may not use.
        done: The pairs of verb and resource that were requested.
        asked: All requests in order: verb, resource and status of the answer.
        on_create: A function that is called in a thread of its own with the server and the name of a new job.
        deletion_s: The time that a deleted job stays.
        created: The jobs as they were created.
        token: The token that requests must have.
    """

    jobs: dict = field(default_factory=dict)
    pods: dict = field(default_factory=dict)
    workflows: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    forbidden: set = field(default_factory=set)
    asked: list = field(default_factory=list)
    on_create: object = None
    deletion_s: float = 0.0
    created: list = field(default_factory=list)
    token: str = TOKEN
    changed: threading.Condition = field(default_factory=threading.Condition)
    address: str = ""
    is_down: bool = False

    @property
    def done(self):
        return {(verb, resource) for verb, resource, _ in self.asked}

    def count(self, verb, resource="rayjobs", status=None):
        return len(
            [request for request in self.asked if request[:2] == (verb, resource) and status in (None, request[2])]
        )

    def wait_for(self, is_so, seconds=120):
        with self.changed:
            assert self.changed.wait_for(lambda: is_so(self), seconds), (self.asked[-20:], self.jobs)

    def set_status(self, name, deployment, status="", **more):
        with self.changed:
            self.jobs[name]["status"] = (
                {"jobDeploymentStatus": deployment} | ({"jobStatus": status} if status else {}) | more
            )
            self.changed.notify_all()

    def wait_until_polled(self):
        """Wait until the state of the jobs as it is now has been read."""
        with self.changed:
            before = self.count("get", status=200)
        self.wait_for(lambda kube: kube.count("get", status=200) > before)

    def add_pod(self, name, job, created="2026-01-01T00:00:00Z", **more):
        with self.changed:
            self.pods[name] = Pod({"job-name": job}, created, **more)
            self.changed.notify_all()

    def log(self, pod, text, moment=None):
        """Add a line to a pod's log."""
        with self.changed:
            self.pods[pod].log.append((moment or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z"), text))
            self.changed.notify_all()

    def end_pod(self, name, phase="Succeeded"):
        with self.changed:
            self.pods[name].phase = phase
            self.changed.notify_all()

    def create(self, job):
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, refusal(409, f'rayjobs.ray.io "{name}" already exists')
        if schema():
            wrong = [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(job)]
            if wrong:
                return 422, refusal(422, f"RayJob is invalid: {'; '.join(wrong)}")
        assert job["apiVersion"] == "ray.io/v1"
        assert job["kind"] == "RayJob"
        job["metadata"] |= {"namespace": NAMESPACE, "uid": f"uid-{len(self.created)}"}
        with self.changed:
            self.jobs[name] = job
            self.created.append(deepcopy(job))
            self.changed.notify_all()
        if self.on_create:
            threading.Thread(target=self.on_create, args=(self, name), daemon=True).start()
        return 201, job

    def delete(self, name):
        if name not in self.jobs:
            return 404, refusal(404, f'rayjobs.ray.io "{name}" not found')
        job = self.jobs[name]
        if "deletionTimestamp" not in job["metadata"]:
            job["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
            if self.deletion_s:
                threading.Timer(self.deletion_s, self._drop, (name,)).start()
            else:
                self._drop(name)
        return 200, job

    def _drop(self, name):
        with self.changed:
            del self.jobs[name]
            self.changed.notify_all()


@cache
def _validator():
    return jsonschema.Draft202012Validator(schema())


def refusal(status, message):
    return {"kind": "Status", "status": "Failure", "message": message, "code": status, "reason": str(status)}


@contextmanager
def kubernetes(folder, tls=None):
    """Run the server; its address and token are in ``folder/kubeconfig``."""
    kube = Kubernetes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_any(self):
            parts = urlsplit(self.path)
            self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if kube.is_down:
                return self.drop()
            for pattern, resource in ((JOBS, "rayjobs"), (WORKFLOWS, "workflows"), (PODS, "pods")):
                if match := pattern.fullmatch(parts.path):
                    return self.answer(resource, match["name"], json.loads(body) if body else None)
            return self.send(404, refusal(404, f"the server could not find the requested resource {parts.path}"))

        def answer(self, resource, name, body):
            self.resource = "pods/log" if resource == "pods" and name else resource
            self.verb = {"POST": "create", "DELETE": "delete"}.get(self.command) or self.reading(name)
            self.fault = None
            with kube.changed:
                fitting = [x for x in kube.faults if (x.verb, x.resource) == (self.verb, self.resource)]
                if fitting:
                    self.fault = fitting[0]
                    kube.faults.remove(self.fault)
            if self.headers["Authorization"].lower() != f"bearer {kube.token}":
                return self.send(401, refusal(401, "Unauthorized"))
            if (self.verb, self.resource) in kube.forbidden:
                return self.send(403, refusal(403, f"cannot {self.verb} resource {self.resource}"))
            if self.fault and self.fault.silence_s:
                time.sleep(self.fault.silence_s)
            elif self.fault and self.fault.text:
                return self.send(200, self.fault.text)
            elif self.fault and not self.fault.after:
                if not self.fault.status:
                    return self.drop()
                return self.send(self.fault.status, refusal(self.fault.status, "as wanted"))
            return getattr(self, f"{self.verb}_{self.resource.replace('/', '_')}")(name, body)

        def reading(self, name):
            return "get" if name else "list"

        def create_rayjobs(self, name, body):
            with kube.changed:
                self.send(*kube.create(body))

        def delete_rayjobs(self, name, body):
            assert body["propagationPolicy"] == "Background"
            with kube.changed:
                self.send(*kube.delete(name))

        def get_rayjobs(self, name, body):
            with kube.changed:
                exists = name in kube.jobs
                self.send(*((200, kube.jobs[name]) if exists else (404, refusal(404, f"{name} not found"))))

        def list_workflows(self, name, body):
            key, _, value = self.query["labelSelector"].partition("=")
            with kube.changed:
                items = [flow for flow in kube.workflows if flow["metadata"]["labels"].get(key) == value]
                self.send(200, {"kind": "WorkflowList", "items": items, "metadata": {}})

        def list_pods(self, name, body):
            key, _, value = self.query["labelSelector"].partition("=")
            with kube.changed:
                items = [
                    {
                        "metadata": {
                            "name": name,
                            "creationTimestamp": pod.created,
                            "labels": pod.labels,
                            "annotations": pod.annotations,
                        },
                        "status": {"phase": pod.phase} | ({"reason": pod.reason} if pod.reason else {}),
                    }
                    for name, pod in kube.pods.items()
                    if pod.labels.get(key) == value
                ]
                self.send(200, {"items": items, "metadata": {}})

        def get_pods_log(self, name, body):
            with kube.changed:
                pod = kube.pods.get(name)
            if not pod:
                return self.send(404, refusal(404, f'pods "{name}" not found'))
            assert self.query["container"] == pod.container
            timed, tail = self.query.get("timestamps", "").lower() == "true", int(self.query.get("tailLines", 10**9))
            since = ""
            if "sinceSeconds" in self.query:
                since = (datetime.now(UTC) - timedelta(seconds=int(self.query["sinceSeconds"]))).strftime(SECOND)
            with kube.changed:
                lines = pod.log[-tail:]
            self.begin()
            for number, (moment, text) in enumerate(line for line in lines if line[0][: len(since)] >= since):
                if self.fault and number >= self.fault.after:
                    self.wfile.write(b"ff\r\n" + moment[:25].encode())
                    return self.drop()
                self.piece(f"{moment} {text}\n" if timed else f"{text}\n")
            return self.wfile.write(b"0\r\n\r\n")

        def begin(self):
            self.note(200)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def piece(self, text):
            data = text.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def note(self, status):
            with kube.changed:
                kube.asked.append((self.verb, self.resource, status))
                kube.changed.notify_all()

        def send(self, status, content):
            if hasattr(self, "verb"):
                self.note(status)
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def drop(self):
            self.close_connection = True

        do_GET = do_POST = do_DELETE = do_any  # noqa: N815 - http.server's own names

        def log_message(self, *_):
            pass

    with listening(Handler, tls) as port:
        kube.address = f"{'https' if tls else 'http'}://localhost:{port}"
        (folder / "kubeconfig").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [{"name": "here", "cluster": {"server": kube.address}}],
                    "users": [{"name": "me", "user": {"token": TOKEN}}],
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "other"}}],
                }
            )
        )
        try:
            yield kube
        finally:
            kube.is_down = True
