"""Training by a RayJob, against a server that speaks the API of Kubernetes and another that speaks S3's."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import yaml
from kubernetes_api import NAMESPACE, Fault, kubernetes
from shard_files import write_split
from test_rayjob_spec import IMAGE, PARAMS, RUN, TEMPLATE, TINY, head_of, made_by, with_train

from segline.artifacts.dataset import DatasetInfo, write_dataset_info
from segline.classes import LabelClass
from segline.config.loader import load
from segline.errors import StageError, StoppedError, TrainingError
from segline.files import retry
from segline.files.atomic import writing
from segline.files.s3 import Bucket
from segline.files.transfer import download, upload
from segline.parallel import AUTOSCALING
from segline.platforms import kubernetes as kubernetes_module
from segline.platforms import rayjob
from segline.platforms.kubernetes import PERMISSIONS
from segline.platforms.rayjob_spec import rayjob_name
from segline.training import lease

CANDIDATES = {"unet-dice/model.json": "{}", "unet-dice/weights.safetensors": "w", "trials.csv": "a,b\n"}


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        write_split(folder / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_dataset_info(
        folder,
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


@pytest.fixture
def kube(tmp_path, bucket, monkeypatch):
    """Run Kubernetes, with the environment of a pod of train."""
    for name in list(os.environ):
        if name.startswith(("SEGLINE_", "MLFLOW_")):
            monkeypatch.delenv(name)
    with kubernetes(tmp_path) as server:
        for name, value in {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "SEGLINE_NAMESPACE": NAMESPACE,
            "SEGLINE_RAYJOB": str(TEMPLATE),
            "SEGLINE_IMAGE": IMAGE,
            "SEGLINE_STORE": f"s3://{bucket({})}/work",
            "SEGLINE_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        for module, name in (
            (retry, "FIRST_PAUSE_S"),
            (retry, "LONGEST_PAUSE_S"),
            (rayjob, "POLL_S"),
            (rayjob, "DELETION_POLL_S"),
        ):
            monkeypatch.setattr(module, name, 0.02)
        yield server


def words_of(job):
    """Return the arguments of a job's entry point by name."""
    program, stage, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, stage) == ("segline", "train")
    return dict(zip(words[::2], words[1::2], strict=True))


def deliver(kube, name, tmp_path):
    """Write to the bucket what the stage writes."""
    with writing(tmp_path / "made") as work:
        for file, text in CANDIDATES.items():
            (work / file).parent.mkdir(exist_ok=True)
            (work / file).write_text(text)
    upload(tmp_path / "made", words_of(kube.jobs[name])["--out"])


def succeeding(tmp_path, after_state=lambda kube: None):
    """KubeRay: a cluster that comes up, trains, and delivers."""

    def run(kube, name):
        kube.set_status(name, "Initializing")
        after_state(kube)
        kube.add_pod("submitter-1", name, phase="Pending")
        kube.set_status(name, "Running", "PENDING")
        kube.end_pod("submitter-1", "Running")
        kube.set_status(name, "Running", "RUNNING")
        after_state(kube)
        for number in range(5):
            kube.log("submitter-1", f"epoch {number}")
        deliver(kube, name, tmp_path)
        kube.log("submitter-1", "done")
        kube.end_pod("submitter-1")
        kube.set_status(name, "Complete", "SUCCEEDED")

    return run


def train(dataset_dir, out, **changed):
    given = {"tracking_uri": "http://mlflow:5000", "run": RUN} | changed
    rayjob.train(given.pop("params", PARAMS), dataset_dir=dataset_dir, out=out, **given)


def assert_delivered(out):
    files = {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}
    files.pop(".segline")
    assert files == CANDIDATES


def lines_of(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("train: ")]


def test_the_candidates_come_back_and_nothing_stays(kube, dataset_dir, tmp_path, capsys):
    made = {}
    run = succeeding(tmp_path, after_state=lambda kube: kube.wait_until_polled())

    def work(kube, name):
        made.update(kube.jobs[name])
        kube.wait_for(lambda kube: kube.count("get"))
        run(kube, name)

    kube.on_create = work
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.jobs == {}
    shown = capsys.readouterr().out
    for state in ("Initializing", "Running RUNNING", "Complete SUCCEEDED"):
        assert f": {state}\n" in shown
    assert [line for line in shown.splitlines() if not line.startswith("train: ")] == [
        *(f"epoch {number}" for number in range(5)),
        "done",
    ]
    words = words_of(made)
    place = words["--out"].removesuffix("/train")
    assert re.fullmatch(rf"{os.environ['SEGLINE_STORE']}/[0-9a-f]{{16}}", place)
    assert words == {
        "--params": words["--params"],
        "--dataset": f"{place}/dataset",
        "--out": f"{place}/train",
        "--tracking-uri": "http://mlflow:5000",
    }
    assert load(words["--params"]) == replace(PARAMS, train=replace(PARAMS.train, checkpoints=f"{place}/checkpoints"))
    for name, folder in {"dataset": dataset_dir}.items():
        copied = download(words[f"--{name}"])
        assert {path.name for path in copied.rglob("*")} - {".segline"} == {path.name for path in folder.rglob("*")} - {
            ".segline"
        }


def test_the_requests_are_those_that_the_role_permits(kube, dataset_dir, tmp_path):
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    kube.on_create = None
    in_background(lambda: (kube.wait_for(lambda kube: kube.jobs), fail(kube, "AppFailed", "no")))
    with pytest.raises(TrainingError):
        train(dataset_dir, tmp_path / "out2", run="two")
    kube.create(made_by("three"))
    kube.set_status(rayjob_name("three"), "Failed", "FAILED")
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out3", run="three")
    rayjob.delete("none")
    others = {("list", "workflows")}
    assert kube.done == {(verb, resource) for resource, verbs in PERMISSIONS.items() for verb in verbs} - others


def in_background(task):
    threading.Thread(target=task, daemon=True).start()


def fail(kube, reason, message, status="FAILED"):
    (name,) = kube.jobs
    kube.set_status(name, "Failed", status, reason=reason, message=message)


SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def test_what_kubeflow_says_of_mlflow_reaches_the_driver_and_no_secret_is_written_down(
    kube, dataset_dir, tmp_path, monkeypatch
):
    """The variables of Kubeflow's plug-in for MLflow, whichever way it authenticates, and the one of MLflow for TLS."""
    expected = {
        "MLFLOW_RUN_ID": "abc",
        "MLFLOW_EXPERIMENT_ID": "12",
        "MLFLOW_WORKSPACE": "lines",
        "MLFLOW_TRACKING_AUTH": "kubernetes-namespaced",
        "MLFLOW_TRACKING_INSECURE_TLS": "true",
    }
    for name, value in expected.items():
        monkeypatch.setenv(name, value)
    for name in SECRETS:
        monkeypatch.setenv(name, f"value-of-{name}")
    monkeypatch.setenv("SEGLINE_RAYJOB", str(tmp_path / "template.yaml"))
    template, made = yaml.safe_load(TEMPLATE.read_text()), []
    by_reference = [{"name": name, "valueFrom": {"secretKeyRef": {"name": "s", "key": name}}} for name in SECRETS]
    head_of(template)["env"] += by_reference
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(template))
    kube.on_create = lambda kube, name: (made.append(kube.jobs[name]), succeeding(tmp_path)(kube, name))
    train(dataset_dir, tmp_path / "out")
    [job] = made
    assert "value-of-" not in json.dumps(job)
    environment = head_of(job)["env"]
    assert [entry for entry in environment if entry["name"] in SECRETS] == by_reference, "which the template may have"
    variables = {entry["name"]: entry.get("value") for entry in environment}
    assert variables.items() >= expected.items() | {("MLFLOW_TRACKING_URI", "http://mlflow:5000")}


# What goes wrong on the way

TRANSIENT = [
    [Fault(verb="create", status=500), Fault(verb="create", status=429), Fault(verb="create", status=0)],
    [
        Fault(verb="get", status=503),
        Fault(verb="get", status=0),
        Fault(verb="get", status=500),
        Fault(verb="get", status=429),
    ],
    [Fault(verb="get", text="<html>"), Fault(verb="get", text='{"kind": "RayJ')],
    [Fault(verb="delete", status=500), Fault(verb="delete", status=0)],
    [Fault(verb="list", resource="pods", status=500), Fault(verb="list", resource="pods", status=0)],
    [
        Fault(verb="get", resource="pods/log", status=500),
        Fault(verb="get", resource="pods/log", status=0),
        Fault(verb="get", resource="pods/log", status=400),
    ],
    [Fault(verb="get", resource="pods/log", after=number) for number in (1, 2, 3)],
]


@pytest.mark.parametrize("faults", TRANSIENT, ids=lambda faults: f"{faults[0].verb}-{len(faults)}-{faults[0].status}")
def test_a_transient_fault_is_waited_for(kube, dataset_dir, tmp_path, capsys, faults):
    kube.faults = list(faults)
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.jobs == {}
    assert lines_of(capsys) == [*(f"epoch {number}" for number in range(5)), "done"]


def test_a_kubernetes_that_is_away_is_waited_for_and_not_for_ever(kube, dataset_dir, tmp_path, monkeypatch):
    run = succeeding(tmp_path)

    def go_away(kube, name):
        kube.wait_for(lambda kube: kube.count("get"))
        kube.is_down = True
        time.sleep(1)
        kube.is_down = False
        run(kube, name)

    kube.on_create = go_away
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    monkeypatch.setattr(kubernetes_module, "OUTAGE_S", 0.5)
    kube.on_create = lambda kube, name: (
        kube.wait_for(lambda kube: kube.count("get")),
        setattr(kube, "is_down", True),
    )
    with pytest.raises(StoppedError, match=r"^Kubernetes has given no usable answer .*; the same command goes on$"):
        train(dataset_dir, tmp_path / "out2", run="two")
    assert len(kube.jobs) == 1


def test_no_line_is_lost_or_shown_twice_however_often_the_log_breaks_off(kube, dataset_dir, tmp_path, capsys):
    """Lines of the same time, times without zeros at the end, and one that comes late."""
    stamps = ["00.1Z", "00.12Z", "00.12Z", "00.12Z", "01Z", "01.5Z", "01.25Z", "01.500000001Z", "02Z", "02Z", "02.7Z"]
    written = [f"line {number}" for number in range(len(stamps))]
    begin = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M")

    def run(kube, name):
        kube.add_pod("submitter-1", name)
        kube.set_status(name, "Running", "RUNNING")
        for stamp, text in zip(stamps, written, strict=True):
            kube.log("submitter-1", text, f"{begin}:{stamp}")
            kube.wait_until_polled()
        kube.wait_for(lambda kube: not kube.faults)
        deliver(kube, name, tmp_path)
        kube.end_pod("submitter-1")
        kube.set_status(name, "Complete", "SUCCEEDED")

    kube.faults = [Fault(verb="get", resource="pods/log", after=number) for number in (1, 2, 1, 3, 2, 4, 3, 1, 5)]
    kube.on_create = run
    train(dataset_dir, tmp_path / "out")
    assert lines_of(capsys) == written


@pytest.mark.parametrize(
    ("status", "more", "expected"),
    [
        ("Failed", {"jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 6"}, "AppFailed; exit code 6"),
        ("Failed", {"reason": "DeadlineExceeded", "message": "too\nlong"}, "DeadlineExceeded; too long"),
        ("ValidationFailed", {"reason": "ValidationFailed", "message": "bad spec"}, "ValidationFailed; bad spec"),
        ("Complete", {"jobStatus": "FAILED"}, "segline train: 1 of 1 trials failed: no"),
        ("Complete", {"jobStatus": "STOPPED"}, "segline train: 1 of 1 trials failed: no"),
    ],
)
def test_a_failure_has_its_reason_in_one_line(kube, dataset_dir, tmp_path, status, more, expected):
    def run(kube, name):
        kube.add_pod("submitter-1", name)
        kube.log("submitter-1", "segline train: 1 of 1 trials failed: no")
        kube.log("submitter-1", "Job failed")
        kube.end_pod("submitter-1", "Failed")
        kube.jobs[name]["status"] = {"jobDeploymentStatus": status, **more}

    kube.on_create = run
    with pytest.raises(TrainingError) as caught:
        train(dataset_dir, tmp_path / "out")
    [line] = str(caught.value).splitlines()
    assert expected in line
    assert line.endswith("segline train: 1 of 1 trials failed: no")
    assert kube.jobs == {}
    assert not (tmp_path / "out").exists()


def test_a_training_that_was_asked_to_stop_asks_for_another_attempt(kube, dataset_dir, tmp_path):
    message = "Job entrypoint command failed with exit code 75, last available logs"
    kube.on_create = lambda kube, name: fail(kube, "AppFailed", message)
    with pytest.raises(StoppedError, match="the same command continues"):
        train(dataset_dir, tmp_path / "out")
    assert kube.jobs == {}


def test_a_job_that_somebody_deletes_is_an_error(kube, dataset_dir, tmp_path):
    kube.on_create = lambda kube, name: (kube.set_status(name, "Running"), kube.delete(name))
    with pytest.raises(TrainingError, match="was deleted by somebody else; the same command begins it again"):
        train(dataset_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (
            lambda kube: kube.forbidden.add(("create", "rayjobs")),
            "create RayJobs (403: cannot create resource rayjobs)",
        ),
        (lambda kube: kube.forbidden.add(("get", "rayjobs")), "read RayJobs (403: "),
        (
            lambda kube: kube.faults.append(Fault(verb="create", status=401)),
            "is the token of the service account valid?",
        ),
        (lambda kube: kube.faults.append(Fault(verb="create", status=404)), "is KubeRay installed"),
        (lambda kube: kube.faults.append(Fault(verb="create", status=422)), "look at the template in SEGLINE_RAYJOB"),
    ],
)
def test_a_permanent_refusal_is_an_error_at_once(kube, dataset_dir, tmp_path, prepare, expected):
    prepare(kube)
    with pytest.raises(StageError) as caught:
        train(dataset_dir, tmp_path / "out")
    [line] = str(caught.value).splitlines()
    assert expected in line


def test_an_account_that_may_not_see_logs_trains_without(kube, dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(rayjob, "LOG_END_S", 0.2)
    kube.forbidden = {("list", "pods"), ("get", "pods/log")}
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")


@pytest.mark.parametrize("name", ["SEGLINE_IMAGE", "SEGLINE_STORE", "SEGLINE_NAMESPACE", "KUBECONFIG"])
def test_a_missing_variable_is_an_error(kube, dataset_dir, tmp_path, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(StageError, match=name):
        train(dataset_dir, tmp_path / "out")
    assert kube.asked == []


@pytest.mark.parametrize("text", [None, "{", "kind: Pod", "[1]", "kind: RayJob"])
def test_a_file_that_is_no_template_is_an_error(kube, dataset_dir, tmp_path, monkeypatch, text):
    monkeypatch.setenv("SEGLINE_RAYJOB", str(tmp_path / "template.yaml"))
    if text is not None:
        (tmp_path / "template.yaml").write_text(text)
    with pytest.raises(StageError, match=r"is not the template of a RayJob; expected such as"):
        train(dataset_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"gpus_per_worker": 2.0}, "has 8 cores and 1 GPUs; lower these"),
        (
            {"cpus_per_worker": 9},
            "is 9 and train.gpus_per_worker 0.5, but a worker of .* has 8 cores and 1 GPUs; lower",
        ),
        ({"gpus_per_worker": 0.0}, "has 8 cores and 1 GPUs; set train.gpus_per_worker"),
    ],
)
def test_a_trial_that_no_worker_can_hold_or_that_wastes_its_gpu_is_refused(
    kube, dataset_dir, tmp_path, monkeypatch, wanted, expected
):
    monkeypatch.setattr(rayjob, "_upload", lambda *_: pytest.fail("it uploads"))
    with pytest.raises(StageError, match=expected):
        train(dataset_dir, tmp_path / "out", params=with_train(**wanted))
    assert kube.asked == []


# Another pod of the same run


def test_an_existing_job_is_followed(kube, dataset_dir, tmp_path):
    job = made_by(RUN)
    kube.create(job)
    go_on, name = succeeding(tmp_path), rayjob_name(RUN)
    in_background(lambda: (kube.wait_for(lambda kube: kube.count("get")), go_on(kube, name)))
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.count("create", status=201) == 0
    assert kube.count("create", status=409) == 1


def followed(job):
    """Return the present content of the object that says that a job is followed; empty if there is none."""
    [place] = [entry["value"] for entry in head_of(job)["env"] if entry["name"] == lease.FOLLOWED]
    folder, _, name = place.rpartition("/")
    assert name == job["metadata"]["name"], "equal runs have it each"
    return Bucket(folder).etag(name)


def wait_until(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_that_is_followed_can_see_that(kube, dataset_dir, tmp_path, monkeypatch):
    """From before the shards are copied, which takes its time, until the job is gone."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    job, bring, seen = made_by(RUN), rayjob._upload, []

    def bring_slowly(*words):
        wait_until(lambda: followed(job))
        bring(*words)

    monkeypatch.setattr(rayjob, "_upload", bring_slowly)

    def run(kube, name):
        wait_until(lambda: seen.append(followed(kube.jobs[name])) or len(set(seen)) > 4)
        succeeding(tmp_path)(kube, name)

    kube.on_create = run
    train(dataset_dir, tmp_path / "out")
    assert "" not in seen
    wait_until(lambda: not followed(job))


def test_a_job_that_does_something_else_is_left_alone(kube, dataset_dir, tmp_path):
    kube.create(made_by(RUN, params=replace(PARAMS, seed=8)))
    with pytest.raises(StageError, match="does something else; delete it, or give another --run"):
        train(dataset_dir, tmp_path / "out")
    assert len(kube.jobs) == 1


@pytest.mark.parametrize("code", [6, StoppedError.exit_code])
def test_a_job_that_failed_before_is_made_anew_when_it_is_gone(kube, dataset_dir, tmp_path, code):
    """Also one that ended because nobody followed it."""
    kube.create(made_by(RUN))
    message = f"Job entrypoint command failed with exit code {code}, last available logs"
    kube.set_status(rayjob_name(RUN), "Failed", "FAILED", reason="AppFailed", message=message)
    kube.deletion_s = 0.5
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.count("create", status=201) == 1


def test_deleting_is_idempotent(kube, tmp_path):
    kube.create(made_by(RUN))
    rayjob.delete(RUN)
    rayjob.delete(RUN)
    rayjob.delete("")
    assert kube.jobs == {}
    kube.forbidden = {("delete", "rayjobs")}
    with pytest.raises(StageError, match="refuses to delete RayJobs"):
        rayjob.delete(RUN)


def start(dataset_dir, tmp_path):
    """Start the command in a process of its own."""
    segline = "import sys; from segline.cli import main; from segline.platforms import rayjob; rayjob.POLL_S = 0.1; "
    segline += "sys.exit(main())"
    words = ["train", "--params", json.dumps(TINY), "--dataset", str(dataset_dir)]
    words += ["--out", str(tmp_path / "out"), "--run", RUN, "--tracking-uri", "http://mlflow:5000"]
    return subprocess.Popen(
        [sys.executable, "-c", segline, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def follow(kube, process, seconds=300):
    """Wait until a process follows a job: before that it may have read it once."""
    before = kube.count("get")
    kube.wait_for(lambda kube: kube.count("get") > before + 1, seconds)
    assert process.poll() is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_pod_that_is_lost_leaves_the_job_to_the_next_one(kube, dataset_dir, tmp_path, how):
    first = start(dataset_dir, tmp_path)
    follow(kube, first)
    (name,) = kube.jobs
    kube.set_status(name, "Running", "RUNNING")
    first.send_signal(how)
    _, stderr = first.communicate(timeout=300)
    assert first.returncode == (-9 if how == signal.SIGKILL else 75), stderr
    if how == signal.SIGTERM:
        assert stderr == (
            "segline train: stopped; the Ray cluster trains on for half an hour, and the same command follows it\n"
        )
    assert list(kube.jobs) == [name]
    left = followed(kube.jobs[name])
    assert left
    second = start(dataset_dir, tmp_path)
    follow(kube, second)
    wait_until(lambda: followed(kube.jobs[name]) not in ("", left))
    succeeding(tmp_path)(kube, name)
    shown, stderr = second.communicate(timeout=300)
    assert second.returncode == 0, stderr
    assert "epoch 4" in shown
    assert_delivered(tmp_path / "out")
    assert kube.count("create", status=201) == 1
    assert kube.jobs == {}
    # The container's environment tells MLflow of the run.
    assert kube.created[0]["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["env"][-1] == {
        "name": AUTOSCALING,
        "value": "1",
    }


def test_ctrl_c_deletes_the_job(kube, dataset_dir, tmp_path):
    process = start(dataset_dir, tmp_path)
    follow(kube, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert kube.jobs == {}
