"""Training on GPU nodes: a RayJob of KubeRay that lives as long as the training. The only importer of kubernetes.

The pod that runs `segline train` brings the data to a bucket, makes the RayJob, shows its log and state, and fetches
the candidates. It holds nothing itself: when it is lost, the next one finds the RayJob by its name and follows it; when
the RayJob is lost, training goes on from the checkpoints in the bucket. A RayJob that no pod follows any more saves
itself and ends, by the lease that the pod renews.
"""

import hashlib
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from segline.config.params import ComponentSpec, Params, Train
from segline.config.spaces import Space
from segline.data.shards import read_dataset_info
from segline.errors import SeglineError, StageError, StoppedError, TrainingError
from segline.files import s3 as storage
from segline.files.atomic import MARK, writing
from segline.parallel import GROWS
from segline.progress import log
from segline.training.lease import FOLLOWED, heartbeat

PERMISSIONS = {"rayjobs": ("create", "delete", "get", "list", "watch"), "pods": ("list",), "pods/log": ("get",)}
"""What the service account may do; the Role in k8s/base has the same."""
GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
LONGEST_NAME = 47
"""KubeRay's limit: it makes other names from it."""
LONGEST_LABEL = 63
HANDED_ON = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_WORKSPACE",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "SEGLINE_RUN",
    "SEGLINE_COMMIT",
)
"""Variables of this pod, such as Kubeflow's plug-in for MLflow gives it.

Never MLFLOW_TRACKING_TOKEN, _USERNAME or _PASSWORD: whoever may see a RayJob would see their values.
"""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
OUTAGE_S = 900.0
"""Patience with a Kubernetes that does not answer."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
WATCH_S = 10
"""A watch is begun anew so often: a signal that comes just before a read begins is noticed only when the read ends."""
CONNECT_S, SILENCE_S = 10, 60
"""Patience with one request: for its beginning, and between two pieces of it."""
LOG_PAUSE_S = 2.0
LOG_END_S = 15.0
"""For the rest of the log when the job is over."""
DELETION_S = 300.0
ENDS = ("Complete", "Failed", "ValidationFailed")
SUBMITTER = "ray-job-submitter"
TOLD_LINES = 3
"""Of the log, in the error."""
PLAIN = re.compile(r"[\w@%+=:,./~-]+", re.ASCII)
"""What every shell on the way leaves as it is."""
MOMENT = re.compile(r"(\S+?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$")

Json = dict[str, Any]
Moment = tuple[int, int]


def train(params: Params, *, dataset_dir: Path, tracking_uri: str, out: Path, run: str, **_: bool) -> None:
    """Train on a Ray cluster made for it, and write what :func:`segline.stages.train.run` would write.

    Args:
        params: all of them.
        dataset_dir: what label wrote.
        tracking_uri: of MLflow.
        out: to write.
        run: the id of the Kubeflow run; without one the name of the RayJob follows from the data and parameters.

    Raises:
        StageError: Kubernetes or the environment is not set up for it, or the template has no worker for its trials.
        SourceError: the bucket cannot be written or read.
        TrainingError: the training failed.
        StoppedError: this process was told to end; the cluster trains on for a while, and the same command follows it.
    """
    template, image = _template(), _variable("SEGLINE_IMAGE", "the image of train")
    check_room(template, params.train)
    key = _fingerprint(params, read_dataset_info(dataset_dir).content_hash, image)
    place = f"{_variable('SEGLINE_STORE', 's3://bucket/prefix').rstrip('/')}/{key}"
    name = _name(run or key)
    job = make(template, params, name=name, run=run, place=place, image=image, tracking_uri=tracking_uri)
    cluster = _Cluster.here()
    with _stopping_by_sigterm(), heartbeat(_lease(place, name)):
        _bring(dataset_dir, f"{place}/dataset")
        cluster.create(job)
        try:
            failure = _follow(cluster, name)
            if not failure:
                _fetch(f"{place}/train", out)
        except KeyboardInterrupt:
            cluster.delete(name)
            raise
        cluster.delete(name)
    if failure:
        raise failure
    log(f"train: candidates in {out}, from {place}")


def delete(run: str) -> None:
    """Delete the RayJob of a Kubeflow run, and with it its cluster, if there is one.

    Raises:
        StageError: Kubernetes does not answer or does not let us.
    """
    if not run:
        return
    try:
        _Cluster.here().delete(_name(run))
    except StoppedError as error:
        raise StageError(str(error)) from None


def make(template: Json, params: Params, *, name: str, run: str, place: str, image: str, tracking_uri: str) -> Json:
    """The RayJob to create: the template with name, labels, entry point, images and environment.

    Args:
        template: of a RayJob.
        params: all of them.
        name: of the RayJob.
        run: the id of the Kubeflow run.
        place: ``s3://bucket/prefix`` of everything of this training.
        image: of every container.
        tracking_uri: of MLflow.
    """
    job: Json = json.loads(json.dumps(template))
    labels = {"app.kubernetes.io/part-of": "segline", "segline/run": _clean(run or name, LONGEST_LABEL)}
    meta = job.setdefault("metadata", {})
    meta.pop("namespace", None)
    meta |= {"name": name, "labels": meta.get("labels", {}) | labels}
    spec = job["spec"]
    spec["entrypoint"] = entrypoint(params, place=place, tracking_uri=tracking_uri)
    variables = {"MLFLOW_TRACKING_URI": tracking_uri, FOLLOWED: _lease(place, name)} | {
        word: os.environ[word] for word in HANDED_ON if os.environ.get(word)
    }
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
        variables[GROWS] = "1"
    for pod in _pods(spec):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            container["image"] = image
            others = [entry for entry in container.get("env", []) if entry["name"] not in variables]
            container["env"] = [*others, *({"name": word, "value": value} for word, value in variables.items())]
    return job


def check_room(template: Json, settings: Train) -> None:
    """See that some pod of the template can hold a worker of a trial, and that no trial lets its GPUs lie idle.

    Raises:
        StageError: none can, so that Ray would wait for one for ever, or all that can have GPUs that nobody uses.
    """
    cluster = template["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    rooms = [room for room in map(_room, groups) if room[0]]
    cpus, gpus = settings.cpus_per_worker, settings.gpus_per_worker
    fitting = [room for room in rooms if cpus <= room[0] and gpus <= room[1]]
    if fitting and (gpus or any(not room[1] for room in fitting)):
        return
    got = f"train.cpus_per_worker is {cpus} and train.gpus_per_worker {gpus:g}"
    have = " or ".join(f"{room[0]:g} cores and {room[1]:g} GPUs" for room in rooms) or "no cores"
    advice = "lower these, or give the template larger workers"
    if fitting:
        advice = "set train.gpus_per_worker, or give the template workers without GPUs"
    raise StageError(f"{got}, but a worker of {os.environ.get('SEGLINE_RAYJOB', 'the template')} has {have}; {advice}")


def _room(group: Json) -> tuple[float, float]:
    """Cores and GPUs of a pod as KubeRay tells them to Ray: of its parameters, else of the limits of its container."""
    told, container = group.get("rayStartParams", {}), group["template"]["spec"]["containers"][0]
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    cores = str(told.get("num-cpus") or limits.get("cpu") or resources.get("requests", {}).get("cpu") or "inf")
    cpus = math.ceil(float(cores[:-1]) / 1000) if cores.endswith("m") else float(cores)
    found = sum(float(value) for name, value in limits.items() if name.endswith("gpu"))
    return cpus, float(told.get("num-gpus", found))


def entrypoint(params: Params, *, place: str, tracking_uri: str) -> str:
    """The command line that the head runs.

    Two shells and ``ray job submit``, which quotes as Windows does, read it one after the other.

    Raises:
        StageError: an address would not come through, or would show a password.
    """
    document = _plain(params)
    document["train"]["checkpoints"] = f"{place}/checkpoints"
    addresses = {"dataset": f"{place}/dataset", "out": f"{place}/train", "tracking-uri": tracking_uri}
    if "@" in tracking_uri:
        raise StageError(
            "the tracking URI holds a login, which would stand in the RayJob for all to read; "
            "take it out, and put it into the secret segline-mlflow-login"
        )
    for address in addresses.values():
        if not PLAIN.fullmatch(address):
            raise StageError(f"{address!r} has characters that a shell reads as its own; give another address")
    text = re.sub(r"\\\\|[`$!']", lambda found: f"\\u{ord(found[0][0]):04x}", json.dumps(document))
    words = [word for name, address in addresses.items() for word in (f"--{name}", address)]
    return shlex.join(["segline", "train", "--params", text, *words])


def _plain(value: Any) -> Any:
    """A section as ``params.yaml`` has it."""
    if isinstance(value, ComponentSpec):
        weight = {} if value.weight == 1.0 else {"weight": value.weight}
        return {value.name: _plain(value.options) | weight}
    if isinstance(value, Space):
        ends = [int(end) if value.whole else end for end in (value.low, value.high)]
        return list(value.values) or {"low": ends[0], "high": ends[1], "log": value.log}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_sum(entry) if isinstance(entry, tuple) else _plain(entry) for entry in value]
    return value


def _sum(terms: tuple[ComponentSpec, ...]) -> Json:
    """Several losses as one entry."""
    return {name: options for term in terms for name, options in _plain(term).items()}


def _pods(spec: Json) -> list[Json]:
    """The pods of a RayJob: of its head, its workers and its submitter."""
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"].get("workerGroupSpecs", [])]
    submitter = [spec["submitterPodTemplate"]["spec"]] if "submitterPodTemplate" in spec else []
    return [*(group["template"]["spec"] for group in groups), *submitter]


def _template() -> Json:
    path = Path(os.environ["SEGLINE_RAYJOB"])
    try:
        template: Json = yaml.safe_load(path.read_text())
        if template["kind"] == "RayJob" and _pods(template["spec"]):
            return template
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        pass
    raise StageError(
        f"SEGLINE_RAYJOB {path} is not the template of a RayJob; expected such as k8s/base/ray/rayjob.yaml"
    )


def _variable(name: str, meaning: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise StageError(f"training on a Ray cluster needs {name} in the environment: {meaning}")
    return value


def _fingerprint(params: Params, content_hash: str, image: str) -> str:
    settings = asdict(params.train)
    del settings["checkpoints"]
    parts = (json.dumps(settings, sort_keys=True), params.seed, content_hash, image)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _name(run: str) -> str:
    """Of the RayJob of a run."""
    return f"segline-train-{_clean(run.lower(), LONGEST_NAME - len('segline-train-'), r'[^a-z0-9]+')}"


def _lease(place: str, name: str) -> str:
    """The object that says that a RayJob is followed; equal runs share a place, but not this."""
    return f"{place}/followed/{name}"


def _clean(text: str, longest: int, others: str = r"[^A-Za-z0-9]+") -> str:
    """A text as names and labels of Kubernetes may be; what that changes gets a hash, so that it stays unique."""
    cleaned = re.sub(others, "-", text).strip("-")
    if cleaned == text and len(text) <= longest:
        return text
    end = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{cleaned[: longest - len(end) - 1].strip('-')}-{end}".strip("-")


def _bring(folder: Path, url: str) -> None:
    """To the bucket, where it may lie already."""
    if storage.origin(folder) != url:
        storage.upload(folder, url)


def _fetch(url: str, out: Path) -> None:
    with writing(out) as work:
        shutil.copytree(storage.download(url), work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MARK))


def _follow(cluster: "_Cluster", name: str) -> SeglineError | None:
    """Show log and state until the job is over; returns why it failed, if it did."""
    shown, output = "", _Log(cluster, name)
    try:
        for job in cluster.states(name):
            status = job.get("status") or {}
            state = " ".join(filter(None, (status.get("jobDeploymentStatus"), status.get("jobStatus"))))
            if state and state != shown:
                log(f"train: RayJob {name}: {state}")
                shown = state
            if status.get("jobDeploymentStatus") in ENDS:
                output.finish()
                return _failure(name, status, list(output.kept)) if _has_failed(status) else None
    finally:
        output.stop()
    return TrainingError(f"RayJob {name} was deleted by somebody else; the same command begins it again")


def _has_failed(status: Json) -> bool:
    return status.get("jobDeploymentStatus") in ENDS and status.get("jobStatus") != "SUCCEEDED"


def _failure(name: str, status: Json, lines: list[str]) -> SeglineError:
    """What to tell of a job that failed: what KubeRay says, and the error of the command, or the end of the log."""
    message = " ".join(str(status.get("message", "")).split())
    own = [line for line in lines if line.startswith("segline train: ")][-1:] or lines[-TOLD_LINES:]
    told = "; ".join(filter(None, (status.get("reason"), message, *own))) or str(status.get("jobStatus", "no reason"))
    if f"exit code {StoppedError.exit_code}" in message:
        return StoppedError(f"RayJob {name} was told to stop and saved itself ({told}); the same command continues")
    return TrainingError(f"RayJob {name} failed: {told}")


@contextmanager
def _stopping_by_sigterm() -> Iterator[None]:
    """SIGTERM, a spot node's notice, ends this process alone; Ctrl-C stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise StoppedError("stopped; the Ray cluster trains on for half an hour, and the same command follows it")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class _Cluster:
    """The RayJobs of a namespace, asked for until Kubernetes answers."""

    api: Any
    """Of kubernetes: an ApiClient."""
    namespace: str

    @classmethod
    def here(cls) -> "_Cluster":
        """By KUBECONFIG, else as a pod does by its service account."""
        from kubernetes import client, config

        settings = client.Configuration()
        settings.retries = False
        try:
            if os.environ.get("KUBECONFIG"):
                config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise StageError(f"no way to Kubernetes ({error}); run it in a pod, or set KUBECONFIG") from None
        namespace = os.environ.get("SEGLINE_NAMESPACE", "")
        if not namespace and NAMESPACE_FILE.is_file():
            namespace = NAMESPACE_FILE.read_text().strip()
        return cls(client.ApiClient(settings), namespace or _variable("SEGLINE_NAMESPACE", "where RayJobs are made"))

    def create(self, job: Json) -> None:
        """Create a RayJob, or take the one that an earlier pod of the same run made.

        Raises:
            StageError: Kubernetes refuses it, or has another of this name.
        """
        name: str = job["metadata"]["name"]
        deadline = time.monotonic() + DELETION_S
        while time.monotonic() < deadline:
            if self._try_to_create(job):
                log(f"train: RayJob {name} created in {self.namespace}")
                return
            there = self._get(name)
            meta, status = there.get("metadata", {}), there.get("status") or {}
            if there and not meta.get("deletionTimestamp"):
                if there["spec"].get("entrypoint") != job["spec"]["entrypoint"]:
                    raise StageError(
                        f"RayJob {name} in {self.namespace} does something else; delete it, or give another --run"
                    )
                if not _has_failed(status):
                    log(f"train: RayJob {name} is there already; following it")
                    return
                self.delete(name)
            time.sleep(FIRST_PAUSE_S)
        raise StageError(f"RayJob {name} in {self.namespace} is being deleted and does not go; look at its finalizers")

    def delete(self, name: str) -> None:
        """Delete a RayJob, if it is there; its cluster goes with it."""
        self._ask("DELETE", self._jobs(name), body={"propagationPolicy": "Background"}, expected=(404,))

    def states(self, name: str) -> Iterator[Json]:
        """The RayJob whenever it has changed, until it is deleted.

        A watch ends in many ways, and then what was missed is unknown: the list says how things stand.
        """
        chosen = [("fieldSelector", f"metadata.name={name}")]
        pause = 0.0
        while True:
            found = self._ask("GET", self._jobs(), query=chosen)
            if not found["items"]:
                return
            yield found["items"][0]
            since = ("resourceVersion", found["metadata"]["resourceVersion"])
            began = time.monotonic()
            with suppress(*_passing()):
                for event in self._watch([*chosen, since]):
                    if event["type"] == "DELETED":
                        return
                    yield event["object"]
            lived = time.monotonic() - began > WATCH_S / 2
            pause = FIRST_PAUSE_S if lived or not pause else min(2 * pause, LONGEST_PAUSE_S)
            time.sleep(pause * random.uniform(0.5, 1))

    def submitter(self, name: str) -> Json | None:
        """The newest pod that submits the job, if there is one that has begun."""
        found = self._once("GET", self._core("pods"), query=[("labelSelector", f"job-name={name}")])
        begun = [pod for pod in found["items"] if (pod.get("status") or {}).get("phase") not in (None, "Pending")]
        return max(begun, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    @contextmanager
    def log(self, pod: str, since: str, *, follow: bool) -> Iterator[Iterator[str]]:
        """The lines of a pod's log with their times."""
        query = [("container", SUBMITTER), ("timestamps", "true")]
        query += [("follow", "true")] if follow else []
        query += [("sinceTime", since)] if since else []
        with closing(self._send("GET", self._core("pods", pod, "log"), query=query)) as stream:
            yield _lines(stream)

    def _watch(self, query: list[tuple[str, str]]) -> Iterator[Json]:
        more = [("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", str(WATCH_S))]
        with closing(self._send("GET", self._jobs(), query=[*query, *more])) as stream:
            for line in _lines(stream):
                event = json.loads(line)
                if event["type"] == "ERROR":  # as a rule 410: what comes after this version is no longer known
                    return
                if event["type"] != "BOOKMARK":
                    yield event

    def _try_to_create(self, job: Json) -> bool:
        return bool(self._ask("POST", self._jobs(), body=job, expected=(409,)))

    def _get(self, name: str) -> Json:
        return self._ask("GET", self._jobs(name), expected=(404,))

    def _jobs(self, *names: str) -> str:
        return "/".join(["/apis", GROUP, VERSION, "namespaces", self.namespace, PLURAL, *names])

    def _core(self, *names: str) -> str:
        return "/".join(["/api/v1/namespaces", self.namespace, *names])

    def _ask(self, method: str, path: str, *, expected: tuple[int, ...] = (), **words: Any) -> Json:
        """An answer in the end; an empty one where the status is an expected one.

        Raises:
            StageError: the request is refused.
            StoppedError: nobody answers.
        """
        from kubernetes.client import ApiException

        deadline, pause = time.monotonic() + OUTAGE_S, FIRST_PAUSE_S
        while True:
            try:
                return self._once(method, path, **words)
            except _passing() as error:
                if isinstance(error, ApiException):
                    if error.status in expected:
                        return {}
                    self._refuse_lasting(error, method)
                reason = _reason(error)
            if time.monotonic() > deadline:
                raise StoppedError(
                    f"Kubernetes has given no usable answer for {OUTAGE_S:.0f} s ({reason}); the same command goes on"
                )
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _refuse_lasting(self, error: Any, method: str) -> None:
        if error.status == 429 or error.status >= 500 or not error.status:
            return
        advice = {
            401: "is the token of the service account valid?",
            403: "the service account needs the Role of k8s/base/accounts.yaml",
            404: f"is KubeRay installed, and the namespace {self.namespace!r} there?",
        }.get(error.status, "look at the template in SEGLINE_RAYJOB")
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "read")
        raise StageError(f"Kubernetes does not let us {verb} RayJobs ({_reason(error)}); {advice}") from None

    def _once(self, method: str, path: str, *, query: list[tuple[str, str]] | None = None, body: Any = None) -> Json:
        with closing(self._send(method, path, query=query, body=body)) as stream:
            answer: Json = json.loads(stream.read())
            return answer

    def _send(self, method: str, path: str, *, query: list[tuple[str, str]] | None = None, body: Any = None) -> Any:
        """A request; its answer as a stream."""
        return self.api.call_api(
            path,
            method,
            query_params=query or [],
            header_params={"Accept": "*/*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(CONNECT_S, SILENCE_S),
        )


def _passing() -> tuple[type[Exception], ...]:
    """What a request may meet: an answer that is none, a connection that breaks, half a line of JSON."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    return ApiException, HTTPError, ValueError


def _reason(error: Exception) -> str:
    """What Kubernetes says, in one line."""
    status, body = getattr(error, "status", None), getattr(error, "body", "")
    with suppress(ValueError, TypeError, KeyError):
        return f"{status}: {' '.join(str(json.loads(body)['message']).split())}"
    return f"{status}: {getattr(error, 'reason', '')}" if status else storage.one_line(error)


def _lines(stream: Any) -> Iterator[str]:
    """The lines of a stream; of one that breaks off not the last, which may not be whole."""
    rest = b""
    for piece in stream.stream(amt=None, decode_content=False):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line:
                yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


class _Log:
    """A thread that prints the log of the pod that submits the job, every line once."""

    def __init__(self, cluster: _Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.kept: deque[str] = deque(maxlen=50)
        self.pod, self.at, self.times = "", (0, 0), 0
        """The newest line's pod and time, and how many lines have this time."""
        self.is_over, self.is_stopped = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def finish(self) -> None:
        """Print the rest, as the job is over."""
        self.is_over.set()
        self.thread.join(LOG_END_S)

    def stop(self) -> None:
        """Print no more."""
        self.is_over.set()
        self.is_stopped.set()

    def _run(self) -> None:
        while not self.is_stopped.is_set():
            is_last = self.is_over.is_set()
            with suppress(*_passing()):
                self._read(follow=not is_last)
                if is_last:
                    return
            self.is_over.wait(LOG_PAUSE_S) if not is_last else self.is_stopped.wait(LOG_PAUSE_S)

    def _read(self, *, follow: bool) -> None:
        pod = self.cluster.submitter(self.name)
        if not pod:
            return
        if pod["metadata"]["name"] != self.pod:
            self.pod, self.at, self.times = pod["metadata"]["name"], (0, 0), 0
        with self.cluster.log(self.pod, self._since(), follow=follow) as lines:
            for at, text in self._new(lines):
                if self.is_stopped.is_set():
                    return
                self.times = self.times + 1 if at == self.at else 1 if at > self.at else self.times
                self.at = max(at, self.at)
                self.kept.append(text)
                print(text, flush=True)

    def _since(self) -> str:
        """The second of the newest line, as Kubernetes knows no fractions here."""
        return datetime.fromtimestamp(self.at[0], UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if self.times else ""

    def _new(self, lines: Iterator[str]) -> Iterator[tuple[Moment, str]]:
        """The lines that were not there before; several may have the same time."""
        newest, left = self.at, self.times
        for line in lines:
            moment, _, text = line.partition(" ")
            at = _moment(moment)
            if left and at < newest:
                continue
            if left and at == newest:
                left -= 1
                continue
            left = 0
            yield at, text


def _moment(text: str) -> Moment:
    """Seconds and nanoseconds; Kubernetes leaves zeros at the end of the latter out."""
    found = MOMENT.match(text)
    if not found:
        raise ValueError(f"no time: {text}")
    seconds = datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00")).timestamp()
    return int(seconds), int((found[2] or "0").ljust(9, "0")[:9])
