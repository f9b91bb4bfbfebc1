"""The command line of ``python -m pipelines``: its commands and options, and which options contradict one another."""

import argparse
from pathlib import Path
from typing import Any

from pipelines.cron import check_cron
from pipelines.training import DeploymentConfig
from segline.errors import ParamsError
from segline.platforms.commands import WHEN

DEFAULT = DeploymentConfig()
TRAINING_RESOURCES = {"gpus": "GPUs of training", "cpus": "cores of training", "memory": "memory of training"}
RESOURCES = {
    **TRAINING_RESOURCES,
    "stage_cpus": "cores of each other stage that computes with torch",
    "stage_memory": "memory of each of these stages",
    "stage_gpus": "GPUs of each of these stages, 0 or 1",
    "data_cpus": "cores of each of ingest, validate and label",
    "data_memory": "memory of each of these stages",
    "scratch": "the most that a stage may write to /tmp",
}
"""The options for the resources of a pod, with their help; a container on this machine has all that the machine has."""
ONLY_LOCAL = ("folder", "network")
KUEUE = {"queue": "queue of Kueue in which the RayJob waits", "priority": "its priority class there"}
"""The options of the queue of a RayJob, with their help."""
ONLY_KUBEFLOW = (
    "namespace",
    "name",
    "service_account",
    "no_cache",
    "wait",
    "rayjob",
    "spot",
    "when_changed",
    "digest",
    *RESOURCES,
    *KUEUE,
)
NAMESPACE = "segline"
Commands = argparse._SubParsersAction
"""What ``add_subparsers`` returns, for which argparse has no public name."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser, with one sub-parser for each command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Compile, run and schedule the pipeline on Kubeflow, or run it in containers on this machine.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_compile(commands)
    _add_run(commands)
    _add_schedule(commands)
    unscheduling = _add_command(commands, "unschedule", "end a schedule")
    listing = _add_command(commands, "list", "list the schedules and the last runs")
    bill = _add_command(commands, "sbom", "attach the bills of materials that the images hold to them in the registry")
    _add_images(bill, required=True)
    _add_option(bill, "--engine", "program that runs the images: docker or podman", default="docker")
    for parser_ in (unscheduling, listing):
        _add_endpoint(parser_)
    _add_name(unscheduling, "schedule")
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """Check that no option contradicts another one, and that a run on Kubeflow names its images.

    Raises:
        ParamsError: Options are wrong; it lists all of them.
        CronError: The cron text is wrong.
    """
    running = arguments.command == "run"
    faults = []
    if running and arguments.local:
        faults += _unused(arguments, ONLY_KUBEFLOW, "--local", "or use --endpoint URL instead")
    elif running:
        faults += _unused(arguments, ONLY_LOCAL, "--endpoint", "or use --local instead")
        if not arguments.registry:
            faults.append(
                "--registry: got none, expected the registry from which the nodes pull the images, such as "
                "registry.example.org/segline"
            )
        if not arguments.tag:
            faults.append(
                "--tag: got none, expected the tag of the images, a new one for each build, since Kubeflow's cache "
                "takes equal names for equal images"
            )
    if "rayjob" in arguments and arguments.rayjob:
        faults += _unused(arguments, tuple(TRAINING_RESOURCES), "--rayjob", "rayjob.yaml sets the size of a worker")
    elif "rayjob" in arguments and not getattr(arguments, "local", False):
        faults += _unused(arguments, tuple(KUEUE), "a training in its own pod", "or use --rayjob")
    if "rayjob" in arguments and arguments.rayjob and arguments.priority and not arguments.queue:
        faults.append("--priority: has no effect without a queue; leave it out, or use --queue")
    by_digest = arguments.command == "sbom" or getattr(arguments, "digest", False)
    if by_digest and not getattr(arguments, "local", False):
        faults += _host_faults(arguments.registry or DEFAULT.registry)
    if faults:
        raise ParamsError("the command line", faults)
    if arguments.command == "schedule":
        check_cron(arguments.cron)


def _host_faults(registry: str) -> list[str]:
    """Return a fault unless a registry's name begins with a host, as Docker tells it from a folder of Docker Hub."""
    host, slash, _ = registry.partition("/")
    if slash and (host == "localhost" or "." in host or ":" in host):
        return []
    return [
        f"--registry: got {registry!r}, which names no server that could be asked for a digest, expected one such as "
        "registry.example.org/segline; images that were copied to the nodes have only tags"
    ]


def _unused(arguments: argparse.Namespace, names: tuple[str, ...], other: str, hint: str) -> list[str]:
    """Return a fault for each of the options that was given though it has no effect with another one."""
    given = [name for name in names if getattr(arguments, name) != arguments.default(name)]
    return [f"--{name.replace('_', '-')}: has no effect with {other}; leave it out, {hint}" for name in given]


def _add_compile(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = _add_command(commands, "compile", "write the pipeline's definition as YAML")
    _add_option(parser, "--out", "file to write", type=Path, default=Path("segline.yaml"), metavar="FILE")
    _add_images(parser)
    _add_digest(parser)
    _add_resources(parser)
    _add_when_changed(parser)


def _add_run(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = _add_command(commands, "run", "run the pipeline once, in local containers or on Kubeflow")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", action="store_true", help="run in containers on this machine")
    where.add_argument("--endpoint", metavar="URL", help="address of Kubeflow Pipelines")
    local = parser.add_argument_group("with --local")
    _add_option(local, "--folder", "folder of the run", type=Path, default=Path("data/kubeflow"))
    _add_option(local, "--network", "the containers' network: none, host, or a name", default="none")
    remote = parser.add_argument_group("with --endpoint")
    remote.add_argument("--no-cache", action="store_true", help="run every stage, even if Kubeflow knows its result")
    remote.add_argument("--wait", action="store_true", help="return when the run has finished")
    _add_option(remote, "--namespace", "namespace of the user", default=NAMESPACE)
    _add_name(remote, "run")
    _add_account(remote)
    _add_parameters(parser)
    _add_images(parser, condition="; required with --endpoint")
    _add_digest(remote)
    _add_resources(remote)
    _add_when_changed(remote)


def _add_schedule(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = _add_command(commands, "schedule", "run the pipeline on Kubeflow again and again")
    parser.add_argument("--cron", required=True, help='six fields, such as "0 0 3 * * 1": Mondays at three')
    _add_endpoint(parser)
    _add_name(parser, "schedule")
    _add_account(parser)
    _add_parameters(parser)
    _add_images(parser, required=True)
    _add_digest(parser)
    _add_resources(parser)
    _add_when_changed(parser)


def _add_command(commands: "Commands[argparse.ArgumentParser]", name: str, about: str) -> argparse.ArgumentParser:
    # If options could be abbreviated, --name would mean --namespace for a command without --name.
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    parser.set_defaults(default=parser.get_default)
    return parser


def _add_option(parser: argparse._ActionsContainer, word: str, about: str, **options: Any) -> None:
    """Add an option whose help ends with its default."""
    parser.add_argument(word, help=f"{about} (default: %(default)s)", **options)


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", metavar="URL", required=True, help="address of Kubeflow Pipelines")
    _add_option(parser, "--namespace", "namespace of the user", default=NAMESPACE)


def _add_name(parser: argparse._ActionsContainer, owner: str) -> None:
    _add_option(parser, "--name", f"name of the {owner}", default="segline")


def _add_account(parser: argparse._ActionsContainer) -> None:
    _add_option(parser, "--service-account", "Kubernetes account whose rights a run has", default="segline-pipeline")


def _add_images(parser: argparse.ArgumentParser, *, required: bool = False, condition: str = "") -> None:
    for name, about in (("registry", "registry of the images, with their common path"), ("tag", "tag of the images")):
        default = "" if required else f"{condition} (default: {getattr(DEFAULT, name)})"
        parser.add_argument(f"--{name}", required=required, help=about + default)


def _add_digest(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--digest", action="store_true", help="name the images by the digests that the registry has for the tag now"
    )


def _add_resources(parser: argparse._ActionsContainer) -> None:
    """Add an option for each resource; one that is not given is None, which tells it from the default."""
    for name, about in RESOURCES.items():
        default = getattr(DEFAULT, name)
        shown = "those of a trial; 0 in compile" if name == "gpus" else default
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=f"{about} (default: {shown})")
    parser.add_argument("--rayjob", action="store_true", help="train on a Ray cluster that is made for the run")
    for name, about in KUEUE.items():
        _add_option(parser, f"--{name}", f"{about}, with --rayjob", default="")
    parser.add_argument("--spot", action="store_true", help="let the stages run on spot nodes")


def _add_when_changed(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--when-changed",
        nargs="?",
        choices=WHEN,
        const="data",
        default="",
        help="train only if the data, the parameters or the code are new; with drift not on new data that have not "
        "drifted from the champion's (data without a value)",
    )


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    _add_option(parser, "--params", "file of the parameters", default="params.yaml", metavar="FILE")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one parameter"
    )
    parser.add_argument(
        "--exclusions", default="", metavar="S3", help="CSV of images and boxes to leave out, s3://bucket/key"
    )
    parser.add_argument(
        "--no-promotion", action="store_true", help="register the winner and compare it, but do not promote it"
    )
