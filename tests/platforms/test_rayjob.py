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
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from kubernetes_api import NAMESPACE, Fault, kubernetes, schema
from shard_files import write_split

from segline.classes import LabelClass
from segline.config.params import load
from segline.data.shards import DatasetInfo
from segline.errors import StageError, StoppedError, TrainingError
from segline.files import s3 as storage
from segline.files.atomic import write_json, writing
from segline.platforms import rayjob
from segline.platforms.rayjob import PERMISSIONS, entrypoint, make
from segline.training import lease

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "k8s" / "base" / "ray" / "rayjob.yaml"
IMAGE = "registry.example.org/segline/train:1a2b3c4"
RUN = "1f0c2d5e-8f6a-4a55-9d3c-7b8c9d0e1f2a"
TINY = {
    "name": "tiny",
    "train": {
        "models": [{"unet": {"width": 2, "depth": 1}}],
        "losses": ["dice"],
        "epochs": 2,
        "gpus_per_worker": 0.5,
    },
}
PARAMS = load(json.dumps(TINY))
CANDIDATES = {"unet-dice/model.json": "{}", "unet-dice/weights.safetensors": "w", "leaderboard.csv": "a,b\n"}


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        write_split(folder / split, images, (images[..., 0] > 127).astype(np.uint8))
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (255, 0, 0)))
    write_json(folder / "dataset.json", DatasetInfo(classes, 0, 32, "c", "h", "s", "", {}, False).to_dict())
    return folder


@pytest.fixture
def kube(tmp_path, bucket, monkeypatch):
    """Kubernetes, and the environment of a pod of train."""
    for name in list(os.environ):
        if name.startswith(("SEGLINE_", "MLFLOW_")):
            monkeypatch.delenv(name)
    with kubernetes(tmp_path) as found:
        for name, value in {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "SEGLINE_NAMESPACE": NAMESPACE,
            "SEGLINE_RAYJOB": str(TEMPLATE),
            "SEGLINE_IMAGE": IMAGE,
            "SEGLINE_STORE": f"s3://{bucket({})}/work",
            "SEGLINE_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S", "LOG_PAUSE_S"):
            monkeypatch.setattr(rayjob, name, 0.02)
        yield found


def words_of(job):
    """The arguments of a job's entry point, by name."""
    program, stage, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, stage) == ("segline", "train")
    return dict(zip(words[::2], words[1::2], strict=True))


def deliver(kube, name, tmp_path):
    """What the stage leaves in the bucket."""
    with writing(tmp_path / "made") as work:
        for file, text in CANDIDATES.items():
            (work / file).parent.mkdir(exist_ok=True)
            (work / file).write_text(text)
    storage.upload(tmp_path / "made", words_of(kube.jobs[name])["--out"])


def succeeding(tmp_path):
    """KubeRay: a cluster that comes up, trains, and delivers."""

    def run(kube, name):
        kube.set_status(name, "Initializing")
        kube.add_pod("submitter-1", name, phase="Pending")
        kube.set_status(name, "Running", "PENDING")
        kube.end_pod("submitter-1", "Running")
        kube.set_status(name, "Running", "RUNNING")
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
    found = {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}
    found.pop(".segline")
    assert found == CANDIDATES


def lines_of(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("train: ")]


def test_the_candidates_come_back_and_nothing_stays(kube, dataset_dir, tmp_path, capsys):
    made = {}
    run = succeeding(tmp_path)

    def work(kube, name):
        made.update(kube.jobs[name])
        kube.wait_for(lambda kube: kube.count("watch"))
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
        copied = storage.download(words[f"--{name}"])
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
    kube.create(made_by(tmp_path, "three"))
    kube.set_status(rayjob._name("three"), "Failed", "FAILED")
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out3", run="three")
    rayjob.delete("none")
    assert kube.done == {(verb, resource) for resource, verbs in PERMISSIONS.items() for verb in verbs}


def made_by(tmp_path, run, params=PARAMS):
    """The RayJob that train makes."""
    key = rayjob._fingerprint(params, "c", IMAGE)
    return make(
        yaml.safe_load(TEMPLATE.read_text()),
        params,
        name=rayjob._name(run),
        run=run,
        place=f"{os.environ['SEGLINE_STORE']}/{key}",
        image=IMAGE,
        tracking_uri="http://mlflow:5000",
    )


def in_background(task):
    threading.Thread(target=task, daemon=True).start()


def fail(kube, reason, message, status="FAILED"):
    (name,) = kube.jobs
    kube.set_status(name, "Failed", status, reason=reason, message=message)


def test_what_is_created_is_what_kuberay_takes(monkeypatch):
    """The server refuses any other; here with all that the environment may hand on."""
    if schema() is None:
        pytest.skip("the definition of a RayJob is not at hand")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("SEGLINE_RUN", RUN)
    monkeypatch.setenv("SEGLINE_STORE", "s3://b/p")
    job = made_by(None, RUN)
    name = job["metadata"]["name"]
    assert len(name) <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert "namespace" not in job["metadata"]
    assert job["metadata"]["labels"] == {"app.kubernetes.io/part-of": "segline", "segline/run": RUN}
    pods = rayjob._pods(job["spec"])
    assert len(pods) == 3
    for container in [container for pod in pods for container in pod["containers"]]:
        assert container["image"] == IMAGE
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert len(variables) == len(container["env"])
        assert (
            variables.items()
            >= {
                "MLFLOW_TRACKING_URI": "http://mlflow:5000",
                "MLFLOW_RUN_ID": "abc",
                "SEGLINE_RUN": RUN,
            }.items()
        )
    assert yaml.safe_load(TEMPLATE.read_text())["spec"].get("entrypoint") is None


SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def test_what_kubeflow_says_of_mlflow_reaches_the_driver_and_no_secret_is_written_down(
    kube, dataset_dir, tmp_path, monkeypatch
):
    """The variables of Kubeflow's plug-in for MLflow, whichever way it authenticates, and the one of MLflow for TLS."""
    told = {
        "MLFLOW_RUN_ID": "abc",
        "MLFLOW_EXPERIMENT_ID": "12",
        "MLFLOW_WORKSPACE": "lines",
        "MLFLOW_TRACKING_AUTH": "kubernetes-namespaced",
        "MLFLOW_TRACKING_INSECURE_TLS": "true",
    }
    for name, value in told.items():
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
    found = head_of(job)["env"]
    assert [entry for entry in found if entry["name"] in SECRETS] == by_reference, "which the template may have"
    variables = {entry["name"]: entry.get("value") for entry in found}
    assert variables.items() >= told.items() | {("MLFLOW_TRACKING_URI", "http://mlflow:5000")}


def head_of(job):
    """The container that the driver runs in."""
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("run", ["", "a", RUN, "x" * 200, "A_b.C", "---", "ünï", "1" * 33, "1" * 34])
def test_names_are_short_and_of_one_run_alone(run):
    name = rayjob._name(run or "key")
    assert re.fullmatch(r"segline-train-[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47
    others = {rayjob._name(other) for other in ("b", "x" * 201, "a-b-c", "1" * 35, "--", "une")}
    assert name not in others
    label = rayjob._clean(run or "key", 63)
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?", label)
    assert len(label) <= 63


NASTY = "it's $HOME `id` \\ \\\" {a,b} *;&|<>!ü日\n%PATH%"


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("text", ["tiny", "two words", NASTY])
def test_the_parameters_come_through_all_shells(windows, text):
    """A shell reads the entry point; ``ray job submit`` makes one line of its words, and a shell reads that again."""
    everything = {
        "ingest": {"layout": {"wad": {}}, "source": text},
        "label": {"distances": ["border"], "class_maps": {"wad": {text: ["car", "bus"]}}},
        "train": {
            "models": ["unet", {"unet_resnet34": {"pretrained": False}}],
            "losses": ["dice", {"dice": {"weight": 0.5}, "cross_entropy": {"weight": 0.25}}, "distance_map"],
            "search": {
                "samples": 2,
                "spaces": {
                    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                    "unet.width": {"low": 8, "high": 16},
                    "batch_size": [4, 8],
                },
            },
        },
    }
    params = load(json.dumps(everything))
    line = entrypoint(params, place="s3://b/p/0123", tracking_uri="http://mlflow.lines.svc:5000")
    if windows:
        line = subprocess.list2cmdline(shlex.split(line))
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    line = f"{sys.executable} -c {shlex.quote(show)} {line.removeprefix('segline train')}"
    words = json.loads(subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout)
    found = load(words[words.index("--params") + 1])
    assert found == replace(params, train=replace(params.train, checkpoints="s3://b/p/0123/checkpoints"))
    assert words[words.index("--out") + 1] == "s3://b/p/0123/train"


def test_an_address_that_a_shell_would_change_is_refused():
    with pytest.raises(StageError, match="characters that a shell reads"):
        entrypoint(PARAMS, place="s3://b/p", tracking_uri="http://mlflow/?a=b&c=d")


def test_no_login_of_mlflow_is_in_what_is_created(monkeypatch):
    """The pods have it from a secret; a RayJob is read by many more."""
    monkeypatch.setenv("SEGLINE_STORE", "s3://b/p")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "hush")
    assert "hush" not in json.dumps(made_by(None, RUN))
    with pytest.raises(StageError, match="segline-mlflow-login") as caught:
        entrypoint(PARAMS, place="s3://b/p", tracking_uri="https://me:hush@mlflow.example.org")
    assert "hush" not in str(caught.value)


# What goes wrong on the way

PASSING = [
    [Fault("create", status=500), Fault("create", status=429), Fault("create", status=0)],
    [Fault("list", status=503), Fault("list", status=0), Fault("list", status=500)],
    [Fault("watch", status=410)],
    [Fault("watch", status=410, after=1), Fault("watch", status=500, after=1)],
    [Fault("watch", status=500), Fault("watch", status=0)],
    [Fault("watch", after=number) for number in (1, 2, 1)],
    [Fault("delete", status=500), Fault("delete", status=0)],
    [Fault("list", "pods", status=500), Fault("list", "pods", status=0)],
    [Fault("get", "pods/log", status=500), Fault("get", "pods/log", status=0), Fault("get", "pods/log", status=400)],
    [Fault("get", "pods/log", after=number) for number in (1, 2, 3)],
]


@pytest.mark.parametrize("faults", PASSING, ids=lambda faults: f"{faults[0].verb}-{len(faults)}-{faults[0].status}")
def test_what_passes_is_waited_for(kube, dataset_dir, tmp_path, capsys, faults):
    kube.faults = list(faults)
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.jobs == {}
    assert lines_of(capsys) == [*(f"epoch {number}" for number in range(5)), "done"]


def test_a_version_that_is_forgotten_is_read_anew(kube, dataset_dir, tmp_path):
    run = succeeding(tmp_path)

    def forget_first(kube, name):
        kube.wait_for(lambda kube: kube.count("watch"))
        kube.faults.append(Fault("watch", status=410))
        kube.forget()
        run(kube, name)

    kube.faults = [Fault("watch", after=1)]
    kube.on_create = forget_first
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")


def test_a_kubernetes_that_is_away_is_waited_for_and_not_for_ever(kube, dataset_dir, tmp_path, monkeypatch):
    run = succeeding(tmp_path)

    def go_away(kube, name):
        kube.wait_for(lambda kube: kube.count("watch"))
        kube.is_down = True
        time.sleep(1)
        kube.is_down = False
        run(kube, name)

    kube.on_create = go_away
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    monkeypatch.setattr(rayjob, "OUTAGE_S", 0.5)
    kube.on_create = lambda kube, name: (
        kube.wait_for(lambda kube: kube.count("watch")),
        setattr(kube, "is_down", True),
    )
    with pytest.raises(StoppedError, match=r"^Kubernetes has given no usable answer .*; the same command goes on$"):
        train(dataset_dir, tmp_path / "out2", run="two")
    assert len(kube.jobs) == 1


def test_no_line_is_lost_or_shown_twice_however_often_the_log_breaks_off(kube, dataset_dir, tmp_path, capsys):
    """Lines of the same time, times without zeros at the end, and one that comes late."""
    stamps = ["00.1Z", "00.12Z", "00.12Z", "00.12Z", "01Z", "01.5Z", "01.25Z", "01.500000001Z", "02Z", "02Z", "02.7Z"]
    said = [f"line {number}" for number in range(len(stamps))]

    def run(kube, name):
        kube.add_pod("submitter-1", name)
        kube.set_status(name, "Running", "RUNNING")
        for stamp, text in zip(stamps, said, strict=True):
            kube.log("submitter-1", text, f"2026-01-01T00:00:{stamp}")
            time.sleep(0.02)
        kube.wait_for(lambda kube: not kube.faults)
        deliver(kube, name, tmp_path)
        kube.end_pod("submitter-1")
        kube.set_status(name, "Complete", "SUCCEEDED")

    kube.faults = [Fault("get", "pods/log", after=number) for number in (1, 2, 1, 3, 2, 4, 3, 1, 5)]
    kube.on_create = run
    train(dataset_dir, tmp_path / "out")
    assert lines_of(capsys) == said


@pytest.mark.parametrize(
    ("status", "more", "told"),
    [
        ("Failed", {"jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 6"}, "AppFailed; exit code 6"),
        ("Failed", {"reason": "DeadlineExceeded", "message": "too\nlong"}, "DeadlineExceeded; too long"),
        ("ValidationFailed", {"reason": "ValidationFailed", "message": "bad spec"}, "ValidationFailed; bad spec"),
        ("Complete", {"jobStatus": "FAILED"}, "segline train: 1 of 1 trials failed: no"),
        ("Complete", {"jobStatus": "STOPPED"}, "segline train: 1 of 1 trials failed: no"),
    ],
)
def test_a_failure_is_told_with_its_reason_in_one_line(kube, dataset_dir, tmp_path, status, more, told):
    def run(kube, name):
        kube.add_pod("submitter-1", name)
        kube.log("submitter-1", "segline train: 1 of 1 trials failed: no")
        kube.log("submitter-1", "Job failed")
        kube.end_pod("submitter-1", "Failed")
        kube.jobs[name]["status"] = {"jobDeploymentStatus": status, **more}
        kube.note("MODIFIED", kube.jobs[name])

    kube.on_create = run
    with pytest.raises(TrainingError) as caught:
        train(dataset_dir, tmp_path / "out")
    [line] = str(caught.value).splitlines()
    assert told in line
    assert line.endswith("segline train: 1 of 1 trials failed: no")
    assert kube.jobs == {}
    assert not (tmp_path / "out").exists()


def test_a_training_that_was_told_to_stop_asks_for_another_attempt(kube, dataset_dir, tmp_path):
    message = "Job entrypoint command failed with exit code 75, last available logs"
    kube.on_create = lambda kube, name: fail(kube, "AppFailed", message)
    with pytest.raises(StoppedError, match="the same command continues"):
        train(dataset_dir, tmp_path / "out")
    assert kube.jobs == {}


def test_a_job_that_somebody_deletes_is_told(kube, dataset_dir, tmp_path):
    kube.on_create = lambda kube, name: (kube.set_status(name, "Running"), kube.delete(name))
    with pytest.raises(TrainingError, match="was deleted by somebody else; the same command begins it again"):
        train(dataset_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (
            lambda kube: kube.forbidden.add(("create", "rayjobs")),
            "create RayJobs (403: cannot create resource rayjobs)",
        ),
        (lambda kube: kube.forbidden.add(("list", "rayjobs")), "read RayJobs (403: "),
        (lambda kube: kube.faults.append(Fault("create", status=401)), "is the token of the service account valid?"),
        (lambda kube: kube.faults.append(Fault("create", status=404)), "is KubeRay installed"),
        (lambda kube: kube.faults.append(Fault("create", status=422)), "look at the template in SEGLINE_RAYJOB"),
    ],
)
def test_what_does_not_pass_is_told_at_once(kube, dataset_dir, tmp_path, prepare, told):
    prepare(kube)
    with pytest.raises(StageError) as caught:
        train(dataset_dir, tmp_path / "out")
    [line] = str(caught.value).splitlines()
    assert told in line


def test_an_account_that_may_not_see_logs_trains_without(kube, dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(rayjob, "LOG_END_S", 0.2)
    kube.forbidden = {("list", "pods"), ("get", "pods/log")}
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")


@pytest.mark.parametrize("name", ["SEGLINE_IMAGE", "SEGLINE_STORE", "SEGLINE_NAMESPACE", "KUBECONFIG"])
def test_an_environment_that_lacks_something_is_told(kube, dataset_dir, tmp_path, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(StageError, match=name):
        train(dataset_dir, tmp_path / "out")
    assert kube.asked == []


@pytest.mark.parametrize("text", [None, "{", "kind: Pod", "[1]", "kind: RayJob"])
def test_a_template_that_is_none_is_told(kube, dataset_dir, tmp_path, monkeypatch, text):
    monkeypatch.setenv("SEGLINE_RAYJOB", str(tmp_path / "template.yaml"))
    if text is not None:
        (tmp_path / "template.yaml").write_text(text)
    with pytest.raises(StageError, match=r"is not the template of a RayJob; expected such as"):
        train(dataset_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("wanted", "told"),
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
    kube, dataset_dir, tmp_path, monkeypatch, wanted, told
):
    monkeypatch.setattr(rayjob, "_bring", lambda *_: pytest.fail("it uploads"))
    with pytest.raises(StageError, match=told):
        train(dataset_dir, tmp_path / "out", params=with_train(**wanted))
    assert kube.asked == []


def with_train(**changed):
    return replace(PARAMS, train=replace(PARAMS.train, **changed))


def group(cpu, gpu=0, **told):
    limits = {"cpu": cpu} | ({"nvidia.com/gpu": gpu} if gpu else {})
    containers = [{"resources": {"limits": limits}}]
    return {"rayStartParams": told, "template": {"spec": {"containers": containers}}}


@pytest.mark.parametrize(
    ("workers", "wanted", "fits"),
    [
        ([group("2")], {"gpus_per_worker": 0.0, "cpus_per_worker": 2}, True),
        ([group("2")], {"gpus_per_worker": 0.0, "cpus_per_worker": 3}, False),
        ([group("1500m")], {"gpus_per_worker": 0.0, "cpus_per_worker": 2}, True),
        ([group("2"), group("8", 4)], {"gpus_per_worker": 4.0, "cpus_per_worker": 8}, True),
        ([group("9"), group("8", 4)], {"gpus_per_worker": 4.0, "cpus_per_worker": 9}, False),
        ([group("2"), group("8", 4)], {"gpus_per_worker": 0.0, "cpus_per_worker": 2}, True),
        ([group("2"), group("8", 4)], {"gpus_per_worker": 0.0, "cpus_per_worker": 3}, False),
        ([group("8", 1, **{"num-gpus": "0"})], {"gpus_per_worker": 0.0}, True),
        ([group("8", 1, **{"num-cpus": "4"})], {"gpus_per_worker": 1.0, "cpus_per_worker": 5}, False),
        ([], {"gpus_per_worker": 0.0}, False),
    ],
)
def test_a_worker_has_what_kuberay_tells_ray(workers, wanted, fits):
    head = group("4", **{"num-cpus": "0"})
    template = {"spec": {"rayClusterSpec": {"headGroupSpec": head, "workerGroupSpecs": workers}}}
    with nullcontext() if fits else pytest.raises(StageError, match="but a worker of"):
        rayjob.check_room(template, with_train(**wanted).train)


# Another pod of the same run


def test_a_job_that_is_there_is_followed(kube, dataset_dir, tmp_path):
    job = made_by(tmp_path, RUN)
    kube.create(job)
    go_on, name = succeeding(tmp_path), rayjob._name(RUN)
    in_background(lambda: (kube.wait_for(lambda kube: kube.count("watch")), go_on(kube, name)))
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.count("create", status=201) == 0
    assert kube.count("create", status=409) == 1


def followed(job):
    """The object that says that a job is followed: its content now; empty where there is none."""
    [place] = [entry["value"] for entry in head_of(job)["env"] if entry["name"] == lease.FOLLOWED]
    folder, _, name = place.rpartition("/")
    assert name == job["metadata"]["name"], "equal runs have it each"
    return storage.Bucket(folder).stamp(name)


def wait_until(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_that_is_followed_can_see_that(kube, dataset_dir, tmp_path, monkeypatch):
    """From before the shards are copied, which takes its time, until the job is gone."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    job, bring, seen = made_by(tmp_path, RUN), rayjob._bring, []

    def bring_slowly(*words):
        wait_until(lambda: followed(job))
        bring(*words)

    monkeypatch.setattr(rayjob, "_bring", bring_slowly)

    def run(kube, name):
        wait_until(lambda: seen.append(followed(kube.jobs[name])) or len(set(seen)) > 4)
        succeeding(tmp_path)(kube, name)

    kube.on_create = run
    train(dataset_dir, tmp_path / "out")
    assert "" not in seen
    wait_until(lambda: not followed(job))


def test_a_job_that_does_something_else_is_left_alone(kube, dataset_dir, tmp_path):
    kube.create(made_by(tmp_path, RUN, params=replace(PARAMS, seed=8)))
    with pytest.raises(StageError, match="does something else; delete it, or give another --run"):
        train(dataset_dir, tmp_path / "out")
    assert len(kube.jobs) == 1


@pytest.mark.parametrize("code", [6, StoppedError.exit_code])
def test_a_job_that_failed_before_is_made_anew_when_it_is_gone(kube, dataset_dir, tmp_path, code):
    """Also one that ended because nobody followed it."""
    kube.create(made_by(tmp_path, RUN))
    message = f"Job entrypoint command failed with exit code {code}, last available logs"
    kube.set_status(rayjob._name(RUN), "Failed", "FAILED", reason="AppFailed", message=message)
    kube.deletion_s = 0.5
    kube.on_create = succeeding(tmp_path)
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    assert kube.count("create", status=201) == 1


def test_deleting_is_idempotent(kube, tmp_path):
    kube.create(made_by(tmp_path, RUN))
    rayjob.delete(RUN)
    rayjob.delete(RUN)
    rayjob.delete("")
    assert kube.jobs == {}
    kube.forbidden = {("delete", "rayjobs")}
    with pytest.raises(StageError, match="does not let us delete RayJobs"):
        rayjob.delete(RUN)


def start(dataset_dir, tmp_path):
    """The command in a process of its own."""
    segline = "import sys; from segline.cli import main; sys.exit(main())"
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


def follow(kube, process, seconds=60):
    """Until a process watches."""
    before = kube.count("watch")
    kube.wait_for(lambda kube: kube.count("watch") > before, seconds)
    assert process.poll() is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_pod_that_is_lost_leaves_the_job_to_the_next_one(kube, dataset_dir, tmp_path, how):
    first = start(dataset_dir, tmp_path)
    follow(kube, first)
    (name,) = kube.jobs
    kube.set_status(name, "Running", "RUNNING")
    first.send_signal(how)
    _, told = first.communicate(timeout=30)
    assert first.returncode == (-9 if how == signal.SIGKILL else 75), told
    if how == signal.SIGTERM:
        assert told == (
            "segline train: stopped; the Ray cluster trains on for half an hour, and the same command follows it\n"
        )
    assert list(kube.jobs) == [name]
    left = followed(kube.jobs[name])
    assert left
    second = start(dataset_dir, tmp_path)
    follow(kube, second)
    wait_until(lambda: followed(kube.jobs[name]) not in ("", left))
    succeeding(tmp_path)(kube, name)
    shown, told = second.communicate(timeout=30)
    assert second.returncode == 0, told
    assert "epoch 4" in shown
    assert_delivered(tmp_path / "out")
    assert kube.count("create", status=201) == 1
    assert kube.jobs == {}
    # The container's environment tells MLflow of the run.
    assert kube.events[0][2]["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["env"][-1] == {
        "name": rayjob.GROWS,
        "value": "1",
    }


def test_ctrl_c_deletes_the_job(kube, dataset_dir, tmp_path):
    process = start(dataset_dir, tmp_path)
    follow(kube, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130, told
    assert kube.jobs == {}
