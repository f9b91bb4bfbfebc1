"""Training on GPU nodes: a RayJob of KubeRay that lives as long as the training.

The pod that runs `segline train` copies the data to a bucket, creates the RayJob, shows its log and state, and fetches
the candidates. It keeps nothing itself: when it is lost, the next one finds the RayJob by its name and follows it; when
the RayJob is lost, training continues from the checkpoints in the bucket. A RayJob that no pod follows any more saves
itself and ends, by the heartbeat of the pod.
"""

import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segline.artifacts.dataset import DATASET, read_dataset_info
from segline.config.params import Params
from segline.errors import SeglineError, StageError, StoppedError, TrainingError
from segline.files.atomic import MARK, writing
from segline.files.transfer import download, origin, upload
from segline.platforms.kubernetes import Json, RayJobApi, SubmitterLog, require_variable, transient_errors
from segline.platforms.kueue import describe_state
from segline.platforms.ray_resources import check_resources
from segline.platforms.rayjob_spec import (
    fingerprint,
    heartbeat_url,
    make_rayjob,
    rayjob_name,
    read_template,
)
from segline.progress import log
from segline.training.lease import heartbeat

POLL_S = 3.0
"""The pause between two looks at the RayJob and its log."""
LOG_END_S = 15.0
"""The time for the rest of the log when the job has ended."""
CLEAN_UP_S = 420.0
"""The longest time in which the exit handler deletes a RayJob; of its 15 minutes half are left to tell the outcome."""
DELETION_S = 300.0
"""The longest time that the deletion of an earlier RayJob may take."""
DELETION_POLL_S = 0.5
END_STATES = ("Complete", "Failed", "ValidationFailed")
KEPT_LINES = 50
"""The number of lines of the log in which the error of the command is looked for."""
SHOWN_LINES = 3
"""The number of lines of the log in an error, where the command has none of its own."""


# Longer than 40 lines by its description.
def train(params: Params, *, dataset_dir: Path, tracking_uri: str, out: Path, run: str, **_: bool) -> None:
    """Train on a Ray cluster that is made for it, and write what :func:`segline.stages.train.run` would write.

    Args:
        params: All parameters.
        dataset_dir: The output of label.
        tracking_uri: The address of MLflow.
        out: The folder to write.
        run: The id of the Kubeflow run; without one the name of the RayJob follows from the data and parameters.

    Raises:
        StageError: Kubernetes or the environment is not set up for it, or the template has no worker for its trials.
        SourceError: The bucket cannot be written or read.
        TrainingError: The training failed.
        StoppedError: This process was asked to end; the cluster trains on for a while, and the same command follows it.
    """
    DATASET.check(dataset_dir)
    template = read_template(Path(os.environ["SEGLINE_RAYJOB"]))
    image = require_variable("SEGLINE_IMAGE", "the image of train")
    check_resources(template, params.train)
    key = fingerprint(params, read_dataset_info(dataset_dir).content_hash, image)
    training_url = f"{require_variable('SEGLINE_STORE', 's3://bucket/prefix').rstrip('/')}/{key}"
    name = rayjob_name(run or key)
    job = make_rayjob(
        template, params, name=name, run=run, training_url=training_url, image=image, tracking_uri=tracking_uri
    )
    api = RayJobApi.from_environment()
    with _stopping_by_sigterm(), heartbeat(heartbeat_url(training_url, name)):
        _upload(dataset_dir, f"{training_url}/dataset")
        _create_or_adopt(api, job)
        try:
            failure = _follow(api, name)
            if not failure:
                _download(f"{training_url}/train", out)
        except KeyboardInterrupt:
            api.delete(name)
            raise
        api.delete(name)
    if failure:
        raise failure
    log(f"train: candidates in {out}, from {training_url}")


def delete(run: str) -> None:
    """Delete the RayJob of a Kubeflow run, and with it its cluster, if there is one.

    Raises:
        StageError: Kubernetes does not answer or refuses it.
    """
    if not run:
        return
    try:
        RayJobApi.from_environment().delete(rayjob_name(run), patience_s=CLEAN_UP_S)
    except StoppedError as error:
        raise StageError(str(error)) from None


def _upload(folder: Path, url: str) -> None:
    """Copy a folder to the bucket, unless it came from there."""
    if origin(folder) != url:
        upload(folder, url)


def _download(url: str, out: Path) -> None:
    with writing(out) as work:
        shutil.copytree(download(url), work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MARK))


def _create_or_adopt(api: RayJobApi, job: Json) -> None:
    """Create a RayJob, or adopt the one that an earlier pod of the same run created.

    Raises:
        StageError: Kubernetes refuses it, or has another RayJob of this name.
    """
    name: str = job["metadata"]["name"]
    deadline = time.monotonic() + DELETION_S
    while time.monotonic() < deadline:
        if api.create(job):
            log(f"train: RayJob {name} created in {api.namespace}")
            return
        existing = api.get(name)
        if existing and not existing["metadata"].get("deletionTimestamp"):
            if existing["spec"].get("entrypoint") != job["spec"]["entrypoint"]:
                raise StageError(
                    f"RayJob {name} in {api.namespace} does something else; delete it, or give another --run"
                )
            if not _has_failed(existing.get("status") or {}):
                log(f"train: RayJob {name} exists already; following it")
                return
            api.delete(name)
        time.sleep(DELETION_POLL_S)
    raise StageError(f"RayJob {name} in {api.namespace} is still being deleted; look at its finalizers")


def _follow(api: RayJobApi, name: str) -> SeglineError | None:
    """Show the log and the state of a RayJob until it has ended; return its failure, if it failed."""
    shown, output = "", _Output(api, name)
    while job := api.get(name):
        status = job.get("status") or {}
        state = describe_state(job)
        if state and state != shown:
            log(f"train: RayJob {name}: {state}")
            shown = state
        if status.get("jobDeploymentStatus") in END_STATES:
            output.show_rest()
            return _failure(name, status, list(output.kept)) if _has_failed(status) else None
        output.show_new()
        time.sleep(POLL_S)
    return TrainingError(f"RayJob {name} was deleted by somebody else; the same command begins it again")


class _Output:
    """The output of the job, which is printed as it comes."""

    def __init__(self, api: RayJobApi, name: str) -> None:
        self.log = SubmitterLog(api, name)
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)

    def show_new(self) -> bool:
        """Print the new lines; return False if they could not be read, which does not disturb the training."""
        try:
            lines = self.log.read_new()
        except transient_errors():
            return False
        for line in lines:
            print(line, flush=True)
        self.kept.extend(lines)
        return True

    def show_rest(self) -> None:
        """Print the rest, as the job has ended."""
        deadline = time.monotonic() + LOG_END_S
        while not self.show_new() and time.monotonic() < deadline:
            time.sleep(min(POLL_S, LOG_END_S))


def _has_failed(status: Json) -> bool:
    return status.get("jobDeploymentStatus") in END_STATES and status.get("jobStatus") != "SUCCEEDED"


def _failure(name: str, status: Json, lines: list[str]) -> SeglineError:
    """Return the error of a job that failed: KubeRay's reason, and the error of the command or the end of the log."""
    message = " ".join(str(status.get("message", "")).split())
    last = [line for line in lines if line.startswith("segline train: ")][-1:] or lines[-SHOWN_LINES:]
    details = "; ".join(filter(None, (status.get("reason"), message, *last)))
    details = details or str(status.get("jobStatus", "no reason"))
    if f"exit code {StoppedError.exit_code}" in message:
        return StoppedError(f"RayJob {name} was asked to stop and saved itself ({details}); the same command continues")
    return TrainingError(f"RayJob {name} failed: {details}")


@contextmanager
def _stopping_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, the notice of a spot node, end this process alone; Ctrl-C remains as it is."""
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
