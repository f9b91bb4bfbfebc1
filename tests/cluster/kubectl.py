"""A cluster by way of kubectl: requests, waits that say what they saw last, and a report of what is in a namespace."""

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile

import pytest
import yaml

WAITS_S = {"api": 120, "pod": 300, "server": 900, "training": 3600, "run": 7200, "removal": 600}
"""The longest waits in seconds: for what a controller does at once, a small pod, a server with its volumes, a training,
a run of the pipeline, and the end of what was deleted."""
POLL_S = 2.0
NOT_PULLED = ("ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName")
SHOWN_LINES = 40
"""The lines of an event list, a log or a description that a report shows."""


class Refused(Exception):  # noqa: N818 - the name of what kubectl does
    """The command of kubectl that failed, and what it said."""


@dataclass(frozen=True)
class Cluster:
    """The cluster that KUBECONFIG names.

    Attributes:
        kubectl: The path of kubectl.
        waits_s: The longest waits in seconds, by the keys of WAITS_S.
    """

    kubectl: str
    waits_s: dict = field(default_factory=lambda: dict(WAITS_S))

    def run(self, *words, given=None, timeout_s=300, expected=(0,)):
        """Run kubectl with ``given`` as its input, and return what it prints.

        Raises:
            Refused: Its exit code is not expected, or it gives no answer in time.
        """
        command = [self.kubectl, *words]
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Refused(f"kubectl {' '.join(words)}: no answer in {timeout_s} s") from None
        if done.returncode not in expected:
            raise Refused(f"kubectl {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def get(self, kind, name, namespace=None):
        """Return an object, or None if there is none."""
        text = self.run("get", kind, name, *_in(namespace), "--ignore-not-found", "--output=json")
        return json.loads(text) if text.strip() else None

    def list(self, kind, namespace=None, selector=""):
        """Return the objects of a kind."""
        chosen = [f"--selector={selector}"] if selector else []
        return json.loads(self.run("get", kind, *_in(namespace), *chosen, "--output=json"))["items"]

    def apply(self, objects, *words):
        """Apply objects, and return the lines that kubectl prints, one for each of them."""
        return self.run("apply", *words, "--filename=-", given=_as_documents(objects)).splitlines()

    def differences(self, objects):
        """Return what an apply of the objects would change, as text; empty if nothing."""
        return self.run("diff", "--filename=-", given=_as_documents(objects), expected=(0, 1))

    def dry_run(self, made, *words):
        """Let the API server check and fill in a new object without keeping it; return it as it would be.

        Raises:
            Refused: The API server refuses it.
        """
        options = ["--dry-run=server", "--output=json", "--filename=-"]
        return json.loads(self.run("create", *options, *words, given=json.dumps(made)))

    def has_kind(self, crd):
        """Return whether an operator has defined a kind, such as ``rayjobs.ray.io``."""
        return self.get("customresourcedefinition", crd) is not None

    def delete(self, *words, wait=True):
        """Delete objects, which may be absent, and wait until they are gone."""
        seconds = self.waits_s["removal"]
        how = [f"--wait={str(wait).lower()}", "--ignore-not-found", f"--timeout={seconds}s"]
        self.run("delete", *words, *how, timeout_s=seconds + 60)

    def log(self, pod, namespace, *words):
        """Return the log of a pod."""
        return self.run("logs", pod, *_in(namespace), *words)

    def wait(self, what, look, limit):
        """Look until there is a result, and return it.

        Args:
            what: What is waited for, for the message.
            look: A function that returns the result, or None, and the state that it saw.
            limit: A key of WAITS_S.
        """
        seconds, state = self.waits_s[limit], "nothing"
        end = time.monotonic() + seconds
        while True:
            try:
                result, state = look()
            except Refused as error:
                result, state = None, str(error)
            if result is not None:
                return result
            if time.monotonic() > end:
                pytest.fail(
                    f"waited {seconds:g} s for {what}; last seen: {state} "
                    f"(a slow cluster: SEGLINE_CLUSTER_WAIT_{limit.upper()}={2 * seconds:g})",
                    pytrace=False,
                )
            time.sleep(min(POLL_S, seconds / 10))

    def wait_for_pod(self, name, namespace, limit="pod", phases=("Succeeded", "Failed")):
        """Wait until a pod is in one of the phases, and return it; skip the test if its image is not to be had."""

        def look():
            pod = self.get("pod", name, namespace)
            if pod is None:
                return None, "no such pod"
            skip_without_image(pod)
            return (pod if pod["status"].get("phase") in phases else None), pod_state(pod)

        return self.wait(f"pod {namespace}/{name} to be {' or '.join(phases)}", look, limit)

    def wait_for_rollout(self, kind, name, namespace):
        """Wait until all pods of a Deployment or StatefulSet are ready."""

        def look():
            entry = self.get(kind, name, namespace)
            if entry is None:
                return None, f"no such {kind}"
            chosen = ",".join(f"{key}={value}" for key, value in entry["spec"]["selector"]["matchLabels"].items())
            pods = self.list("pods", namespace, chosen)
            for pod in pods:
                skip_without_image(pod)
            status, wanted = entry.get("status", {}), entry["spec"].get("replicas", 1)
            seen = status.get("observedGeneration", 0) >= entry["metadata"].get("generation", 0)
            counts = (status.get("readyReplicas", 0), status.get("updatedReplicas", 0), len(pods))
            states = "; ".join(f"{pod['metadata']['name']}: {pod_state(pod)}" for pod in pods)
            state = f"{counts[0]} of {wanted} ready; {states or 'no pods'}"
            return (True if seen and counts == (wanted,) * 3 else None), state

        self.wait(f"{kind} {namespace}/{name} to be ready", look, "server")

    def wait_for_job(self, name, namespace, limit="server"):
        """Wait until a Job has succeeded; a job that failed fails the test with the end of its log."""

        def look():
            job = self.get("job", name, namespace)
            pods = self.list("pods", namespace, f"batch.kubernetes.io/job-name={name}")
            for pod in pods:
                skip_without_image(pod)
            ended = [entry["type"] for entry in job["status"].get("conditions", []) if entry["status"] == "True"]
            return (ended if {"Complete", "Failed"} & {*ended} else None), "; ".join(map(pod_state, pods)) or "no pods"

        if "Complete" not in self.wait(f"job {namespace}/{name} to end", look, limit):
            said = self.log(f"job/{name}", namespace, f"--tail={SHOWN_LINES}")
            pytest.fail(f"job {namespace}/{name} failed; the end of its log:\n{said}", pytrace=False)

    @contextmanager
    def forward(self, target, port, namespace):
        """Forward a free port of this machine to a service, and yield its address."""
        words = [self.kubectl, "port-forward", target, *_in(namespace), "--address=127.0.0.1", f":{port}"]
        # A file, since kubectl prints a line for each connection, and would stop at a pipe that nobody reads.
        with TemporaryFile() as said:
            process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
            try:
                yield f"http://127.0.0.1:{self._forwarded_port(process, said, words)}"
            finally:
                process.terminate()
                process.wait()

    def _forwarded_port(self, process, said, words):
        """Wait for the port that a process of ``kubectl port-forward`` says that it forwards."""

        def look():
            text = os.pread(said.fileno(), 10_000, 0).decode(errors="replace").strip()
            found = re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", text)
            if not found and process.poll() is not None:
                pytest.fail(f"{' '.join(words)}: {text}", pytrace=False)
            return found and found[1], text

        return self.wait(" ".join(words), look, "api")


def _in(namespace):
    return [f"--namespace={namespace}"] if namespace else []


def _as_documents(objects):
    return yaml.safe_dump_all(objects)


def pod_state(pod):
    """Return a line: the phase of a pod, and why a container of it waits, ended, or finds no node."""
    status = pod.get("status", {})
    parts = [status.get("phase", "Unknown"), status.get("reason", "")]
    parts += [
        f"{entry.get('reason', '')}: {entry.get('message', '')}"
        for entry in status.get("conditions", [])
        if entry["type"] == "PodScheduled" and entry["status"] == "False"
    ]
    for container in _statuses(pod):
        for what in ("waiting", "terminated"):
            if found := container.get("state", {}).get(what):
                code = f" (exit {found['exitCode']})" if "exitCode" in found else ""
                parts.append(
                    f"{container['name']}: {found.get('reason', what)}{code} {found.get('message', '')}".strip()
                )
    return ", ".join(filter(None, parts))


def skip_without_image(pod):
    """Skip the test if an image of the pod cannot be pulled."""
    for container in _statuses(pod):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in NOT_PULLED:
            pytest.skip(
                f"no image {container['image']} for the nodes ({waiting['reason']}); push it or copy it to the nodes, "
                "and name it with `make test-cluster REGISTRY=... TAG=...` (tests/cluster/README.md)"
            )


def _statuses(pod):
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def describe(cluster, namespace):
    """Return what is known of a namespace: its pods, the last events, and more of each pod that is not well.

    It never fails: what cannot be had is said in its place.
    """

    def ask(*words):
        try:
            return cluster.run(*words, *_in(namespace), timeout_s=60).rstrip()
        except Refused as error:
            return str(error)

    def end(text):
        return "\n".join(text.splitlines()[-SHOWN_LINES:])

    parts = ["# pods", ask("get", "pods", "--output=wide")]
    parts += ["# events", end(ask("get", "events", "--sort-by=.lastTimestamp"))]
    try:
        pods = cluster.list("pods", namespace)
    except Refused:
        pods = []
    for pod in pods:
        name = pod["metadata"]["name"]
        if not _is_well(pod):
            parts += [f"# pod {name}: {pod_state(pod)}", end(ask("describe", "pod", name))]
            parts += [f"# its log, {SHOWN_LINES} lines", ask("logs", name, "--all-containers", f"--tail={SHOWN_LINES}")]
    return "\n".join(parts)


def _is_well(pod):
    if pod.get("status", {}).get("phase") == "Succeeded":
        return True
    ready = [entry.get("ready") for entry in pod.get("status", {}).get("containerStatuses", [])]
    return bool(ready) and all(ready)
