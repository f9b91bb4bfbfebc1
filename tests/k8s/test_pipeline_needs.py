"""The overlays have what the compiled pipeline requests of the cluster."""

from functools import cache

import pytest
import yaml
from admission import amount, defaults, driver_pod, over_quota, refused, task_pod
from documented import commands
from manifests import GPU, OVERLAYS, Pod, build, example_secrets, find, gpu_faults, pods

pytest.importorskip("kfp")

from pipelines import __main__ as program
from pipelines.arguments import make_parser
from pipelines.training import DeploymentConfig, compile_to
from segline.cli import STAGES

# As docs/kubernetes.md starts it there: first in production, then in the small cluster.
RUNS = [words for words in commands("docs/kubernetes.md", "python -m pipelines") if {"run", "--endpoint"} <= {*words}]
DEPLOYMENTS = {
    overlay: program._deployment(make_parser().parse_args(words))
    for overlay, words in zip(("gpu", "dev"), RUNS, strict=True)
}
OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A function: of an overlay, or a deployment, the containers of the pipeline, and their requests to Kubernetes."""

    @cache
    def of(where):
        path = tmp_path_factory.mktemp("pipeline") / "pipeline.yaml"
        compile_to(path, DEPLOYMENTS.get(where, where))
        pipeline, platform = yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        wanted = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        made = pipeline["deploymentSpec"]["executors"]
        return {name: (entry["container"], wanted[name]) for name, entry in made.items()}

    return of


@OVERLAY
def test_every_name_is_there(compiled, overlay):
    objects, secrets, seen = build(overlay), example_secrets(), set()
    for name, (_, wanted) in compiled(overlay).items():
        for entry in wanted.get("configMapAsEnv", []):
            settings = find(objects, "ConfigMap", entry["configMapName"])["data"]
            keys = {pair["configMapKey"] for pair in entry["keyToEnv"]}
            assert entry["optional"] or keys <= set(settings), name
        for entry in wanted.get("configMapAsVolume", []):
            assert entry["optional"] or find(objects, "ConfigMap", entry["configMapName"]), name
        for entry in wanted.get("secretAsEnv", []):
            seen.add(entry["secretName"])
            keys = {pair["secretKey"] for pair in entry["keyToEnv"]} - {"AWS_SESSION_TOKEN"}  # of temporary keys only
            assert keys <= set(secrets[entry["secretName"]]), name
            # Kubeflow passes it on to each key: what is not there is left out.
            assert entry["optional"] is True, name
    assert seen == {"segline-s3", "segline-git", "segline-mlflow-login", "segline-webhook"}


@pytest.mark.parametrize(
    ("secret", "tasks"),
    [
        ("segline-s3", set(STAGES)),
        ("segline-mlflow-login", {name for name, stage in STAGES.items() if stage.tracked} | {"outcome"}),
        ("segline-git", {"ingest"}),
        ("segline-webhook", {"outcome"}),
    ],
)
def test_a_secret_goes_to_the_tasks_that_use_it(compiled, secret, tasks):
    found = {
        name.removeprefix("exec-")
        for name, (_, wanted) in compiled("gpu").items()
        if secret in [entry["secretName"] for entry in wanted.get("secretAsEnv", [])]
    }
    assert found == tasks


def test_the_template_is_where_train_looks_for_it(compiled):
    container, wanted = compiled("gpu")["exec-train"]
    (volume,) = [entry for entry in wanted["configMapAsVolume"] if not entry["optional"]]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    folder, _, file = environment["SEGLINE_RAYJOB"].rpartition("/")
    assert volume["mountPath"] == folder
    assert file in find(build("gpu"), "ConfigMap", volume["configMapName"])["data"]


@OVERLAY
def test_the_quota_has_room_for_two_runs(compiled, overlay):
    """One run follows the largest Ray cluster while each task of another one runs, and a driver prepares the next."""
    objects = build(overlay)
    tasks = {name: task_pod(name, container) for name, (container, _) in compiled(overlay).items()}
    assert len(tasks) == len(STAGES) + 1
    for name, task in tasks.items():
        assert over_quota(objects, [tasks["exec-train"], task, driver_pod()]) == [], name


@OVERLAY
def test_kubernetes_admits_every_container(compiled, overlay):
    """The LimitRange gives defaults, and a default limit below a request is refused."""
    objects = build(overlay)
    tasks = [task_pod(name, container) for name, (container, _) in compiled(overlay).items()]
    assert refused([*pods(objects), *tasks, driver_pod()], objects) == []


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        ({"default": {"memory": "32Mi"}}, {"driver init: memory", "driver wait: memory"}),
        ({"defaultRequest": {"cpu": "100m", "memory": "8Gi"}}, {"driver init: memory", "exec-train wait: memory"}),
        ({"default": {"cpu": "1"}}, {"exec-train main: cpu"}),
        ({"defaultRequest": {}}, {"driver wait: no request of cpu"}),
    ],
)
def test_a_limit_that_refuses_a_container_is_noticed(compiled, change, complaints):
    objects = build("gpu")
    defaults(objects).update(change)
    made = [task_pod("exec-train", compiled("dev")["exec-train"][0] | {"resources": {"resourceCpuRequest": 2.0}})]
    found = refused([*made, driver_pod()], objects)
    for complaint in complaints:
        assert any(line.startswith(complaint) for line in found), (complaint, found)


@pytest.mark.parametrize("name", ["pods", "persistentvolumeclaims", "requests.cpu", "requests.memory"])
def test_a_quota_that_is_too_small_is_noticed(name):
    objects = build("dev")
    find(objects, "ResourceQuota", "segline")["spec"]["hard"][name] = "1"
    (complaint,) = over_quota(objects)
    assert complaint.startswith(f"{name.removeprefix('requests.')}: ")


def executors_pod(name, container, wanted):
    """Return the parts that concern GPUs of the pod that Kubeflow makes of a task."""
    mounts = {entry["volumeName"]: entry for entry in wanted["emptyDirMounts"]}
    spec = {
        "nodeSelector": wanted.get("nodeSelector", {}).get("labels", {}),
        "tolerations": wanted.get("tolerations", []),
        "volumes": [{"name": key, "emptyDir": {"medium": entry.get("medium")}} for key, entry in mounts.items()],
    }
    gpus = container["resources"].get("accelerator", {})
    main = {
        "name": "main",
        "resources": {"limits": {gpus["type"]: gpus["count"]} if gpus else {}},
        "volumeMounts": [{"name": key, "mountPath": entry["mountPath"]} for key, entry in mounts.items()],
    }
    return Pod(name, {}, spec | {"containers": [main]})


@pytest.mark.parametrize(
    "where", ["gpu", DeploymentConfig(gpus=2, stage_gpus=1), DeploymentConfig(stage_gpus=1), DeploymentConfig(gpus=1)]
)
def test_a_task_with_a_gpu_gets_it_and_a_node_and_shared_memory(compiled, where):
    made = [executors_pod(name, *entry) for name, entry in compiled(where).items()]
    with_gpus = {pod.where for pod in made if GPU in pod.containers[0]["resources"]["limits"]}
    config = DEPLOYMENTS.get(where, where)
    stages = {"exec-evaluate", "exec-ensemble", "exec-promote"} if config.stage_gpus else set()
    assert with_gpus == stages | ({"exec-train"} if config.gpus else set())
    assert gpu_faults(made) == []


def test_no_task_of_the_small_cluster_asks_for_more_than_is_said(compiled):
    asked = [container["resources"] for container, _ in compiled("dev").values()]
    assert max(amount(entry["resourceCpuRequest"]) for entry in asked) == 2
    assert max(amount(entry["resourceMemoryRequest"]) for entry in asked) == amount("6G")


@OVERLAY
def test_disk_is_asked_for_and_limited(overlay):
    """The namespace does it, since Kubeflow cannot; and /tmp may hold as much as the pipeline allows."""
    limits = defaults(build(overlay))
    assert amount(limits["defaultRequest"]["ephemeral-storage"]) > 0
    assert amount(limits["default"]["ephemeral-storage"]) >= amount(DeploymentConfig().scratch)


@OVERLAY
def test_every_task_has_a_limit_of_memory(compiled, overlay):
    for name, (container, _) in compiled(overlay).items():
        assert "resourceMemoryLimit" in container["resources"], name


def test_a_run_ends_before_its_ray_cluster_is_ended(compiled):
    _, wanted = compiled("gpu")["exec-train"]
    job = yaml.safe_load(find(build("gpu"), "ConfigMap", "segline-rayjob")["data"]["rayjob.yaml"])
    assert job["spec"]["activeDeadlineSeconds"] >= int(wanted["activeDeadlineSeconds"])
