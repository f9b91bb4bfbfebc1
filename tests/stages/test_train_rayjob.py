"""Training by a RayJob for real, as far as that goes without Kubernetes.

A server speaks its API. What KubeRay does with a RayJob is done here with Ray's own commands: a head and a worker in
the environment of their containers, which share no disk, and `ray job submit` with the entry point, whose output is the
log of the submitter. The candidates come back through a bucket.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from kubernetes_api import NAMESPACE, kubernetes
from servers import free_port, running
from shard_files import write_split

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.parallel import SETTINGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
IMAGE = "registry.example.org/segline/train:1a2b3c4"
TRAIN = {
    "models": [{"unet": {"width": 2, "depth": 1}}],
    "losses": ["dice", "cross_entropy"],
    "epochs": 60,
    "batch_size": 2,
    "search": {"scheduler": "none"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What label wrote: noise in two classes."""
    folder, rng = tmp_path_factory.mktemp("written"), np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_split(folder / "label" / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_dataset_info(
        folder / "label",
        DatasetInfo(
            classes=classes,
            background=0,
            crop_size=(32, 32),
            content_hash="c",
            source="h",
            source_hash="s",
            source_revision="",
            pixels={},
            test_is_val=False,
        ),
    )
    return folder


@pytest.fixture(scope="module")
def environment(s3):
    """What every container has: the way to the bucket; nothing of the tests."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "SEGLINE_"))}
    patient = {"RAY_raylet_start_wait_time_s": "200"}
    return keep | SETTINGS | patient | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def can_have_own_disk():
    """Whether we may give a process file systems of its own."""
    words = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return not os.geteuid() and bool(shutil.which("unshare")) and not subprocess.call(words, stderr=subprocess.DEVNULL)


def on_own_disk(words, disk):
    """The command with an empty file system at ``disk`` that it alone sees, if that can be."""
    if not can_have_own_disk():
        return words
    return ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {shlex.quote(str(disk))} && exec {shlex.join(words)}"]


class KubeRay:
    """Does what KubeRay does with a RayJob, once: a cluster, the job, its state and its end."""

    def __init__(self, environment, folder):
        self.environment, self.folder = environment, folder
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.submitted = {}
        self.seen = []
        self.cluster = ExitStack()
        self.failure = ""

    def __call__(self, kube, name):
        try:
            self.run(kube, name)
        except Exception as error:
            self.failure = f"{error!r} {getattr(error, 'stderr', '')}; {kube.pods['submitter-1'].log[-20:]}"
            kube.set_status(name, "Failed", reason="OurTest", message=self.failure)

    def close(self):
        """End what is still there, also of a test that failed."""
        self.cluster.close()

    def environment_of(self, container):
        told = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return self.environment | told | token | {"SEGLINE_CACHE": str(self.disk / "cache")}

    def run(self, kube, name):
        spec = kube.jobs[name]["spec"]
        self.token = secrets.token_hex(32)
        groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
        head, worker = (self.environment_of(group["template"]["spec"]["containers"][0]) for group in groups)
        submitter = self.environment_of(spec["submitterPodTemplate"]["spec"]["containers"][0])
        port, dashboard, probed = free_port(), free_port(), free_port()
        log = self.folder / "ray.log"
        kube.set_status(name, "Initializing")
        kube.add_pod("submitter-1", name, phase="Pending")
        start = ["ray", "start", "--block", "--disable-usage-stats"]
        with self.cluster as stack:
            head_words = [*start, "--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={self.folder}/ray"]
            head_words += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
            # In a cluster every pod has an address of its own.
            head_words += [f"--dashboard-agent-listen-port={probed}"]
            stack.enter_context(running(head_words, head, log))
            self.wait_for(f"http://127.0.0.1:{probed}/api/healthz")
            worker_words = [*start, f"--address=127.0.0.1:{port}", "--num-cpus=1"]
            worker_words += [f"--dashboard-agent-listen-port={free_port()}"]
            stack.enter_context(running(on_own_disk(worker_words, self.disk), worker, log))
            kube.set_status(name, "Running", "PENDING")
            self.submit(kube, name, f"http://127.0.0.1:{dashboard}", submitter)

    def wait_for(self, address):
        """Until the head is ready, by the probe of the template, which has no token."""
        deadline = time.monotonic() + 200
        while True:
            try:
                with urlopen(address, timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "ray.log").read_text()
                time.sleep(0.5)

    def submit(self, kube, name, address, environment):
        """As the submitter's container does, by a shell."""
        kube.end_pod("submitter-1", "Running")
        entrypoint = kube.jobs[name]["spec"]["entrypoint"]
        line = f"ray job submit --address={address} --submission-id={name} -- {entrypoint}"
        with subprocess.Popen(
            ["bash", "-ec", line],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            kube.set_status(name, "Running", "RUNNING")
            for text in process.stdout:
                kube.log("submitter-1", text.rstrip("\n"))
        if can_have_own_disk():
            self.seen = [*self.disk.rglob("last.pt")]
        kube.end_pod("submitter-1", "Failed" if process.returncode else "Succeeded")
        self.submitted = self.ask(address, name, environment)
        kube.set_status(name, "Failed" if process.returncode else "Complete", self.submitted["status"])

    def ask(self, address, name, environment):
        """What Ray's job API says of the job."""
        look = (
            "import json, sys; from ray.job_submission import JobSubmissionClient;"
            "job = JobSubmissionClient(sys.argv[1]).get_job_info(sys.argv[2]);"
            "print(json.dumps({'status': job.status.value, 'entrypoint': job.entrypoint, 'message': job.message}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", look, address, name], env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def folder():
    """Short: the name of a socket has at most 107 characters."""
    made = Path(tempfile.mkdtemp(prefix="rayjob-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def start(written, out, params, environment, *words):
    command = ["segline", "train", "--params", json.dumps(params), "--out", str(out), *words]
    command += ["--dataset", str(written / "label")]
    return subprocess.Popen(
        command, env=environment, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome(folder):
    """What tells two grids apart."""
    kept = ("weights.safetensors", "history.csv", "model.json", "trials.csv")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.name in kept}


def wait_until(is_so, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_entry_point_trains_on_two_nodes_and_a_follower_that_was_killed_gets_the_candidates(
    written, environment, bucket, s3_client, folder, tmp_path
):
    params = {"name": "tiny", "train": TRAIN}
    with ExitStack() as stack:
        kube = stack.enter_context(kubernetes(tmp_path))
        kuberay = KubeRay(environment, folder)
        stack.callback(kuberay.close)
        kube.on_create = kuberay
        name = bucket({})
        pod = environment | {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "SEGLINE_NAMESPACE": NAMESPACE,
            "SEGLINE_RAYJOB": str(ROOT / "k8s/overlays/dev/rayjob.yaml"),
            "SEGLINE_IMAGE": IMAGE,
            "SEGLINE_STORE": f"s3://{name}/work",
            "SEGLINE_CACHE": str(tmp_path / "cache"),
        }
        words = ["--run", "1f0c2d5e", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]

        def candidates_dir():
            assert not kuberay.failure, kuberay.failure
            pages = s3_client.get_paginator("list_objects_v2").paginate(Bucket=name)
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
            return any(key.endswith("history.csv") for key in keys)

        first = start(written, tmp_path / "out", params, pod, *words)
        wait_until(candidates_dir, first)
        first.kill()
        first.communicate()
        (job,) = kube.jobs
        second = start(written, tmp_path / "out", params, pod, *words)
        shown, told = second.communicate(timeout=400)
        assert second.returncode == 0, told + shown + (folder / "ray.log").read_text()[-3000:]
        assert f"RayJob {job} exists already; following it" in shown
        assert "2 candidates in" in shown, "the log of the submitter"
        assert kuberay.submitted["status"] == "SUCCEEDED"
        assert not kuberay.seen, "the trials ran where this machine sees nothing"
        assert kube.jobs == {}
        assert kube.count("create", status=201) == 1
    alone = start(written, tmp_path / "alone", params, environment, "--tracking-uri", f"sqlite:///{tmp_path}/alone.db")
    _, told = alone.communicate(timeout=200)
    assert alone.returncode == 0, told
    assert outcome(tmp_path / "out") == outcome(tmp_path / "alone")
    assert len(outcome(tmp_path / "out")) == 7
