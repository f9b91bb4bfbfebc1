"""The overlays have what the compiled pipeline requests of the cluster."""

from functools import cache

import pytest
import yaml
from documented import commands
from manifests import GPU, OVERLAYS, Pod, amount, build, example_secrets, find, gpu_faults, over_quota

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
        pipeline, platform = yaml.safe_load_all(path.read_text())
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
def test_the_quota_has_room_for_every_task(compiled, overlay):
    """Each pod also holds the executor, whose requests are the default."""
    objects = build(overlay)
    (limits,) = find(objects, "LimitRange", "segline")["spec"]["limits"]
    for name, (container, _) in compiled(overlay).items():
        resources = container["resources"]
        asked = {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]}
        asked = {what: amount(value) + amount(limits["defaultRequest"][what]) for what, value in asked.items()}
        asked[GPU] = resources.get("accelerator", {}).get("count", 0)
        assert over_quota(objects, asked) == [], name


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
    (limits,) = find(build(overlay), "LimitRange", "segline")["spec"]["limits"]
    assert amount(limits["defaultRequest"]["ephemeral-storage"]) > 0
    assert amount(limits["default"]["ephemeral-storage"]) >= amount(DeploymentConfig().scratch)


@OVERLAY
def test_no_default_limit_is_below_a_request(compiled, overlay):
    """Kubernetes gives the default to a container without a limit, and would then refuse the container."""
    (limits,) = find(build(overlay), "LimitRange", "segline")["spec"]["limits"]
    for name, (container, _) in compiled(overlay).items():
        resources = container["resources"]
        assert "cpu" not in limits["default"], name
        assert "resourceMemoryLimit" in resources, name


def test_a_run_ends_before_its_ray_cluster_is_ended(compiled):
    _, wanted = compiled("gpu")["exec-train"]
    job = yaml.safe_load(find(build("gpu"), "ConfigMap", "segline-rayjob")["data"]["rayjob.yaml"])
    assert job["spec"]["activeDeadlineSeconds"] >= int(wanted["activeDeadlineSeconds"])
