"""What the compiled pipeline asks of the cluster, the overlays have."""

from functools import cache

import pytest
import yaml
from manifests import OVERLAYS, build, example_secrets, find, over_quota

pytest.importorskip("kfp")

from pipelines.training import Site, compile_to

# As docs/kubernetes.md starts it there.
SITES = {"gpu": Site(rayjob=True), "dev": Site(gpus=0, cpus="2", memory="6G")}
OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A function: of an overlay the containers of the pipeline, and what each wants of Kubernetes."""

    @cache
    def of(overlay):
        path = tmp_path_factory.mktemp("pipeline") / "pipeline.yaml"
        compile_to(path, SITES[overlay])
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
            assert {pair["configMapKey"] for pair in entry["keyToEnv"]} <= set(settings), name
        for entry in wanted.get("configMapAsVolume", []):
            assert find(objects, "ConfigMap", entry["configMapName"]), name
        for entry in wanted.get("secretAsEnv", []):
            seen.add(entry["secretName"])
            assert {pair["secretKey"] for pair in entry["keyToEnv"]} <= set(secrets[entry["secretName"]]), name
    # The database's is for the server and its backup alone.
    assert seen == set(secrets) - {"segline-mlflow-database"}


def test_the_template_is_where_train_looks_for_it(compiled):
    container, wanted = compiled("gpu")["exec-train"]
    (volume,) = wanted["configMapAsVolume"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    folder, _, file = environment["SEGLINE_RAYJOB"].rpartition("/")
    assert volume["mountPath"] == folder
    assert file in find(build("gpu"), "ConfigMap", volume["configMapName"])["data"]


@OVERLAY
def test_the_quota_has_room_for_every_task(compiled, overlay):
    objects = build(overlay)
    for name, (container, _) in compiled(overlay).items():
        resources = container["resources"]
        asked = {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]}
        assert over_quota(objects, asked) == [], name


@OVERLAY
def test_no_default_limit_is_below_a_request(compiled, overlay):
    """Kubernetes gives it to a container without a limit, and then refuses the container."""
    (limits,) = find(build(overlay), "LimitRange", "segline")["spec"]["limits"]
    for name, (container, _) in compiled(overlay).items():
        resources = container["resources"]
        assert "cpu" not in limits["default"], name
        assert "resourceMemoryLimit" in resources, name


def test_a_run_ends_before_its_ray_cluster_is_ended(compiled):
    _, wanted = compiled("gpu")["exec-train"]
    job = yaml.safe_load(find(build("gpu"), "ConfigMap", "segline-rayjob")["data"]["rayjob.yaml"])
    assert job["spec"]["activeDeadlineSeconds"] >= int(wanted["activeDeadlineSeconds"])
