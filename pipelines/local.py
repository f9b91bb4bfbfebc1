"""The compiled pipeline in containers of this machine, with ``kfp.local``: what a cluster would run, without one."""

import os
import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

from kfp import local
from kfp.components import load_component_from_file
from kfp.local import docker_task_handler

from pipelines.training import LOGIN, USER, Site, compile_to
from segline.errors import SeglineError

DATABASE = "mlflow.db"
SHARED_MEMORY = "2g"
SPACE = "size=4g,mode=1777"
"""Of the folder /tmp of a container, in memory."""


class LocalError(SeglineError):
    """A run in local containers that did not come to its end."""

    exit_code = 5


def run_locally(arguments: dict[str, Any], site: Site, folder: Path, network: str) -> Path:
    """Run the pipeline, each stage in a container of its own, read-only and without rights.

    MLflow is a database in the folder unless ``MLFLOW_TRACKING_URI`` names a server, so that the default needs no
    network at all.

    Args:
        arguments: of the pipeline.
        site: whose images run; they have to be here.
        folder: what the stages write goes below it.
        network: of the containers, as Docker calls it: ``none``, ``host``, or a network's name.

    Returns:
        The folder that promote wrote.

    Raises:
        LocalError: Docker cannot be reached, or a stage failed.
    """
    root = folder.resolve()
    _hand_over(root)
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / DATABASE}")
    if uri.startswith("http") and network == "none":
        raise LocalError(
            f"MLFLOW_TRACKING_URI is {uri}, but containers have no network; say --network host, or unset it"
        )
    definition = root / "pipeline.yaml"
    compile_to(definition, site)
    before = set(_promoted(root))
    # Its own takes a container that is gone before it was asked how it ended for one that ended well.
    docker_task_handler.run_docker_container = _run_container
    local.init(
        runner=local.DockerRunner(
            user=f"{USER}:{USER}" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}",
            network_mode=network,
            read_only=True,
            tmpfs={"/tmp": SPACE},
            shm_size=SHARED_MEMORY,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            environment={"MLFLOW_TRACKING_URI": uri, "SEGLINE_RUN": f"local-{uuid4()}", **_passed_on()},
        ),
        pipeline_root=str(root),
        workspace_root=str(root / "workspace"),
    )
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
    try:
        load_component_from_file(str(definition))(**arguments)
    except RuntimeError as error:
        raise LocalError(f"{error}; its own words are above, and the same command begins again") from None
    promoted = set(_promoted(root)) - before
    if not promoted:
        raise LocalError("a stage failed; its own words are above, and the same command begins again")
    return promoted.pop()


def _run_container(client: Any, image: str, command: list[str], volumes: dict[str, Any], **settings: Any) -> int:
    """Run a container, print what it says, and return its exit status; it is gone afterwards, also after Ctrl-C."""
    container = client.containers.run(image, command, volumes=volumes, detach=True, **settings)
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def check_images(site: Site) -> None:
    """See that Docker answers and has the images, before a stage begins.

    Raises:
        LocalError: it has not.
    """
    import docker

    try:
        client = docker.from_env()
        # In one answer: client.images.list() then asks for each, and fails when one is gone meanwhile.
        known = {tag for image in client.api.images() for tag in image["RepoTags"] or ()}
        client.close()
    except docker.errors.DockerException as error:
        raise LocalError(f"Docker does not answer ({str(error).splitlines()[0]}); start it, then try again") from None
    missing = [site.image(name) for name in ("data", "train") if site.image(name) not in known]
    if missing:
        raise LocalError(f"Docker has no image {' and no '.join(missing)}; run `make images TAG={site.tag}`")


def _hand_over(root: Path) -> None:
    """The folder, writable for the user of the containers, whom root gives it to."""
    root.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        os.chown(root, USER, USER)


def _promoted(root: Path) -> list[Path]:
    return [path.parent for path in root.glob("*/promote/out/decision.json")]


def _passed_on() -> dict[str, str]:
    """What the caller has set for the object store and for an MLflow server that wants a login."""
    parts = ("ENDPOINT_URL", "DEFAULT_REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    names = (*(f"AWS_{part}" for part in parts), *LOGIN)
    return {name: os.environ[name] for name in names if name in os.environ}
