"""A RayJob in a queue of Kueue: what Kueue's webhooks accept of it, and what is followed while it waits."""

import copy
import json

import pytest
import yaml
from kubernetes_api import schema
from test_rayjob import assert_delivered, dataset_dir, kube, succeeding, train  # noqa: F401 - fixtures
from test_rayjob_spec import RUN, TEMPLATE, TINY, made_by, with_train

from segline.config.loader import load
from segline.parallel import AUTOSCALING
from segline.platforms import rayjob_spec
from segline.platforms.rayjob_spec import rayjob_name

BIG = {"models": tuple({"unet": {"width": width}} for width in range(2, 32, 2))}


@pytest.fixture
def queued(monkeypatch):
    monkeypatch.setenv("SEGLINE_STORE", "s3://b/p")
    monkeypatch.setenv("SEGLINE_QUEUE", "team-a")
    monkeypatch.setenv("SEGLINE_PRIORITY", "high")


def refusals(job):
    """Return what the webhooks of Kueue 0.13 refuse of a RayJob with a queue (see segline.platforms.kueue)."""
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    elastic = job["metadata"].get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    return [
        name
        for name, broken in {
            "shutdown": not spec.get("shutdownAfterJobFinishes"),
            "selector": bool(spec.get("clusterSelector")),
            "autoscaling": bool(cluster.get("enableInTreeAutoscaling")) and not elastic,
            "groups": len(names) > 7 or "head" in names,
        }.items()
        if broken
    ]


def test_a_job_in_a_queue_is_what_kueue_and_kuberay_accept(queued):
    job = made_by(RUN)
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert labels["segline/run"] == RUN
    assert refusals(job) == []
    if schema():
        import jsonschema

        jsonschema.validate(job, schema())


def test_without_a_queue_nothing_changes(monkeypatch):
    monkeypatch.setenv("SEGLINE_STORE", "s3://b/p")
    job = made_by(RUN)
    assert not [name for name in job["metadata"]["labels"] if "kueue" in name]
    assert refusals(job) == ["autoscaling"]


@pytest.mark.parametrize(
    ("changed", "replicas"),
    [
        ({}, 1),
        ({"gpus_per_worker": 1.0, "workers_per_trial": 3}, 3),
        ({"gpus_per_worker": 0.5, "workers_per_trial": 5}, 3),
        ({"gpus_per_worker": 1.0, "workers_per_trial": 100}, 8),
        ({"gpus_per_worker": 0.1, "cpus_per_worker": 4, "workers_per_trial": 3}, 2),
    ],
)
def test_the_cluster_has_the_workers_that_the_first_round_uses(queued, changed, replicas):
    """A worker has 1 GPU and 8 cores, the trial 0.5 GPU and 1 core, and there is one trial."""
    settings = {"cpus_per_worker": 1, "workers_per_trial": 1} | changed
    cluster = made_by(RUN, with_train(**settings))["spec"]["rayClusterSpec"]
    assert [group["replicas"] for group in cluster["workerGroupSpecs"]] == [replicas]
    # KubeRay makes no account for the head without its autoscaler.
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert (head["serviceAccountName"], head["automountServiceAccountToken"]) == ("segline-ray", False)
    variables = {entry["name"] for entry in head["containers"][0]["env"]}
    assert AUTOSCALING not in variables


@pytest.mark.parametrize(("most", "replicas"), [(3, [2, 0]), (1, [1, 1])])
def test_groups_share_the_workers_of_the_first_round(queued, most, replicas):
    """Four trials; a pod of the first group holds three workers, one of the second group holds one."""
    template = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    (large,) = template["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    small = copy.deepcopy(large) | {"groupName": "small"}
    for group, cpus, count in ((large, "3", most), (small, "1", 3)):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        del limits["nvidia.com/gpu"]
        limits["cpu"] = cpus
        group["maxReplicas"] = count
    template["spec"]["rayClusterSpec"]["workerGroupSpecs"].append(small)
    models = [{"unet": {"width": width, "depth": 1}} for width in (2, 3, 4, 5)]
    settings = {"models": models, "gpus_per_worker": 0.0, "cpus_per_worker": 1}
    params = load(json.dumps(TINY | {"train": TINY["train"] | settings}))
    job = rayjob_spec.make_rayjob(
        template, params, name="a", run=RUN, training_url="s3://b/p", image="i", tracking_uri="http://mlflow"
    )
    assert [group["replicas"] for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]] == replicas


def test_an_elastic_job_keeps_its_autoscaler(queued, monkeypatch):
    template = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    template["metadata"]["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    job = rayjob_spec.make_rayjob(
        template, with_train(), name="a", run=RUN, training_url="s3://b/p", image="i", tracking_uri="http://mlflow"
    )
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert refusals(job) == []


def test_a_job_that_waits_or_is_preempted_is_followed(kube, dataset_dir, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Kueue sets ``suspend``; KubeRay deletes the cluster, and makes another one when it is admitted again."""
    monkeypatch.setenv("SEGLINE_QUEUE", "team-a")
    trains = succeeding(tmp_path)

    def run(kube, name):
        def suspend(value, *status):
            kube.jobs[name]["spec"]["suspend"] = value
            kube.set_status(name, *status)
            kube.wait_until_polled()

        suspend(True, "Suspended")
        suspend(False, "Running", "RUNNING")
        suspend(True, "Suspending", "STOPPED")
        suspend(True, "Suspended")
        suspend(False, "Initializing")
        trains(kube, name)

    kube.on_create = run
    train(dataset_dir, tmp_path / "out")
    assert_delivered(tmp_path / "out")
    shown = [line for line in capsys.readouterr().out.splitlines() if rayjob_name(RUN) in line]
    waiting = [line for line in shown if "waits in the queue team-a of Kueue" in line]
    assert len(waiting) == 3  # before the first cluster, and while and after it is deleted
    assert kube.jobs == {}
