"""A stage in the pod of a Kubeflow run: it is tried again where that may help, and nowhere else.

Argo knows only whether a pod failed or was lost: by default it repeats every pod that failed, and with Kubeflow's own
configuration none. It cannot tell exit codes apart, since Kubeflow's launcher ends with 1 whatever the stage's code is
(kubeflow/pipelines 2.17, backend/src/v2/cmd/launcher-v2/main.go). So the stage is a child of the process in the pod,
which repeats it by its exit code. When that gives up, it leaves a mark in the pod's status; a later pod of the same
stage and run, which Argo may start, finds it and ends at once. A pod that was killed leaves none.
"""

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlencode

from segline.errors import BusyError, ParamsError, SeglineError, StoppedError, TrackingError, TrainingError, one_line

VARIABLE = "SEGLINE_RETRIES"
"""The environment variable with the most repetitions of a stage for one exit code; without it nothing is repeated."""
REPEATED = (TrackingError.exit_code, StoppedError.exit_code, BusyError.exit_code)
"""The exit codes after which a stage is repeated as often as the variable says: what failed may be back in minutes."""
REPEATED_ONCE = (SeglineError.exit_code, TrainingError.exit_code)
"""The exit codes after which it is repeated once: chance may have part in it."""
PAUSE_S = 60.0
"""The pause before the first repetition; each one after it is twice as long."""
MARK_FILE = Path("/dev/termination-log")
"""The file whose text Kubernetes keeps in the status of the container, where the pod may write it."""
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 10.0
CHILD = "import sys; from segline.cli import main; sys.exit(main())"


def repetitions(code: int, retries: int) -> int:
    """Return how often a stage is repeated that ended with an exit code; the end by a signal counts as code 1."""
    if code in REPEATED:
        return retries
    return min(retries, 1) if code in REPEATED_ONCE or code < 0 else 0


def run(stage: str, words: list[str]) -> int:
    """Run a stage until it succeeds or cannot, and return its exit code.

    SIGTERM and Ctrl-C are passed on to the stage, and end the repetitions.

    Args:
        stage: The name of the stage.
        words: The arguments of the command line, the stage among them.

    Raises:
        ParamsError: The variable is no number.
    """
    retries = _retries()
    earlier = _earlier_end(stage)
    if earlier:
        pod, code = earlier
        _say(stage, f"pod {pod} gave up with exit code {code}, and another attempt would not change that; see its log")
        _leave_mark(stage, code)
        return code
    ended = Counter[int]()
    with _child() as child:
        while True:
            code = child.run(words)
            ended[code] += 1
            if code == 0 or child.stopped.is_set():
                break
            if ended[code] > repetitions(code, retries):
                _leave_mark(stage, _positive(code))
                break
            pause = PAUSE_S * 2.0 ** (ended.total() - 1)
            _say(
                stage, f"attempt {ended.total()} ended with exit code {_positive(code)}; the next begins in {pause:g} s"
            )
            if child.stopped.wait(pause):
                break
    return _positive(code)


def _retries() -> int:
    text = os.environ[VARIABLE]
    if not re.fullmatch("[0-9]+", text):
        raise ParamsError("the environment", [f"{VARIABLE}: got {text!r}, expected a number such as 3"])
    return int(text)


def _positive(code: int) -> int:
    """Return an exit code as a shell has it, where the end by a signal is 128 and its number."""
    return code if code >= 0 else 128 - code


def _say(stage: str, text: str) -> None:
    print(f"segline {stage}: {text}", file=sys.stderr, flush=True)


class _Child:
    """The process of the stage; it has a session of its own, so that a signal to this one's group reaches it once."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._signal = signal.SIGTERM
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False

    def run(self, words: list[str]) -> int:
        """Run it once, and return its exit code; the end by a signal is negative."""
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        command = [sys.executable, "-c", CHILD, *words]
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)
        self._tell()
        return self._process.wait()

    def stop(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on."""
        self._signal = signal.Signals(number)
        self.stopped.set()
        self._tell()

    def _tell(self) -> None:
        """Send the signal once, also where it comes while the process is being made."""
        if self._process and self.stopped.is_set() and not self._told:
            self._told = True
            self._process.send_signal(self._signal)


@contextmanager
def _child() -> Iterator[_Child]:
    """Yield the process to be, to which SIGTERM and Ctrl-C are passed on until the block ends."""
    child = _Child()
    before = {number: signal.signal(number, child.stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_mark(stage: str, code: int) -> None:
    """Write into the status of this pod that the stage has given up; without it a later pod tries it anew."""
    with suppress(OSError):
        if MARK_FILE.exists():
            MARK_FILE.write_text(mark(stage, str(code)), encoding="utf-8")


def mark(stage: str, code: str) -> str:
    """Return the text in the status of a pod in which a stage gave up; Argo's message about the pod ends with it."""
    return f"segline {stage} gave up with exit code {code}"


def _earlier_end(stage: str) -> tuple[str, int] | None:
    """Return the name and exit code of an earlier pod of the run in which the stage gave up, if there is one."""
    run_id = os.environ.get("SEGLINE_RUN", "")
    if not run_id or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    try:
        pods = _pods(f"pipeline/runid={run_id}")
        for pod in pods:
            for container in pod["status"].get("containerStatuses") or []:
                message = (container.get("state", {}).get("terminated") or {}).get("message") or ""
                if found := re.fullmatch(mark(re.escape(stage), "([0-9]+)"), message.strip()):
                    return str(pod["metadata"]["name"]), int(found[1])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
        _say(stage, f"Kubernetes does not tell about earlier pods of this run ({one_line(error)}); the stage begins")
    return None


def _pods(selector: str) -> list[dict[str, Any]]:
    """Return the pods of this namespace with a label. It needs no more than Python, as the image of ingest has no more.

    Raises:
        OSError: Kubernetes does not answer, or refuses.
    """
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
    token, namespace = ((ACCOUNT / name).read_text(encoding="utf-8").strip() for name in ("token", "namespace"))
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        path = f"/api/v1/namespaces/{namespace}/pods?{urlencode({'labelSelector': selector})}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise OSError(f"it answers {answer.status}")
    pods: list[dict[str, Any]] = json.loads(text)["items"]
    return pods
