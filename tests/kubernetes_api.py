"""A server that speaks the API of Kubernetes as far as RayJobs, their pods and logs go, with the faults of a real one.

RayJobs that are created are checked against KubeRay's own definition, where that is at hand.
"""

import json
import re
import threading
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml
from servers import listening

TOKEN = "secret-token"
NAMESPACE = "lines"
CRD = Path(__file__).parents[2] / "shared" / "schemas" / "ray.io_rayjobs.yaml"
JOBS = re.compile(rf"/apis/ray\.io/v1/namespaces/{NAMESPACE}/rayjobs(?:/(?P<name>[^/]+))?")
PODS = re.compile(rf"/api/v1/namespaces/{NAMESPACE}/pods(?:/(?P<name>[^/]+)/log)?")


@cache
def schema():
    """Of a RayJob, strict; none where it is not at hand."""
    if not CRD.exists():
        return None
    versions = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (found,) = [entry["schema"]["openAPIV3Schema"] for entry in versions if entry["name"] == "v1"]
    return _closed(found)


def _closed(node):
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(value) for name, value in node.items() if name != "description" or isinstance(value, dict)}
    if isinstance(node.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in node:
        closed.setdefault("additionalProperties", False)
    return closed


@dataclass
class Fault:
    """What the next request of a kind meets.

    Attributes:
        verb: of the request, such as ``watch``.
        resource: such as ``pods/log``.
        status: to answer; 0 closes the connection instead.
        after: pieces of a stream to send before; then a watch's ``status`` is an event, as Kubernetes has it.
    """

    verb: str
    resource: str = "rayjobs"
    status: int = 0
    after: int = 0


@dataclass
class Pod:
    """A pod and the lines of its log, each with its time."""

    labels: dict
    created: str
    phase: str = "Running"
    log: list = field(default_factory=list)


@dataclass
class Kubernetes:
    """What the server knows, and what it was asked.

    Attributes:
        jobs: by name.
        pods: by name.
        faults: each is met once, by the first request that it fits.
        forbidden: pairs of verb and resource.
        done: pairs of verb and resource that were asked for.
        asked: all of them in order, with the status of the answer.
        on_create: called in a thread of its own with the server and a job's name.
        deletion_s: how long a deleted job stays.
    """

    jobs: dict = field(default_factory=dict)
    pods: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    forbidden: set = field(default_factory=set)
    asked: list = field(default_factory=list)
    on_create: object = None
    deletion_s: float = 0.0
    version: int = 100
    oldest: int = 0
    events: list = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    address: str = ""
    is_down: bool = False

    @property
    def done(self):
        return {(verb, resource) for verb, resource, _ in self.asked}

    def count(self, verb, resource="rayjobs", status=None):
        return len([told for told in self.asked if told[:2] == (verb, resource) and status in (None, told[2])])

    def wait_for(self, is_so, seconds=30):
        with self.changed:
            assert self.changed.wait_for(lambda: is_so(self), seconds), (self.asked[-20:], self.jobs)

    def note(self, kind, job):
        """A change of a job, which watchers hear of."""
        with self.changed:
            self.version += 1
            job["metadata"]["resourceVersion"] = str(self.version)
            self.events.append((self.version, kind, deepcopy(job)))
            self.changed.notify_all()

    def set_status(self, name, deployment, status="", **more):
        with self.changed:
            told = {"jobDeploymentStatus": deployment} | ({"jobStatus": status} if status else {}) | more
            self.jobs[name]["status"] = told
            self.note("MODIFIED", self.jobs[name])

    def forget(self):
        """What happened so far, as Kubernetes does after some minutes."""
        with self.changed:
            self.version += 1
            self.oldest = self.version

    def add_pod(self, name, job, created="2026-01-01T00:00:00Z", **more):
        with self.changed:
            self.pods[name] = Pod({"job-name": job}, created, **more)
            self.changed.notify_all()

    def log(self, pod, text, moment=None):
        """A line of a pod's log."""
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
        job["metadata"] |= {"namespace": NAMESPACE, "uid": f"uid-{self.version}"}
        self.jobs[name] = job
        self.note("ADDED", job)
        if self.on_create:
            threading.Thread(target=self.on_create, args=(self, name), daemon=True).start()
        return 201, job

    def delete(self, name):
        if name not in self.jobs:
            return 404, refusal(404, f'rayjobs.ray.io "{name}" not found')
        job = self.jobs[name]
        if "deletionTimestamp" not in job["metadata"]:
            job["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
            self.note("MODIFIED", job)
            if self.deletion_s:
                threading.Timer(self.deletion_s, self._drop, (name,)).start()
            else:
                self._drop(name)
        return 200, job

    def _drop(self, name):
        with self.changed:
            self.note("DELETED", self.jobs.pop(name))


@cache
def _validator():
    return jsonschema.Draft202012Validator(schema())


def refusal(status, message):
    return {"kind": "Status", "status": "Failure", "message": message, "code": status, "reason": str(status)}


def _second(text):
    return text[:19]


@contextmanager
def kubernetes(folder):
    """The server; its address and token are in ``folder/kubeconfig``."""
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
            for pattern, resource in ((JOBS, "rayjobs"), (PODS, "pods")):
                if found := pattern.fullmatch(parts.path):
                    return self.answer(resource, found["name"], json.loads(body) if body else None)
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
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self.send(401, refusal(401, "Unauthorized"))
            if (self.verb, self.resource) in kube.forbidden:
                return self.send(403, refusal(403, f"cannot {self.verb} resource {self.resource}"))
            if self.fault and not self.fault.after:
                if not self.fault.status:
                    return self.drop()
                return self.send(self.fault.status, refusal(self.fault.status, "as wanted"))
            return getattr(self, f"{self.verb}_{self.resource.replace('/', '_')}")(name, body)

        def reading(self, name):
            if self.query.get("watch") == "true":
                return "watch"
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
                there = name in kube.jobs
                self.send(*((200, kube.jobs[name]) if there else (404, refusal(404, f"{name} not found"))))

        def chosen(self):
            return self.query["fieldSelector"].removeprefix("metadata.name=")

        def list_rayjobs(self, name, body):
            with kube.changed:
                items = [job for name, job in kube.jobs.items() if name == self.chosen()]
                self.send(200, {"items": items, "metadata": {"resourceVersion": str(kube.version)}})

        def list_pods(self, name, body):
            key, _, value = self.query["labelSelector"].partition("=")
            with kube.changed:
                items = [
                    {
                        "metadata": {"name": name, "creationTimestamp": pod.created, "labels": pod.labels},
                        "status": {"phase": pod.phase},
                    }
                    for name, pod in kube.pods.items()
                    if pod.labels.get(key) == value
                ]
                self.send(200, {"items": items, "metadata": {"resourceVersion": str(kube.version)}})

        def watch_rayjobs(self, name, body):
            since = int(self.query["resourceVersion"])
            if since < kube.oldest:
                return self.send(410, refusal(410, "too old resource version"))
            if not self.begin():
                return None
            ends = time.monotonic() + int(self.query["timeoutSeconds"])
            first = {"metadata": {"resourceVersion": str(since)}}
            self.piece(json.dumps({"type": "BOOKMARK", "object": first}) + "\n")
            sent = 0
            while time.monotonic() < ends:
                with kube.changed:
                    kube.changed.wait_for(lambda since=since, sent=sent: self.after(since) or self.is_cut(sent), 0.2)
                    events = self.after(since)
                for version, kind, job in events:
                    if self.is_cut(sent):
                        return self.cut()
                    self.piece(json.dumps({"type": kind, "object": job}) + "\n")
                    since, sent = version, sent + 1
                if self.is_cut(sent):
                    return self.cut()
            return self.end()

        def after(self, since):
            name = self.chosen()
            return [e for e in kube.events if e[0] > since and e[2]["metadata"]["name"] == name]

        def is_cut(self, sent):
            return kube.is_down or (self.fault and sent >= self.fault.after)

        def cut(self):
            if self.fault and self.fault.status:
                self.piece(json.dumps({"type": "ERROR", "object": refusal(self.fault.status, "as wanted")}) + "\n")
                return self.end()
            self.wfile.write(b'40\r\n{"type": "MODI')
            return self.drop()

        def get_pods_log(self, name, body):
            assert self.query["container"] == "ray-job-submitter"
            assert self.query["timestamps"] == "true"
            follow, since = self.query.get("follow") == "true", _second(self.query.get("sinceTime", ""))
            if not self.begin():
                return None
            at, sent = 0, 0
            while True:
                with kube.changed:
                    pod = kube.pods[name]
                    is_over = not follow or pod.phase in ("Succeeded", "Failed")
                    if not is_over:
                        kube.changed.wait_for(
                            lambda pod=pod, at=at: len(pod.log) > at or pod.phase != "Running" or kube.is_down, 0.5
                        )
                    lines, at = pod.log[at:], len(pod.log)
                for moment, text in lines:
                    if _second(moment) < since:
                        continue
                    if self.is_cut(sent):
                        self.wfile.write(b"ff\r\n" + moment[:25].encode())
                        return self.drop()
                    self.piece(f"{moment} {text}\n")
                    sent += 1
                if is_over:
                    return self.end()

        def begin(self):
            self.note(200)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return True

        def piece(self, text):
            data = text.encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def end(self):
            self.wfile.write(b"0\r\n\r\n")

        def note(self, status):
            with kube.changed:
                kube.asked.append((self.verb, self.resource, status))
                kube.changed.notify_all()

        def send(self, status, content):
            if hasattr(self, "verb"):
                self.note(status)
            body = json.dumps(content).encode()
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

    with listening(Handler) as port:
        kube.address = f"http://127.0.0.1:{port}"
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
