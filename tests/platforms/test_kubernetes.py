"""The client of Kubernetes, against a server that speaks its API, and the windows of a log against a simulated one."""

import math
import random
import time

import pytest
from kubernetes.config import incluster_config
from kubernetes_api import NAMESPACE, Fault, kubernetes
from servers import certificate

from segline.errors import StageError, StoppedError
from segline.files import retry
from segline.platforms import kubernetes as kubernetes_module
from segline.platforms.kubernetes import RayJobApi, SubmitterLog, transient_errors

JOB = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "one"}, "spec": {}}


@pytest.fixture
def kube(tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("SEGLINE_NAMESPACE", NAMESPACE)
    with kubernetes(tmp_path) as server:
        server.jobs["one"] = JOB
        yield server


@pytest.fixture
def api(kube):
    return RayJobApi.from_environment()


def test_a_token_that_rotates_is_read_anew(tmp_path, monkeypatch):
    """The client itself looks at the file once a minute; a service account's token lives for an hour at least."""
    path, tls = certificate(tmp_path)
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("SEGLINE_NAMESPACE", NAMESPACE)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(path))
    with kubernetes(tmp_path, tls) as server:
        host, port = server.address.removeprefix("https://").split(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        server.token, server.jobs["one"] = "first", JOB
        api = RayJobApi.from_environment()
        assert api.get("one") == JOB
        server.token = "second"
        token.write_text("second")
        with pytest.raises(StageError, match="is the token of the service account valid"):
            api.get("one")
        later = type("Later", (), {"now": lambda: datetime.now() + timedelta(seconds=61)})
        datetime, timedelta = incluster_config.datetime.datetime, incluster_config.datetime.timedelta
        clock = type("Clock", (), {"datetime": later, "timedelta": timedelta})
        monkeypatch.setattr(incluster_config, "datetime", clock)
        assert api.get("one") == JOB


def test_a_server_that_is_silent_is_asked_again(kube, api, monkeypatch):
    monkeypatch.setattr(kubernetes_module, "TIMEOUTS_S", (10, 0.5))
    kube.faults = [Fault(verb="get", silence_s=3)]
    assert api.get("one") == JOB


@pytest.mark.parametrize("resource", ["pods", "pods/log"])
def test_a_log_of_a_server_that_is_silent_is_given_up_for_now(kube, api, monkeypatch, resource):
    monkeypatch.setattr(kubernetes_module, "TIMEOUTS_S", (10, 0.5))
    kube.add_pod("pod", "one")
    kube.log("pod", "hello")
    kube.faults = [Fault(verb="list" if resource == "pods" else "get", resource=resource, silence_s=3)]
    log = SubmitterLog(api, "one")
    with pytest.raises(transient_errors()):
        log.read_new()
    assert log.read_new() == ["hello"]


@pytest.mark.parametrize("text", ["<html>log in</html>", '{"kind": "RayJo', "[]"])
def test_an_answer_that_is_no_object_is_none(kube, api, monkeypatch, text):
    """The client returns a body that it cannot parse as if it were the answer."""
    kube.faults = [Fault(verb="get", text=text)]
    assert api.get("one") == JOB
    monkeypatch.setattr(kubernetes_module, "OUTAGE_S", 0.0)
    kube.faults = [Fault(verb="get", text=text)]
    with pytest.raises(StoppedError, match=r"for 0 s \(the answer is not JSON\); the same command goes on"):
        api.get("one")


def test_a_request_is_sent_once_only(kube, api):
    """The client's own repetition would send it again after an error of the connection."""
    kube.faults = [Fault(verb="delete")]
    kube.deletion_s = 0.01
    api.delete("one")
    assert kube.count("delete") == 1


def test_what_does_not_exist_is_none_and_a_name_that_is_taken_is_not_created(kube, api):
    assert api.get("two") is None
    api.delete("two")
    assert api.submitter_pod("one") is None
    kube.jobs.clear()
    kube.on_create = None
    kube.jobs["one"] = JOB
    assert api.create(JOB) is False


def test_the_newest_pod_that_has_started_submits_the_job(kube, api):
    kube.add_pod("old", "one", "2026-01-01T00:00:00Z", phase="Failed")
    kube.add_pod("new", "one", "2026-01-01T00:10:00Z")
    kube.add_pod("other", "two", "2026-01-01T00:20:00Z")
    kube.add_pod("pending", "one", "2026-01-01T00:30:00Z", phase="Pending")
    assert api.submitter_pod("one") == "new"


def test_a_line_of_a_log_is_text_whatever_it_holds(kube, api):
    """A log of one line of JSON is no JSON to the client, and no line is split at a form feed."""
    kube.add_pod("pod", "one")
    lines = ['{"a": 1}', "a\x0cb\u2028c", "  indented", "ünï"]
    log = SubmitterLog(api, "one")
    for line in lines:
        kube.log("pod", line)
        assert log.read_new() == [line]
    assert log.read_new() == []


def test_the_log_of_a_new_pod_is_read_from_its_beginning(kube, api):
    kube.add_pod("old", "one")
    kube.log("old", "same", "2026-01-01T00:00:00Z")
    log = SubmitterLog(api, "one")
    assert log.read_new() == ["same"]
    kube.add_pod("new", "one", "2026-01-02T00:00:00Z")
    kube.log("new", "same", "2026-01-01T00:00:00Z")
    assert log.read_new() == ["same"]


class SimulatedLog:
    """A log whose server has its own clock, and whose answers and lines are late by some seconds."""

    def __init__(self, seed):
        self.random, self.failures = random.Random(seed), 0.3
        self.now, self.lines, self.sent, self.answered = 0.0, [], 0, 0

    def work(self, seconds):
        """Write lines, several of which are equal in text and time; one may be late by some seconds."""
        end = self.now + seconds
        while self.now < end:
            self.now += self.random.choice([0, 0, 0.5, 7])
            late = self.random.choice([0, 0, 0, 4])
            self.lines.append((self.now - late, f"{self.now - late:012.3f} {self.random.choice('abc')}"))

    def submitter_pod(self, name):
        return "pod"

    def log_lines(self, pod, since_s):
        if self.random.random() < self.failures:
            self.work(self.random.choice([0, 15]))
            raise ValueError("no answer")
        self.work(self.random.choice([0, 0, 8, 25]))
        start = -math.inf if since_s is None else self.now - since_s
        window = [text for moment, text in self.lines if moment >= start]
        self.sent += len(window)
        self.answered = len(self.lines)
        self.work(self.random.choice([0, 5]))
        return window


@pytest.mark.parametrize("seed", range(10))
def test_every_line_is_returned_once_in_order_however_late_answers_are(monkeypatch, seed):
    server = SimulatedLog(seed)
    monkeypatch.setattr(time, "monotonic", lambda: server.now)
    log, returned = SubmitterLog(server, "one"), []
    for _ in range(60):
        server.work(server.random.choice([0, 3, 3, 3, 400]))
        try:
            returned += log.read_new()
        except ValueError:
            continue
    server.failures = 0.0
    returned += log.read_new()
    assert returned == [text.partition(" ")[2] for _, text in server.lines[: server.answered]]
    assert server.sent < 10 * len(server.lines), "windows, not the whole log"


@pytest.mark.parametrize("status", [301, 400, 403, 422])
def test_a_refusal_ends_at_once(kube, api, status):
    kube.faults = [Fault(verb="get", status=status)]
    with pytest.raises(StageError, match=rf"^Kubernetes refuses to read RayJobs \({status}: .*\); "):
        api.get("one")
    assert kube.count("get") == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_status_is_waited_for(kube, api, status):
    kube.faults = [Fault(verb=verb, status=status) for verb in ("get", "delete")]
    assert api.get("one") == JOB
    api.delete("one")
    assert kube.count("delete") == 2
