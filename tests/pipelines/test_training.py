"""The compiled pipeline equals ``dvc.yaml``, and requests what each stage needs."""

import json
import re
import shlex
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
import yaml

pytest.importorskip("kfp")

from pipelines.training import DeploymentConfig, compile_to
from segline import cli
from segline.config.loader import load
from segline.errors import ParamsError

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "pipeline.yaml"
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGE = pytest.mark.parametrize("stage", DVC)
# The packages of the wheel.
OURS = ("segline", "streets")
WITH_TORCH = ["evaluate", "ensemble", "promote"]
# Only Kubeflow gives these options; the rest are those of dvc.yaml.
ITS_OWN = ("--set", "--executor-input")
# Several workers need it, which `pipelines` refuses.
REFUSED = {"label": {"ray"}}
# Kubeflow gives a section whole where dvc.yaml names a part of it.
WHOLE = {
    "train.validate_on": "train",
    "evaluate.batch_size": "evaluate",
    "evaluate.max_pixels": "evaluate",
    "evaluate.on": "evaluate",
}


@cache
def compiled(**options):
    """Return the two documents of the definition: the pipeline, and its requests to Kubernetes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_to(path, DeploymentConfig(**options))
        return list(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))


def line(pipeline):
    """Return the tasks within the exit handler."""
    return pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def container(stage, pipeline):
    return pipeline["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]


def kubernetes(stage, **options):
    return compiled(**options)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{stage}"]


def words_of(stage, pipeline):
    """Return the options of a component's command with their values."""
    found = {}
    arguments = container(stage, pipeline)["args"]
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        found.setdefault(name, []).append(value)
    return found


def dvc_words(stage):
    program, name, *arguments = shlex.split(DVC[stage]["cmd"])
    return [program, name], dict(zip(arguments[::2], arguments[1::2], strict=True))


def producers(task):
    """Return the stage and the output behind each input of a task."""
    inputs = task["inputs"].get("artifacts", {})
    made = {name: entry["taskOutputArtifact"] for name, entry in inputs.items()}
    return {name: (entry["producerTask"], entry["outputArtifactKey"]) for name, entry in made.items()}


def sections(stage, pipeline):
    """Return the keys and the parameters in the JSON text of --params."""
    (text,) = words_of(stage, pipeline)["--params"]
    return re.findall(r'"(\w+)": "?\{\{\$\.inputs\.parameters\[\'(\w+)\'\]\}\}"?', text)


def test_the_stages_are_those_of_dvc():
    assert sorted(line(compiled()[0])) == sorted(DVC)


@STAGE
def test_a_command_has_the_words_of_dvc(stage):
    pipeline, _ = compiled()
    command, expected = dvc_words(stage)
    assert container(stage, pipeline)["command"] == command
    assert set(words_of(stage, pipeline)) - set(ITS_OWN) == set(expected)


@STAGE
def test_the_edges_are_those_of_dvc(stage):
    pipeline, _ = compiled()
    _, words = dvc_words(stage)
    folders = {folder: name for name, folder in cli.FOLDERS.items()}
    expected = {
        option.removeprefix("--"): (folders[Path(value)], "out")
        for option, value in words.items()
        if Path(value) in folders and option != "--out"
    }
    assert producers(line(pipeline)[stage]) == expected
    for option, (producer, _) in expected.items():
        assert words_of(stage, pipeline)[f"--{option}"] == [f"{{{{$.inputs.artifacts['{option}'].path}}}}"]
        assert producer in line(pipeline)[stage]["dependentTasks"]


@STAGE
def test_the_parameters_are_those_of_dvc(stage):
    pipeline, _ = compiled()
    given = sections(stage, pipeline)
    assert all(key == parameter for key, parameter in given)
    assert {key for key, _ in given} == {WHOLE.get(name, name) for name in DVC[stage]["params"]}


@STAGE
def test_every_parameter_comes_from_the_run_or_is_the_hash_of_an_input(stage):
    task = line(compiled()[0])[stage]
    for name, entry in task["inputs"]["parameters"].items():
        if name.endswith("_hash"):
            producer, _ = producers(task)[name.removesuffix("_hash")]
            assert entry["taskOutputParameter"] == {"outputParameterKey": "out_hash", "producerTask": producer}
        else:
            assert entry["componentInputParameter"] == f"pipelinechannel--{name}"


@STAGE
def test_a_command_has_only_placeholders_that_kubeflow_replaces(stage):
    """The launcher replaces the executor input, inputs and outputs; anything else would stay as it is."""
    for word in container(stage, compiled()[0])["args"]:
        for found in re.findall(r"\{\{(.*?)\}\}", word):
            assert found == "$" or re.match(r"\$\.(inputs\.(parameters|artifacts)|outputs\.artifacts)\[", found)


@STAGE
def test_the_command_line_accepts_what_kubeflow_puts_in(stage, tmp_path):
    pipeline, _ = compiled()
    values = {"name": "streets", "seed": "7", "promotion": "true", "exclusions": "", "source": "", "revision": ""}

    def put_in(text):
        text = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", lambda found: values.get(found[1], "{}"), text)
        return re.sub(r"\{\{.*?\}\}", "x", text)

    words = [put_in(word) for word in [*container(stage, pipeline)["command"], *container(stage, pipeline)["args"]]]
    arguments = cli._parser().parse_args(words[1:])
    assert arguments.command == stage
    load(arguments.params, arguments.overrides)


def test_the_definition_is_the_one_in_the_repository():
    """After an intended change run python -m pipelines compile --out tests/golden/pipeline.yaml."""

    def structure(documents):
        return [{key: value for key, value in entry.items() if key != "sdkVersion"} for entry in documents]

    assert structure(compiled()) == structure(list(yaml.safe_load_all(GOLDEN.read_text())))


def test_the_cache_is_asked_where_the_key_holds_all_that_a_stage_depends_on():
    """Kubeflow's key contains the parameters and the names of artifacts, but not their content."""
    tasks = line(compiled()[0])
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache", False)}
    assert cached == {"train", "evaluate", "ensemble"}
    for name in cached:
        hashed = {key.removesuffix("_hash") for key in tasks[name]["inputs"]["parameters"] if key.endswith("_hash")}
        assert hashed == set(producers(tasks[name]))


def test_without_caching_no_task_at_any_depth_takes_a_known_result():
    pipeline = compiled(caching=False)[0]
    groups = [pipeline["root"], *pipeline["components"].values()]
    tasks = [task for group in groups for task in group.get("dag", {}).get("tasks", {}).values()]
    assert len(tasks) > len(DVC)
    assert not [task for task in tasks if task.get("cachingOptions", {}).get("enableCache")]
    assert pipeline["deploymentSpec"] == compiled()[0]["deploymentSpec"]


@cache
def imported(stage):
    """Return the packages that a stage imports, also within functions, with their possible distributions."""
    graph = grimp.build_graph(*OURS, include_external_packages=True, cache_dir=None)
    names = {name.partition(".")[0] for name in graph.find_upstream_modules(f"segline.stages.{stage}")}
    known = packages_distributions()
    return {name: known[name] for name in names - {*OURS, *sys.stdlib_module_names}}


@STAGE
def test_the_image_of_a_stage_has_all_that_its_code_imports(stage):
    """Without MLflow, validate would warn and never check drift."""
    image = container(stage, compiled()[0])["image"].split("/")[-1].split(":")[0]
    lock = (ROOT / "requirements" / f"{image}.lock").read_text()
    has = set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))
    names = {name: {entry.lower().replace("_", "-") for entry in found} for name, found in imported(stage).items()}
    assert {name for name, found in names.items() if not found & has} == REFUSED.get(stage, set())


@STAGE
def test_a_stage_is_tried_again_with_growing_pauses_and_ends(stage):
    policy = line(compiled()[0])[stage]["retryPolicy"]
    assert policy["maxRetryCount"] == 3
    assert policy["backoffFactor"] == 2
    limit = int(kubernetes(stage)["activeDeadlineSeconds"])
    assert limit > 0
    # It counts from the start of the first attempt, which may take half of it.
    assert policy["backoffMaxDuration"] == f"{2 * limit}s"


@STAGE
def test_no_stage_runs_as_root_or_from_an_unnamed_image(stage):
    assert kubernetes(stage)["securityContext"]["runAsNonRoot"]
    assert container(stage, compiled()[0])["image"].split(":")[1] not in ("", "latest")


@pytest.mark.parametrize(
    ("stage", "options", "number"),
    [("train", {"gpus": 2}, "2"), *((stage, {"stage_gpus": 1, "rayjob": True}, "1") for stage in WITH_TORCH)],
)
def test_a_stage_takes_its_gpus_with_shared_memory_and_toleration(stage, options, number):
    room = container(stage, compiled(**options)[0])["resources"]
    assert room["accelerator"] == {
        "count": number,
        "resourceCount": number,
        "resourceType": "nvidia.com/gpu",
        "type": "nvidia.com/gpu",
    }
    asked = kubernetes(stage, **options)
    assert asked["nodeSelector"]["labels"] == {"nvidia.com/gpu.present": "true"}
    assert asked["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
    assert {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "8Gi", "volumeName": "shm"} in asked[
        "emptyDirMounts"
    ]


def test_training_has_as_many_cores_as_it_asks_for():
    """Ray reads the limit; without one it starts a trial on each core of the node."""
    room = container("train", compiled(cpus="6")[0])["resources"]
    assert room["resourceCpuRequest"] == room["resourceCpuLimit"] == "6"


@STAGE
def test_a_stage_asks_for_what_the_site_gives_its_kind(stage):
    cpus = {"cpus": "6", "stage_cpus": "2", "data_cpus": "3"}
    memory = {"memory": "9G", "stage_memory": "6G", "data_memory": "7G"}
    kind = "" if stage == "train" else "stage_" if stage in WITH_TORCH else "data_"
    room = container(stage, compiled(**cpus, **memory)[0])["resources"]
    assert room["resourceCpuRequest"] == cpus[f"{kind}cpus"]
    assert room["resourceMemoryRequest"] == room["resourceMemoryLimit"] == memory[f"{kind}memory"]


@STAGE
def test_a_stage_with_torch_is_one_whose_code_imports_it(stage):
    """These stages can use a GPU."""
    assert ("torch" in imported(stage)) == (stage in [*WITH_TORCH, "train"])


def test_a_task_that_only_waits_stays_small():
    pipeline = compiled(rayjob=True, stage_cpus="8", stage_memory="64G", data_cpus="8", data_memory="64G")[0]
    for name in ("outcome", "train"):
        room = container(name, pipeline)["resources"]
        assert (room["resourceCpuRequest"], room["resourceMemoryLimit"]) == ("1", "4G")


@STAGE
def test_no_stage_fills_its_nodes_disk_by_way_of_tmp(stage):
    (tmp,) = [entry for entry in kubernetes(stage, scratch="3Gi")["emptyDirMounts"] if entry["mountPath"] == "/tmp"]
    assert tmp["sizeLimit"] == "3Gi"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"stage_cpus": "many"}, "--stage-cpus 'many': expected cores, such as 4 or 500m"),
        ({"stage_memory": "6 G"}, "--stage-memory '6 G': expected bytes, such as 32G"),
        ({"stage_gpus": 2}, "--stage-gpus 2: expected 0 or 1, as a stage computes on one"),
        ({"data_cpus": "0.5 cores"}, "--data-cpus '0.5 cores': expected cores, such as 4 or 500m"),
        ({"data_memory": "much"}, "--data-memory 'much': expected bytes, such as 32G"),
        ({"scratch": "-1"}, "--scratch '-1': expected bytes, such as 32G"),
        ({"queue": "Team A"}, "--queue 'Team A': expected a name of Kubernetes, such as team-a"),
        ({"priority": "-"}, "--priority '-': expected a name of Kubernetes, such as team-a"),
        ({"cpus": "500m"}, "--cpus '500m': expected whole cores, such as 8"),
    ],
)
def test_a_wrong_amount_is_reported(options, fault):
    with pytest.raises(ParamsError) as info:
        DeploymentConfig(**options)
    assert info.value.errors == [fault]


@STAGE
def test_without_a_gpu_a_stage_asks_for_none(stage):
    others = {"stage_gpus": 1} if stage == "train" else {"gpus": 1}
    assert "accelerator" not in container(stage, compiled(**others)[0])["resources"]
    assert not {"tolerations", "nodeSelector"} & set(kubernetes(stage, **others))


def test_with_a_ray_cluster_the_stage_itself_only_waits():
    pipeline = compiled(rayjob=True)[0]
    assert "accelerator" not in container("train", pipeline)["resources"]
    variables = {entry["name"]: entry["value"] for entry in container("train", pipeline)["env"]}
    assert variables == {
        "SEGLINE_RETRIES": "3",
        "SEGLINE_RAYJOB": "/etc/segline/rayjob.yaml",
        "SEGLINE_IMAGE": "segline/train:0.2.0",
    }
    (mounted,) = [entry for entry in kubernetes("train", rayjob=True)["configMapAsVolume"] if not entry["optional"]]
    assert mounted["mountPath"] == "/etc/segline"


def test_the_queue_of_the_ray_cluster_reaches_the_pod_that_makes_it():
    pipeline = compiled(rayjob=True, queue="team-a", priority="high")[0]
    variables = {entry["name"]: entry["value"] for entry in container("train", pipeline)["env"]}
    assert variables["SEGLINE_QUEUE"] == "team-a"
    assert variables["SEGLINE_PRIORITY"] == "high"
    others = {entry["name"] for stage in DVC if stage != "train" for entry in container(stage, pipeline).get("env", [])}
    assert not {name for name in others if "QUEUE" in name}


@STAGE
def test_a_stage_tolerates_the_spot_nodes_of_rayjob_yaml(stage):
    template = yaml.safe_load((ROOT / "k8s/base/ray/rayjob.yaml").read_text(encoding="utf-8"))
    (group,) = template["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    expected = [entry for entry in group["template"]["spec"]["tolerations"] if entry["key"] != "nvidia.com/gpu"]
    assert kubernetes(stage, spot=True)["tolerations"] == expected
    with_gpu = kubernetes(stage, spot=True, stage_gpus=1, gpus=1)["tolerations"]
    assert [entry for entry in with_gpu if entry in expected] == expected
    assert "tolerations" not in kubernetes("outcome", spot=True)


def test_with_when_changed_all_after_validate_runs_only_if_there_is_something_new():
    pipeline = compiled(when_changed="drift")[0]
    outer = line(pipeline)
    ((name, group),) = [entry for entry in outer.items() if "triggerPolicy" in entry[1]]
    assert set(outer) == {"ingest", "validate", "changed", name}
    channel = "pipelinechannel--changed-changed"
    assert group["triggerPolicy"]["condition"] == f"inputs.parameter_values['{channel}'] == 'true'"
    assert group["inputs"]["parameters"][channel]["taskOutputParameter"] == {
        "outputParameterKey": "changed",
        "producerTask": "changed",
    }
    inner = pipeline["components"][group["componentRef"]["name"]]["dag"]["tasks"]
    assert set(inner) == set(DVC) - {"ingest", "validate"}
    cached = {stage for stage, task in inner.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"train", "evaluate", "ensemble"}
    for stage in DVC:
        assert container(stage, pipeline) == container(stage, compiled()[0])


def test_the_question_is_asked_anew_in_each_run_with_all_that_the_stages_after_it_depend_on():
    pipeline = compiled(when_changed="drift")[0]
    task = line(pipeline)["changed"]
    assert not task["cachingOptions"].get("enableCache")
    assert task["inputs"]["parameters"]["when"]["runtimeValue"]["constant"] == "drift"
    (text,) = words_of("changed", pipeline)["--params"]
    asked = set(re.findall(r'"(\w+)": ', text)) | {"promotion", "exclusions"}
    assert asked <= set(task["inputs"]["parameters"])
    inner = set(DVC) - {"ingest", "validate"}
    needed = {name for stage in inner for name in line(compiled()[0])[stage]["inputs"]["parameters"]}
    assert {name for name in needed if not name.endswith("_hash")} <= asked
    values = {"name": "streets", "seed": "7", "promotion": "true", "exclusions": "", "when": "drift"}

    def put_in(word):
        word = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", lambda found: values.get(found[1], "{}"), word)
        return re.sub(r"\{\{.*?\}\}", "x", word)

    words = container("changed", pipeline)
    arguments = cli._parser().parse_args([*words["command"][1:], *map(put_in, words["args"])])
    assert load(arguments.params, arguments.overrides).promote.enabled
    options = kubernetes("changed", when_changed="drift")
    assert {"segline-s3", "segline-mlflow-login"} <= {
        entry["secretName"] if "secretName" in entry else entry["secretNameParameter"]["runtimeValue"]["constant"]
        for entry in options["secretAsEnv"]
    }


@pytest.mark.parametrize("task", [*DVC, "outcome", "changed"])
def test_the_settings_and_files_of_a_site_reach_every_task_and_may_be_absent(task):
    wanted = kubernetes(task, when_changed="data")
    taken = {}
    for entry in wanted["configMapAsEnv"]:
        assert entry["configMapName"] == "segline-settings"
        for pair in entry["keyToEnv"]:
            assert pair["configMapKey"] == pair["envVar"]
            taken[pair["envVar"]] = entry["optional"]
    (site,) = wanted["configMapAsVolume"]
    assert (site["configMapName"], site["mountPath"], site["optional"]) == ("segline-site", "/etc/segline-site", True)
    required = {"MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "SEGLINE_STORE"}
    assert {name for name, optional in taken.items() if not optional} == required
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    section = page.partition("## Certificates, proxies and other settings")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == taken.keys() - required


def test_a_session_token_reaches_every_stage():
    for stage in DVC:
        (keys,) = [entry for entry in kubernetes(stage)["secretAsEnv"] if "segline-s3" in str(entry)]
        assert "AWS_SESSION_TOKEN" in {pair["envVar"] for pair in keys["keyToEnv"]}


def test_the_exit_handler_gets_the_final_status():
    pipeline, _ = compiled()
    task = pipeline["root"]["dag"]["tasks"]["outcome"]
    assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert "taskFinalStatus" in json.dumps(task["inputs"])
    assert "enableCache" not in task["cachingOptions"]
    words = container("outcome", pipeline)
    parsed = cli._parser().parse_args([*words["command"][1:], *words["args"]])
    assert parsed.command == "outcome"
