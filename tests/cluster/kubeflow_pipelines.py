"""Kubeflow Pipelines as a user drives it: `python -m pipelines`, and its REST API for what that does not do."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from installing import ROOT
from kubectl import Refused

STAGES = ("ingest", "validate", "label", "train", "evaluate", "ensemble", "promote")
EXIT_HANDLER = "outcome"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
API = "/apis/v2beta1"
MODEL = "segline-tests"
SMALL = {
    "name": MODEL,
    "ingest.synthetic.drives": 20,
    "train.epochs": 2,
    "train.models": "[{unet: {width: 8}}]",
    "train.losses": "[dice]",
}
"""The changes to params.yaml that make a run of minutes."""
SIZES = ["--cpus=2", "--memory=4G", "--stage-cpus=1", "--stage-memory=4G", "--data-memory=2G", "--scratch=10Gi"]


@dataclass(frozen=True)
class Kubeflow:
    """One Kubeflow Pipelines.

    Attributes:
        cluster: The cluster in which the pods of the runs are.
        namespace: The namespace of the runs.
        address: The address of the API.
        token: The file of the token.
        options: The options of the tests.
    """

    cluster: object
    namespace: str
    address: str
    token: Path
    options: object

    def pipelines(self, command, *words, **changes):
        """Run a command of `python -m pipelines`, with parameters changed; return its exit code and what it says."""
        images = ["--registry", self.options.registry, "--tag", self.options.tag, *SIZES]
        pairs = [f"--set={key}={value}" for key, value in (SMALL | changes).items()]
        sent = [*images, *pairs] if command in ("run", "schedule") else []
        line = [sys.executable, "-m", "pipelines", command, "--endpoint", self.address, *sent, *words]
        environment = os.environ | {"SEGLINE_KUBEFLOW_TOKEN": str(self.token), "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        done = subprocess.run(
            line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=self.cluster.waits_s["run"]
        )
        return done.returncode, done.stdout + done.stderr

    def start(self, *words, **changes):
        """Start a run, and return its id."""
        code, said = self.pipelines("run", *words, **changes)
        found = re.search(r"run (\S+) started", said)
        assert code == 0, said
        assert found, said
        return found[1]

    def ask(self, path, method="GET"):
        """Send a request to the API, and return the answer.

        Raises:
            Refused: It is refused, or there is no answer; whoever waits asks again.
        """
        headers = {"Authorization": f"Bearer {self.token.read_text(encoding='utf-8').strip()}"}
        request = urllib.request.Request(f"{self.address}{API}/{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except OSError as error:
            raise Refused(f"{method} {request.full_url}: {error}") from None

    def end(self, run):
        """Wait until a run has ended, and return its state."""

        def look():
            state = self.ask(f"runs/{run}").get("state", "PENDING")
            return (state if state in ENDED else None), f"{state}; {self.pods_state(run)}"

        return self.cluster.wait(f"run {run} to end", look, "run")

    def pods(self, run, stage=None):
        """Return the pods of a run in which a stage runs: all, or those of one stage."""
        found = self.cluster.list("pods", self.namespace, f"pipeline/runid={run}")
        stages = [pod for pod in found if stage_of(pod)]
        return [pod for pod in stages if stage in (None, stage_of(pod))]

    def pods_state(self, run):
        return ", ".join(f"{stage_of(pod)} {pod['status'].get('phase')}" for pod in self.pods(run)) or "no stage yet"

    def wait_for_stage(self, run, stage):
        """Wait until a stage of a run computes, and return its pod."""

        def look():
            running = [pod for pod in self.pods(run, stage) if pod["status"].get("phase") == "Running"]
            return (running[0] if running else None), self.pods_state(run)

        return self.cluster.wait(f"stage {stage} of run {run} to run", look, "run")

    def terminate(self, run):
        self.ask(f"runs/{run}:terminate", "POST")


def stage_of(pod):
    """Return the stage whose command is in the pod, or an empty text for a pod of Kubeflow's own."""
    for container in pod["spec"]["containers"]:
        words = [*container.get("command", []), *container.get("args", [])]
        for before, word in pairwise(words):
            if before == "segline" and word in (*STAGES, EXIT_HANDLER):
                return word
    return ""
