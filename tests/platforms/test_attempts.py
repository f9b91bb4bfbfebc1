"""A stage in a pod is repeated by its exit code, in real processes, and asks a real server for earlier pods."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from servers import certificate, serving

from segline import cli
from segline.platforms import attempts

STAGE = """
import signal, sys, time
from pathlib import Path

def stop(*_):
    print("told", flush=True)
    sys.exit(75)

log, codes = Path(sys.argv[2]), sys.argv[3].split(",")
number = len(log.read_text().splitlines()) if log.exists() else 0
with log.open("a") as stream:
    print(*sys.argv[1:], file=stream)
if codes[number] == "wait":
    signal.signal(signal.SIGTERM, stop)
    print("runs", flush=True)
    time.sleep(60)
sys.exit(int(codes[number]))
"""
"""A stage that ends with one code after the other."""


@pytest.fixture(autouse=True)
def pod(tmp_path, monkeypatch):
    """The file with the mark of the pod; there is no Kubernetes yet."""
    for name in ("KUBERNETES_SERVICE_HOST", "SEGLINE_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEGLINE_RETRIES", "3")
    monkeypatch.setattr(attempts, "CHILD", STAGE)
    monkeypatch.setattr(attempts, "PAUSE_S", 0.0)
    monkeypatch.setattr(attempts, "MARK_FILE", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    return tmp_path / "termination-log"


@pytest.fixture
def stage(tmp_path):
    """``stage(codes)`` runs it; it returns the exit code and the number of attempts."""

    def run(codes):
        log = tmp_path / "attempts"
        log.unlink(missing_ok=True)
        code = attempts.run("train", ["train", str(log), codes])
        return code, len(log.read_text().splitlines()) if log.exists() else 0

    return run


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("0", (0, 1)),
        ("7,75,7,0", (0, 4)),
        ("7,7,7,7,0", (7, 4)),
        ("1,0", (0, 2)),
        ("1,1,0", (1, 2)),
        ("6,7,6,0", (6, 3)),
        ("3,0", (3, 1)),
        ("-9,0", (0, 2)),
        ("-9,-9,0", (137, 2)),
    ],
)
def test_a_stage_is_repeated_by_its_exit_code(codes, expected, stage, monkeypatch):
    monkeypatch.setattr(attempts, "CHILD", STAGE.replace("sys.exit(int", "end(int") + "\n")
    end = "def end(code):\n    import os\n    os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)\n"
    monkeypatch.setattr(attempts, "CHILD", f"import sys\n{end}{attempts.CHILD}")
    assert stage(codes) == expected


def test_what_is_repeated_is_told_with_the_pause(stage, capfd, monkeypatch):
    monkeypatch.setattr(attempts, "PAUSE_S", 0.01)
    stage("7,75,0")
    first, second = capfd.readouterr().err.splitlines()
    assert first == "segline train: attempt 1 ended with exit code 7; the next begins in 0.01 s"
    assert second == "segline train: attempt 2 ended with exit code 75; the next begins in 0.02 s"


def test_a_stage_that_gives_up_leaves_a_mark_and_one_that_is_stopped_leaves_none(stage, pod, tmp_path):
    stage("0")
    assert pod.read_text() == ""
    stage("3")
    assert pod.read_text() == "segline train gave up with exit code 3"
    pod.write_text("")
    code, output = stopped(tmp_path, "wait,0")
    assert code == 75
    assert output.splitlines() == ["told"]
    assert pod.read_text() == ""


def test_a_mark_that_cannot_be_written_does_not_change_the_exit_code(stage, pod):
    pod.unlink()
    pod.mkdir()
    assert stage("3") == (3, 1)


def stopped(tmp_path, codes, pause_s=0.0):
    """Run a stage in a process of its own and end that as Kubernetes does, by SIGTERM to its process group."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom segline.platforms import attempts\n"
        f"attempts.CHILD, attempts.PAUSE_S = {STAGE!r}, {pause_s}\n"
        f"attempts.MARK_FILE = Path({str(tmp_path / 'termination-log')!r})\n"
        f"sys.exit(attempts.run('train', ['train', {str(tmp_path / 'stopped')!r}, {codes!r}]))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, **pipes)
    assert process.stdout.readline()
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_a_stage_that_is_stopped_in_a_pause_does_not_begin_again(tmp_path, pod):
    assert stopped(tmp_path, "7,0", pause_s=60) == (7, "")
    assert len((tmp_path / "stopped").read_text().splitlines()) == 1
    assert pod.read_text() == ""


@pytest.fixture
def kubernetes(tmp_path, monkeypatch):
    """A Kubernetes with pods; returns a function that sets its answer."""
    ca, tls = certificate(tmp_path)
    asked, answers = [], {}

    def answer(request):
        asked.append(request)
        return answers["status"], {"Content-Type": "application/json"}, answers["body"]

    account = tmp_path / "account"
    account.mkdir()
    for name, text in {"token": "abc\n", "namespace": "segline", "ca.crt": ca.read_text()}.items():
        (account / name).write_text(text)
    monkeypatch.setattr(attempts, "ACCOUNT", account)
    with serving(answer, tls) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.address.rpartition(":")[2])
        monkeypatch.setenv("SEGLINE_RUN", "run-1")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

        def set_answer(body, status=200):
            answers.update(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())
            return asked

        yield set_answer


def pods(*messages):
    """Return a list of pods as the API has it, each with a message of its main container."""
    entries = [{"state": {"terminated": {"exitCode": 1, "message": message}}} for message in messages]
    status = [{"containerStatuses": [{"state": {"running": {}}}, entry]} for entry in entries]
    items = [{"metadata": {"name": f"pod-{number}"}, "status": entry} for number, entry in enumerate(status)]
    return {"items": [*items, {"metadata": {"name": "new"}, "status": {}}]}


def test_a_stage_ends_at_once_where_an_earlier_pod_gave_up(stage, pod, kubernetes, capfd):
    kubernetes(pods("OOM", "segline train gave up with exit code 3"))
    assert stage("0") == (3, 0)
    [line] = capfd.readouterr().err.splitlines()
    assert line == (
        "segline train: pod pod-1 gave up with exit code 3, and another attempt would not change that; see its log"
    )
    assert pod.read_text() == "segline train gave up with exit code 3"


@pytest.mark.parametrize("message", ["segline label gave up with exit code 3", "Error", ""])
def test_other_pods_of_the_run_do_not_end_a_stage(message, stage, kubernetes, capfd):
    asked = kubernetes(pods(message))
    assert stage("0") == (0, 1)
    assert capfd.readouterr().err == ""
    [request] = asked
    assert request.path == "/api/v1/namespaces/segline/pods?labelSelector=pipeline%2Frunid%3Drun-1"
    assert request.headers["Authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [(b"{}", 403, "it answers 403"), (b"<html>", 200, "Expecting value"), (b"{}", 200, "items"), (b"[]", 200, "list")],
)
def test_a_kubernetes_that_does_not_tell_does_not_keep_a_stage_from_its_work(
    body, status, reason, stage, kubernetes, capfd
):
    kubernetes(body, status)
    assert stage("0") == (0, 1)
    [line] = capfd.readouterr().err.splitlines()
    assert re.fullmatch(f".*does not tell about earlier pods of this run .*{reason}.*; the stage begins", line)


def test_the_command_line_repeats_only_in_a_pod_of_kubeflow(tmp_path, monkeypatch, capfd):
    monkeypatch.undo()
    monkeypatch.setattr(attempts, "PAUSE_S", 0.0)
    words = ["label", "--manifest", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    monkeypatch.delenv("SEGLINE_RETRIES", raising=False)
    assert cli.main(words) == 5
    plain = capfd.readouterr().err
    monkeypatch.setenv("SEGLINE_RETRIES", "3")
    assert cli.main(words) == 5
    assert capfd.readouterr().err == plain
    monkeypatch.setenv("SEGLINE_RETRIES", "many")
    assert cli.main(words) == 2
    assert "SEGLINE_RETRIES: got 'many', expected a number such as 3" in capfd.readouterr().err
