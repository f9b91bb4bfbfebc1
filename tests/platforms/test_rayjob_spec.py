"""The RayJob that train creates: its names, what KubeRay accepts, and what its shells and its pods make of it."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from kubernetes_api import schema

from segline.config.loader import load
from segline.errors import StageError
from segline.platforms import rayjob_spec
from segline.platforms.ray_resources import check_resources
from segline.platforms.rayjob_spec import entrypoint, fingerprint, make_rayjob, rayjob_name

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


def made_by(run, params=PARAMS):
    """Return the RayJob that train creates."""
    key = fingerprint(params, "c", IMAGE)
    return make_rayjob(
        yaml.safe_load(TEMPLATE.read_text()),
        params,
        name=rayjob_name(run),
        run=run,
        training_url=f"{os.environ['SEGLINE_STORE']}/{key}",
        image=IMAGE,
        tracking_uri="http://mlflow:5000",
    )


def test_what_is_created_is_what_kuberay_takes(monkeypatch):
    """The server refuses any other; here with all that the environment may hand on."""
    if schema() is None:
        pytest.skip("the definition of a RayJob is not at hand")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("SEGLINE_RUN", RUN)
    monkeypatch.setenv("SEGLINE_STORE", "s3://b/p")
    job = made_by(RUN)
    name = job["metadata"]["name"]
    assert len(name) <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert "namespace" not in job["metadata"]
    assert job["metadata"]["labels"] == {"app.kubernetes.io/part-of": "segline", "segline/run": RUN}
    pods = rayjob_spec.pod_specs(job["spec"])
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


def head_of(job):
    """Return the container that the driver runs in."""
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("run", ["", "a", RUN, "x" * 200, "A_b.C", "---", "ünï", "1" * 33, "1" * 34])
def test_names_are_short_and_of_one_run_alone(run):
    name = rayjob_name(run or "key")
    assert re.fullmatch(r"segline-train-[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47
    others = {rayjob_name(other) for other in ("b", "x" * 201, "a-b-c", "1" * 35, "--", "une")}
    assert name not in others
    label = rayjob_spec._normalize(run or "key", 63)
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?", label)
    assert len(label) <= 63


NASTY = "it's $HOME `id` \\ \\\" {a,b} *;&|<>!ü日\n%PATH%"


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("text", ["tiny", "two words", NASTY])
def test_the_parameters_come_through_all_shells(windows, text):
    """A shell reads the entry point; ``ray job submit`` makes one line of its words, and a shell reads that again."""
    everything = {
        "ingest": {"layout": {"wad": {}}, "source": text},
        "label": {"distances": ["border"], "class_maps": {"wad": {text.replace("\n", " "): ["car", "bus"]}}},
        "train": {
            "models": ["unet", {"unet_resnet34": {"pretrained": False}}],
            "losses": ["dice", {"dice": {"weight": 0.5}, "cross_entropy": {"weight": 0.25}}, "distance_map"],
            "search": {
                "num_samples": 2,
                "spaces": {
                    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                    "unet.width": {"low": 8, "high": 16},
                    "batch_size": [4, 8],
                },
            },
        },
    }
    params = load(json.dumps(everything))
    line = entrypoint(params, training_url="s3://b/p/0123", tracking_uri="http://mlflow.lines.svc:5000")
    if windows:
        line = subprocess.list2cmdline(shlex.split(line))
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    line = f"{sys.executable} -c {shlex.quote(show)} {line.removeprefix('segline train')}"
    words = json.loads(subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout)
    passed = load(words[words.index("--params") + 1])
    assert passed == replace(params, train=replace(params.train, checkpoints="s3://b/p/0123/checkpoints"))
    assert words[words.index("--out") + 1] == "s3://b/p/0123/train"


def test_an_address_that_a_shell_would_change_is_refused():
    with pytest.raises(StageError, match="characters that a shell reads"):
        entrypoint(PARAMS, training_url="s3://b/p", tracking_uri="http://mlflow/?a=b&c=d")


def test_no_login_of_mlflow_is_in_what_is_created(monkeypatch):
    """The pods have it from a secret; a RayJob is read by many more."""
    monkeypatch.setenv("SEGLINE_STORE", "s3://b/p")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "hush")
    assert "hush" not in json.dumps(made_by(RUN))
    with pytest.raises(StageError, match="segline-mlflow-login") as caught:
        entrypoint(PARAMS, training_url="s3://b/p", tracking_uri="https://me:hush@mlflow.example.org")
    assert "hush" not in str(caught.value)


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
        check_resources(template, with_train(**wanted).train)
