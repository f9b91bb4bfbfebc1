"""The pipeline: every stage from ingest to promote, made of :mod:`components`."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from components import COMPONENTS, changed, outcome
from components.command import DATA
from pipelines.environment import set_environment
from segline.errors import ParamsError

NAME = "segline"
HOUR = 3600
LIMIT_S = {"train": 24 * HOUR, "outcome": HOUR // 4}
"""The time that the first attempt at a stage may take, in seconds; with retries a stage may take twice as long."""
DEFAULT_LIMIT_S = 6 * HOUR
"""The limit of the other stages."""
DATA_STAGES = ("ingest", "validate", "label")
"""The stages that read the data and compute nothing with torch."""
CACHED = ("train", "evaluate", "ensemble")
"""The stages that depend on their inputs alone; the others also read a source, the champion or a file of exclusions."""
USER = 10001
"""The user that the images run as."""
GPU = "nvidia.com/gpu"
SPOT_TAINTS = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")
"""The keys of the taints of spot nodes that ``--spot`` tolerates, as the workers of Ray do in rayjob.yaml."""
RAYJOB_FOLDER = "/etc/segline"
"""The folder where the template of a RayJob is mounted."""


@dataclass(frozen=True, kw_only=True)
class DeploymentConfig:
    """The images and resources that are compiled into the pipeline.

    Attributes:
        registry: The registry of the images, with their common path.
        tag: The tag of the images; never ``latest``, since the cache takes equal names for equal images.
        digests: The digest of each image that is named by it in place of the tag.
        gpus: The number of GPUs of training in its own container; a trial uses ``train.gpus_per_worker`` of them.
        cpus: The cores of training, as request and as limit: Ray starts as many trials at once as fit in them.
        memory: The memory of training, such as ``32G``.
        stage_cpus: The cores of each other stage that computes with torch.
        stage_memory: The memory of each of these stages.
        stage_gpus: The number of GPUs of each of these stages, 0 or 1. They include promote, so that the champion is
            evaluated on the same device as its challenger.
        data_cpus: The cores of each of ingest, validate and label.
        data_memory: The memory of each of these stages.
        scratch: The most that a pod may write to /tmp.
        rayjob: Whether to train on a Ray cluster that is made for the run, in place of the stage's own container.
        queue: The LocalQueue of Kueue in which the RayJob waits; empty for none.
        priority: The WorkloadPriorityClass of Kueue that the RayJob has there; empty for none.
        spot: Whether the stages may run on spot nodes; the exit handler never does.
        retries: The number of retries of a stage that fails, in its pod and in further pods if Argo starts them; the
            pause before each is twice as long as the last one.
        caching: Whether Kubeflow may reuse the result of a stage that depends on its inputs alone.
        when_changed: Empty to train in every run; ``data`` or ``drift`` to train only on new data, or only on new data
            that have drifted from the champion's. kfp's local runner cannot do that.
    """

    registry: str = "segline"
    tag: str = "0.2.0"
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)
    gpus: int = 0
    cpus: str = "8"
    memory: str = "32G"
    stage_cpus: str = "4"
    stage_memory: str = "16G"
    stage_gpus: int = 0
    data_cpus: str = "1"
    data_memory: str = "4G"
    scratch: str = "50Gi"
    rayjob: bool = False
    queue: str = ""
    priority: str = ""
    spot: bool = False
    retries: int = 3
    # The `enable_caching` of kfp.Client has no effect on a version that was uploaded, nor within an exit handler.
    caching: bool = True
    when_changed: str = ""

    def __post_init__(self) -> None:
        cores = (r"[0-9]*\.?[0-9]+m?", "cores, such as 4 or 500m")
        size = (r"[0-9]+(E|P|T|G|M|K|Ei|Pi|Ti|Gi|Mi|Ki)?", "bytes, such as 32G")
        label = (r"([a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?)?", "a name of Kubernetes, such as team-a")
        checks = {
            "queue": label,
            "priority": label,
            "registry": (r"[a-z0-9][a-z0-9._:/-]*", "a registry with a path, such as registry.example.org/segline"),
            "tag": (r"(?!latest$)[A-Za-z0-9_][A-Za-z0-9._-]*", "a tag other than latest"),
            "cpus": (r"[1-9][0-9]*", "whole cores, such as 8"),
            "memory": size,
            "stage_cpus": cores,
            "stage_memory": size,
            "stage_gpus": (r"[01]", "0 or 1, as a stage computes on one"),
            "data_cpus": cores,
            "data_memory": size,
            "scratch": size,
            "gpus": (r"[0-9]+", "a whole number from 0 on"),
            "when_changed": (r"(data|drift)?", "data or drift"),
        }
        faults = [
            f"--{name.replace('_', '-')} {getattr(self, name)!r}: expected {expected}"
            for name, (pattern, expected) in checks.items()
            if not re.fullmatch(pattern, str(getattr(self, name)))
        ]
        if faults:
            raise ParamsError("the command line", faults)

    def image(self, name: str) -> str:
        """Return the full name of an image, such as ``segline/train:0.2.0`` or ``segline/train@sha256:...``."""
        return f"{self.registry}/{name}" + (f"@{self.digests[name]}" if name in self.digests else f":{self.tag}")


# Longer than 40 lines: Kubeflow reads the inputs and their descriptions from one signature and its docstring.
def make_pipeline(config: DeploymentConfig) -> Callable[..., Any]:
    """Return the pipeline; its parameters are the sections of ``params.yaml`` as JSON text."""

    @dsl.pipeline(name=NAME, description="Train on images and label maps, and promote the model if it is better.")
    def segline(
        name: str = "streets",
        seed: int = 7,
        source: str = "",
        revision: str = "",
        exclusions: str = "",
        promotion: bool = True,
        ingest: str = "{}",
        validate: str = "{}",
        label: str = "{}",
        train: str = "{}",
        evaluate: str = "{}",
        ensemble: str = "{}",
        promote: str = "{}",
    ):
        """Train on images and label maps, and promote the model if it is better.

        Args:
            name: The name of the MLflow experiment and of the registered model.
            seed: The seed of every random choice.
            source: The source of the images, in place of the one in the section ingest; empty to keep that.
            revision: The revision of a source dvc://..., in place of the one in the section ingest; empty to keep that.
            exclusions: The CSV of images and boxes to leave out, s3://bucket/key; empty for none.
            promotion: Whether a better model becomes the champion, or is only registered and compared.
            ingest: The section ingest of params.yaml as JSON text; a key that is left out has its default.
            validate: The section validate of params.yaml as JSON text.
            label: The section label of params.yaml as JSON text.
            train: The section train of params.yaml as JSON text.
            evaluate: The section evaluate of params.yaml as JSON text.
            ensemble: The section ensemble of params.yaml as JSON text.
            promote: The section promote of params.yaml as JSON text.
        """
        with dsl.ExitHandler(_configure(outcome(), config), name="line"):
            run = {stage: _task_factory(stage, config) for stage in COMPONENTS}
            manifest = run["ingest"](seed=seed, ingest=ingest, source=source, revision=revision).outputs["out"]
            validation = run["validate"](name=name, validate=validate, manifest=manifest).outputs["out"]
            settings = {"label": label, "train": train, "evaluate": evaluate, "ensemble": ensemble, "promote": promote}
            given = {"name": name, "seed": seed, "exclusions": exclusions, "promotion": promotion, **settings}
            with _if_changed(config, validation=validation, **given):
                labeling = run["label"](
                    seed=seed,
                    label=label,
                    train=train,
                    evaluate=evaluate,
                    exclusions=exclusions,
                    manifest=manifest,
                    validation=validation,
                )
                dataset = _hashed_output(labeling, "dataset")
                training = run["train"](name=name, seed=seed, train=train, **dataset)
                candidates = _hashed_output(training, "candidates")
                evaluation = _hashed_output(run["evaluate"](evaluate=evaluate, **dataset, **candidates), "evaluation")
                ensembling = run["ensemble"](
                    evaluate=evaluate, ensemble=ensemble, **dataset, **candidates, **evaluation
                )
                run["promote"](
                    name=name,
                    seed=seed,
                    promotion=promotion,
                    evaluate=evaluate,
                    promote=promote,
                    dataset=dataset["dataset"],
                    evaluation=evaluation["evaluation"],
                    ensemble=ensembling.outputs["out"],
                )

    return segline


def compile_to(path: Path, config: DeploymentConfig) -> None:
    """Write the pipeline's definition, with its requests to Kubernetes, as YAML."""
    compiler.Compiler().compile(make_pipeline(config), str(path))


def _if_changed(config: DeploymentConfig, **inputs: Any) -> AbstractContextManager[Any]:
    """Return the group of tasks that run only if there is something new, or without the option in any case."""
    if not config.when_changed:
        return nullcontext()
    question = _configure(changed(when=config.when_changed, **inputs), config)
    return dsl.If(question.outputs["changed"] == "true", name="new")


def _hashed_output(task: dsl.PipelineTask, name: str) -> dict[str, Any]:
    """Return a task's output and its hash, as inputs of other tasks.

    Kubeflow's cache compares only the names of artifacts, which never change; so the hash has to be an input too.
    """
    return {name: task.outputs["out"], f"{name}_hash": task.outputs["out_hash"]}


def _task_factory(stage: str, config: DeploymentConfig) -> Callable[..., dsl.PipelineTask]:
    """Return a function that makes a stage's task from its inputs."""
    return lambda **inputs: _configure(COMPONENTS[stage](**inputs), config)


def _configure(task: dsl.PipelineTask, config: DeploymentConfig) -> dsl.PipelineTask:
    """Give a task its image, caching, retries, limits, resources and environment, and return it."""
    stage = task.name
    limit = LIMIT_S.get(stage, DEFAULT_LIMIT_S)
    task.set_container_image(config.image("data" if task.container_spec.image == DATA else "train"))
    task.set_caching_options(config.caching and stage in CACHED)
    if config.retries and stage != "outcome":
        # In the pod the stage itself is repeated by its exit code, and Argo repeats pods that were lost.
        task.set_env_variable("SEGLINE_RETRIES", str(config.retries))
        # The largest duration is not that of a pause: Argo counts it from the start of the first attempt, starts no
        # other attempt after it, and ends the one that runs.
        task.set_retry(config.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration=f"{2 * limit}s")
    kubernetes.set_timeout(task, limit)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "segline")
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp", size_limit=config.scratch)
    if config.spot and stage != "outcome":
        for taint in SPOT_TAINTS:
            kubernetes.add_toleration(task, key=taint, operator="Exists", effect="NoSchedule")
    set_environment(task)
    _set_resources(task, config)
    return task


def _set_resources(task: dsl.PipelineTask, config: DeploymentConfig) -> None:
    """Request cores, memory and GPUs; the task of training on a Ray cluster only waits for that cluster."""
    if task.name == "train" and config.rayjob:
        _request(task, "1", "4G")
        kubernetes.use_config_map_as_volume(task, config_map_name="segline-rayjob", mount_path=RAYJOB_FOLDER)
        task.set_env_variable("SEGLINE_RAYJOB", f"{RAYJOB_FOLDER}/rayjob.yaml")
        task.set_env_variable("SEGLINE_IMAGE", config.image("train"))
        for name, value in (("SEGLINE_QUEUE", config.queue), ("SEGLINE_PRIORITY", config.priority)):
            if value:
                task.set_env_variable(name, value)
    elif task.name == "train":
        _request(task, config.cpus, config.memory)
        # Without a limit Ray counts all cores of the node, and starts a trial on each.
        task.set_cpu_limit(config.cpus)
        _share_memory(task)
        if config.gpus:
            _use_gpus(task, config.gpus)
    elif task.name in DATA_STAGES:
        _request(task, config.data_cpus, config.data_memory)
    elif task.name in ("outcome", "changed"):
        _request(task, "1", "4G")
    else:
        _request(task, config.stage_cpus, config.stage_memory)
        if config.stage_gpus:
            _share_memory(task)
            _use_gpus(task, config.stage_gpus)


def _request(task: dsl.PipelineTask, cpus: str, memory: str) -> None:
    """Request cores and memory, and limit memory: a pod above its request is ended first when memory is short."""
    task.set_cpu_request(cpus).set_memory_request(memory).set_memory_limit(memory)


def _share_memory(task: dsl.PipelineTask) -> None:
    """Mount 8 GiB at /dev/shm, through which workers share tensors; a container has 64 MB of its own."""
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="8Gi")


def _use_gpus(task: dsl.PipelineTask, number: int) -> None:
    """Request a node with GPUs, and a number of them."""
    task.set_accelerator_type(GPU).set_accelerator_limit(number)
    kubernetes.add_node_selector(task, "nvidia.com/gpu.present", "true")
    kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
