"""The pipeline: every stage from ingest to promote, as :mod:`components` has them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from components import COMPONENTS, outcome
from components.command import DATA
from segline.errors import ParamsError

NAME = "segline"
HOUR = 3600
LIMIT_S = {"train": 24 * HOUR, "outcome": HOUR // 4}
"""How long the first attempt at a stage may take; the others ``OTHERS_LIMIT_S``. With retries it is twice as long."""
OTHERS_LIMIT_S = 6 * HOUR
DATA_STAGES = ("ingest", "validate", "label")
"""Those that read the data and compute nothing with torch."""
CACHED = ("train", "evaluate", "ensemble")
"""Stages that depend on nothing but their inputs: the others look at a source, the champion, a file of exclusions."""
USER = 10001
"""Whom the images run as."""
SETTINGS = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "SEGLINE_STORE")
"""Keys of the config map, which are variables, as those of the two secrets below are."""
GIT_LOGIN = {"username": "SEGLINE_GIT_USERNAME", "password": "SEGLINE_GIT_PASSWORD"}
"""Of a private repository, for DVC."""
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
TRACKED = ("validate", "train", "promote", "outcome")
"""Those that speak to MLflow."""
GPU = "nvidia.com/gpu"
RAYJOB = "/etc/segline"
"""Where the template of a RayJob is mounted."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the pipeline runs, as far as it is compiled into it.

    Attributes:
        registry: of the images, with their common path.
        tag: of the images; never ``latest``, for the cache takes equal names for equal images.
        gpus: of training in its own container; a trial takes what ``train.gpus_per_worker`` says of them.
        cpus: of training, and no more: as many trials as there are run at once.
        memory: of training, such as ``32G``.
        stage_cpus: of evaluate, ensemble and promote, each.
        stage_memory: of each of these.
        stage_gpus: of each of these, 0 or 1. With promote among them a champion is judged on the device of its
            challenger.
        data_cpus: of ingest, validate and label, each.
        data_memory: of each of these.
        scratch: the most that a pod may write to /tmp.
        rayjob: train on a Ray cluster that is made for it, in place of the stage's own container.
        retries: of a stage that fails; each waits twice as long as the one before.
    """

    registry: str = "segline"
    tag: str = "0.1.0"
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
    retries: int = 3

    def __post_init__(self) -> None:
        cores = (r"[0-9]*\.?[0-9]+m?", "cores, such as 4 or 500m")
        size = (r"[0-9]+(E|P|T|G|M|K|Ei|Pi|Ti|Gi|Mi|Ki)?", "bytes, such as 32G")
        checks = {
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
        }
        faults = [
            f"--{name.replace('_', '-')} {getattr(self, name)!r}: expected {expected}"
            for name, (pattern, expected) in checks.items()
            if not re.fullmatch(pattern, str(getattr(self, name)))
        ]
        if faults:
            raise ParamsError("the command line", faults)

    def image(self, name: str) -> str:
        """Such as ``segline/train:0.1.0``."""
        return f"{self.registry}/{name}:{self.tag}"


def make_pipeline(site: Site) -> Callable[..., Any]:
    """The pipeline for a site; its parameters are the sections of ``params.yaml`` as JSON text."""

    @dsl.pipeline(name=NAME, description="From images and label maps to a model that is promoted if it is better.")
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
        """From images and label maps to a model that is promoted if it is better.

        Args:
            name: Of the MLflow experiment and of the registered model.
            seed: Of every random choice.
            source: Where the images are, in place of the one in the section ingest.
            revision: Of a source dvc://..., in place of the one in the section ingest.
            exclusions: CSV of images and boxes to leave out, s3://bucket/key; empty for none.
            promotion: Whether a better model becomes champion, or is only registered and judged.
            ingest: Section of params.yaml as JSON; what it leaves out has its default. So have the others.
            validate: Section of params.yaml as JSON.
            label: Section of params.yaml as JSON.
            train: Section of params.yaml as JSON.
            evaluate: Section of params.yaml as JSON.
            ensemble: Section of params.yaml as JSON.
            promote: Section of params.yaml as JSON.
        """
        told = _placed(outcome(), site)
        with dsl.ExitHandler(told, name="line"):
            run = {stage: _runner(stage, site) for stage in COMPONENTS}
            files = run["ingest"](seed=seed, ingest=ingest, source=source, revision=revision).outputs["out"]
            valid = run["validate"](name=name, validate=validate, manifest=files).outputs["out"]
            shards = _made(
                run["label"](seed=seed, label=label, exclusions=exclusions, manifest=files, validation=valid),
                "dataset",
            )
            candidates = _made(run["train"](name=name, seed=seed, train=train, **shards), "candidates")
            evaluation = _made(run["evaluate"](evaluate=evaluate, **shards, **candidates), "evaluation")
            averaged = run["ensemble"](evaluate=evaluate, ensemble=ensemble, **shards, **candidates, **evaluation)
            run["promote"](
                name=name,
                seed=seed,
                promotion=promotion,
                evaluate=evaluate,
                promote=promote,
                dataset=shards["dataset"],
                evaluation=evaluation["evaluation"],
                ensemble=averaged.outputs["out"],
            )

    return segline


def compile_to(path: Path, site: Site) -> None:
    """Write the pipeline's definition, with what it asks of Kubernetes, as YAML."""
    compiler.Compiler().compile(make_pipeline(site), str(path))


def _made(task: dsl.PipelineTask, name: str) -> dict[str, Any]:
    """What a task wrote, and its hash: Kubeflow's cache looks at the names of artifacts alone, which never change."""
    return {name: task.outputs["out"], f"{name}_hash": task.outputs["out_hash"]}


def _runner(stage: str, site: Site) -> Callable[..., dsl.PipelineTask]:
    """The component as a task of this site."""
    return lambda **inputs: _placed(COMPONENTS[stage](**inputs), site)


def _placed(task: dsl.PipelineTask, site: Site) -> dsl.PipelineTask:
    """A task with its image, its room, its patience, and what it may know of the cluster."""
    stage = task.name
    limit = LIMIT_S.get(stage, OTHERS_LIMIT_S)
    task.set_container_image(site.image("data" if task.container_spec.image == DATA else "train"))
    task.set_caching_options(stage in CACHED)
    if site.retries and stage != "outcome":
        # The largest duration is not that of a pause: Argo counts it from the beginning of the first attempt, begins no
        # other one after it, and ends the one that runs.
        task.set_retry(site.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration=f"{2 * limit}s")
    kubernetes.set_timeout(task, limit)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "segline")
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp", size_limit=site.scratch)
    _set_environment(task)
    _set_resources(task, site)
    return task


def _set_environment(task: dsl.PipelineTask) -> None:
    """The addresses and keys of MLflow and of the object store, and the run that the task is part of.

    No secret has to be there: a service account may have the rights of a key, and few MLflow servers want a login.
    """
    kubernetes.use_config_map_as_env(task, "segline-settings", {name: name for name in SETTINGS})
    if task.name != "outcome":
        _use_secret(task, "segline-s3", {name: name for name in KEYS})
    if task.name in TRACKED:
        _use_secret(task, "segline-mlflow-login", {name: name for name in LOGIN})
    kubernetes.use_field_path_as_env(task, env_name="SEGLINE_RUN", field_path="metadata.labels['pipeline/runid']")
    if task.name == "ingest":
        _use_secret(task, "segline-git", GIT_LOGIN)
    if task.name == "outcome":
        _use_secret(task, "segline-webhook", {"url": "SEGLINE_WEBHOOK"})


def _use_secret(task: dsl.PipelineTask, name: str, variables: dict[str, str]) -> None:
    """Keys of a secret as environment variables, those that are there."""
    kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=variables, optional=True)


def _set_resources(task: dsl.PipelineTask, site: Site) -> None:
    """What the task asks of its node; training on a Ray cluster only waits here."""
    if task.name == "train" and site.rayjob:
        _request(task, "1", "4G")
        kubernetes.use_config_map_as_volume(task, config_map_name="segline-rayjob", mount_path=RAYJOB)
        task.set_env_variable("SEGLINE_RAYJOB", f"{RAYJOB}/rayjob.yaml")
        task.set_env_variable("SEGLINE_IMAGE", site.image("train"))
    elif task.name == "train":
        _request(task, site.cpus, site.memory)
        # Without a limit Ray takes all cores of the node for its own, and begins a trial on each.
        task.set_cpu_limit(site.cpus)
        _share_memory(task)
        if site.gpus:
            _use_gpus(task, site.gpus)
    elif task.name in DATA_STAGES:
        _request(task, site.data_cpus, site.data_memory)
    elif task.name == "outcome":
        _request(task, "1", "4G")
    else:
        _request(task, site.stage_cpus, site.stage_memory)
        if site.stage_gpus:
            _share_memory(task)
            _use_gpus(task, site.stage_gpus)


def _request(task: dsl.PipelineTask, cpus: str, memory: str) -> None:
    """As a request, and memory as a limit too: what has more is ended first where memory is short."""
    task.set_cpu_request(cpus).set_memory_request(memory).set_memory_limit(memory)


def _share_memory(task: dsl.PipelineTask) -> None:
    """What workers share goes through /dev/shm, of which a container has 64 MB."""
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="8Gi")


def _use_gpus(task: dsl.PipelineTask, number: int) -> None:
    """A node that has GPUs, and some of them."""
    task.set_accelerator_type(GPU).set_accelerator_limit(number)
    kubernetes.add_node_selector(task, "nvidia.com/gpu.present", "true")
    kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
