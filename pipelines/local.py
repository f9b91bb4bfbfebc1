"""Run the compiled pipeline in containers on this machine, with ``kfp.local``."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kfp import local
from kfp.components import load_component_from_file
from kfp.local import docker_task_handler

from pipelines.environment import FILES, LOGIN, OPTIONAL_SETTINGS, S3_KEYS
from pipelines.training import USER, DeploymentConfig, compile_to
from segline.errors import SeglineError

if TYPE_CHECKING:
    import docker

DATABASE = "mlflow.db"
SHARED_MEMORY = "2g"
TMPFS = "size=4g,mode=1777"
"""The options of the folder /tmp of a container, which is in memory."""


class LocalError(SeglineError):
    """A run in local containers did not finish."""

    exit_code = 5


def run_locally(arguments: dict[str, Any], config: DeploymentConfig, folder: Path, network: str) -> Path:
    """Run the pipeline, each stage in its own container, which is read-only and has no privileges.

    MLflow is a database in the folder unless ``MLFLOW_TRACKING_URI`` names a server, so that the default needs no
    network at all.

    Args:
        arguments: The pipeline's arguments.
        config: The configuration that names the images, which Docker must have.
        folder: The folder below which the stages write.
        network: The containers' network, as Docker calls it: ``none``, ``host``, or a network's name.

    Returns:
        The folder that promote wrote.

    Raises:
        LocalError: Docker cannot be reached, or a stage failed.
    """
    root = folder.resolve()
    _make_writable(root)
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / DATABASE}")
    if uri.startswith("http") and network == "none":
        raise LocalError(
            f"MLFLOW_TRACKING_URI is {uri}, but the containers have no network; set --network host, or unset it"
        )
    definition = root / "pipeline.yaml"
    compile_to(definition, config)
    before = set(_promotions(root))
    _init_kfp(root, network, uri)
    try:
        load_component_from_file(str(definition))(**arguments)
    except RuntimeError as error:
        raise LocalError(f"{error}; the output above says why, and the same command starts a new run") from None
    promotions = set(_promotions(root)) - before
    if not promotions:
        raise LocalError("a stage failed; the output above says why, and the same command starts a new run")
    return promotions.pop()


def _init_kfp(root: Path, network: str, tracking_uri: str) -> None:
    # kfp's own function takes a container that was removed before its exit status was read for one that succeeded.
    docker_task_handler.run_docker_container = _run_container
    local.init(
        runner=local.DockerRunner(
            user=f"{USER}:{USER}" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}",
            network_mode=network,
            read_only=True,
            tmpfs={"/tmp": TMPFS},
            shm_size=SHARED_MEMORY,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            environment={"MLFLOW_TRACKING_URI": tracking_uri, "SEGLINE_RUN": f"local-{uuid4()}", **_settings()},
            mounts=_files(),
        ),
        pipeline_root=str(root),
        workspace_root=str(root / "workspace"),
    )
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")


def _run_container(
    client: "docker.DockerClient", image: str, command: list[str], volumes: dict[str, Any], **settings: Any
) -> int:
    """Run a container, print its output, and return its exit status; remove it afterwards, also after Ctrl-C."""
    container = client.containers.run(image, command, volumes=volumes, detach=True, **settings)
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def check_images(config: DeploymentConfig) -> None:
    """Check that Docker answers and has the images, before a stage starts.

    Raises:
        LocalError: Docker does not answer, or lacks an image.
    """
    import docker

    try:
        client = docker.from_env()
        # client.images.list() sends a request for each image as well, and fails if one was removed meanwhile.
        known = {tag for image in client.api.images() for tag in image["RepoTags"] or ()}
        client.close()
    except docker.errors.DockerException as error:
        raise LocalError(f"Docker does not answer ({str(error).splitlines()[0]}); start it, then try again") from None
    missing = [image for image in map(config.image, ("data", "train")) if image not in known]
    if missing:
        raise LocalError(f"Docker has no image {' and no '.join(missing)}; run `make images TAG={config.tag}`")


def _make_writable(root: Path) -> None:
    """Make the folder, and as root give it to the user of the containers."""
    root.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        os.chown(root, USER, USER)


def _promotions(root: Path) -> list[Path]:
    return [path.parent for path in root.glob("*/promote/out/decision.json")]


def _settings() -> dict[str, str]:
    """Return the caller's variables for the object store, for an MLflow server, and for the way to both."""
    names = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", *OPTIONAL_SETTINGS, *S3_KEYS, *LOGIN)
    return {name: os.environ[name] for name in names if name in os.environ}


def _files() -> list["docker.types.Mount"]:
    """Return the files that the variables name, which the containers see at the same path.

    Raises:
        LocalError: A variable names no file.
    """
    import docker

    named = {name: Path(os.environ[name]).absolute() for name in FILES if os.environ.get(name)}
    for name, path in named.items():
        if not path.is_file():
            raise LocalError(f"{name}: there is no file {path}; give another one, or unset it")
    paths = sorted({str(path) for path in named.values()})
    return [docker.types.Mount(path, path, type="bind", read_only=True) for path in paths]
