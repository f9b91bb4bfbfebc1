"""``python -m pipelines``: compile, run and schedule the line on Kubeflow, or run it in containers of this machine."""

import argparse
import json
import logging
import math
import os
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.cron import check_cron
from pipelines.training import Site, compile_to
from segline.config import params
from segline.errors import ParamsError, SeglineError

SECTIONS = tuple(field.name for field in fields(params.Params) if field.name not in ("name", "seed"))
DEFAULT = Site()
OF_TRAINING = {"gpus": "of training", "cpus": "of training", "memory": "of training"}
ROOM = {
    **OF_TRAINING,
    "stage_cpus": "of evaluate, ensemble and promote, each",
    "stage_memory": "of each of these",
    "stage_gpus": "of each of these, 0 or 1",
    "data_cpus": "of ingest, validate and label, each",
    "data_memory": "of each of these",
    "scratch": "the most that a stage may write to /tmp",
}
"""What a pod has on a cluster; a container of this machine has what there is."""
LOCALLY = ("folder", "network")
ON_KUBEFLOW = ("namespace", "name", "service_account", "no_cache", "wait", "rayjob", *ROOM)


def main(words: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(words)
    try:
        _check_words(arguments)
        arguments.run(arguments)
    except SeglineError as error:
        print(f"pipelines {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"pipelines {arguments.command}: stopped", file=sys.stderr)
        return 130
    return 0


def _check_words(arguments: argparse.Namespace) -> None:
    """Refuse words that mean nothing beside others, and a cluster that is not told where its images are.

    Raises:
        ParamsError: with every such word.
        CronError: the cron text is wrong.
    """
    running = arguments.command == "run"
    faults = []
    if running and arguments.local:
        faults += _idle(arguments, ON_KUBEFLOW, "--local", "or say --endpoint URL instead")
    elif running:
        faults += _idle(arguments, LOCALLY, "--endpoint", "or say --local instead")
        if not arguments.registry:
            faults.append(
                "--registry: got none, expected where the nodes have the images from, such as "
                "registry.example.org/segline"
            )
        if not arguments.tag:
            faults.append(
                "--tag: got none, expected that of the images, another one for each build, as Kubeflow's cache takes "
                "equal names for equal images"
            )
    if "rayjob" in arguments and arguments.rayjob:
        faults += _idle(arguments, tuple(OF_TRAINING), "--rayjob", "the template rayjob.yaml has the size of a worker")
    if faults:
        raise ParamsError("the command line", faults)
    if arguments.command == "schedule":
        check_cron(arguments.cron)


def _idle(arguments: argparse.Namespace, names: tuple[str, ...], beside: str, hint: str) -> list[str]:
    """Those of the words that were given."""
    given = [name for name in names if getattr(arguments, name) != arguments.default(name)]
    return [f"--{name.replace('_', '-')}: means nothing with {beside}; leave it out, {hint}" for name in given]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__.split(": ", 1)[1].rstrip())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    compiling = _command(commands, "compile", "write the pipeline's definition as YAML", _compile)
    compiling.add_argument(
        "--out", type=Path, default=Path("segline.yaml"), metavar="FILE", help="(default: %(default)s)"
    )
    running = _command(commands, "run", "run it once, in local containers or on Kubeflow", _run)
    where = running.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", action="store_true", help="in containers of this machine")
    where.add_argument("--endpoint", metavar="URL", help="of Kubeflow Pipelines")
    here = running.add_argument_group("with --local")
    here.add_argument("--folder", type=Path, default=Path("data/kubeflow"), help="of the run (default: %(default)s)")
    here.add_argument("--network", default="none", help="of the containers: none, host, a name (default: none)")
    there = running.add_argument_group("with --endpoint")
    there.add_argument("--no-cache", action="store_true", help="run every stage, also those that Kubeflow knows")
    there.add_argument("--wait", action="store_true", help="until the run is over")
    scheduling = _command(commands, "schedule", "run it on Kubeflow again and again", _schedule)
    scheduling.add_argument("--cron", required=True, help='six fields, such as "0 0 3 * * 1": Mondays at three')
    unscheduling = _command(commands, "unschedule", "end a schedule", _unschedule)
    listing = _command(commands, "list", "schedules and last runs", _list)
    for remote in (scheduling, unscheduling, listing):
        remote.add_argument("--endpoint", metavar="URL", required=True, help="of Kubeflow Pipelines")
    for calling in (there, scheduling, unscheduling, listing):
        calling.add_argument("--namespace", default="segline", help="of Kubeflow's users (default: %(default)s)")
    for named, what in ((there, "run"), (scheduling, "schedule"), (unscheduling, "schedule")):
        named.add_argument("--name", default="segline", help=f"of the {what} (default: %(default)s)")
    for starting in (there, scheduling):
        starting.add_argument("--service-account", default="segline-pipeline", help="(default: %(default)s)")
    for parametrized in (running, scheduling):
        _add_parameters(parametrized)
    _add_images(compiling)
    _add_images(running, beside="; must be given with --endpoint")
    _add_images(scheduling, required=True)
    for placed in (compiling, there, scheduling):
        _add_room(placed)
    return parser


def _command(commands: Any, name: str, about: str, run: Any) -> argparse.ArgumentParser:
    # Abbreviated, --name would be --namespace where there is no name.
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(run=run, default=parser.get_default)
    return parser


def _add_images(parser: argparse.ArgumentParser, *, required: bool = False, beside: str = "") -> None:
    for word, about in (("registry", "of the images, with their common path"), ("tag", "of the images")):
        shown = "" if required else f"{beside} (default: {getattr(DEFAULT, word)})"
        parser.add_argument(f"--{word}", required=required, help=about + shown)


def _add_room(parser: argparse._ActionsContainer) -> None:
    """What each pod asks for; None for what was not said, so that it can be told from the default."""
    for name, about in ROOM.items():
        default = getattr(DEFAULT, name)
        shown = "what a trial wants; none in compile" if name == "gpus" else default
        word = f"--{name.replace('_', '-')}"
        parser.add_argument(word, type=type(default), help=f"{about} (default: {shown})")
    parser.add_argument("--rayjob", action="store_true", help="train on a Ray cluster that is made for it")


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="(default: %(default)s)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of a parameter"
    )
    parser.add_argument("--exclusions", default="", metavar="S3", help="CSV of what to leave out, s3://bucket/key")
    parser.add_argument("--no-promotion", action="store_true", help="register and judge the winner, promote no one")


def _site(arguments: argparse.Namespace, **changes: Any) -> Site:
    chosen = {field.name: getattr(arguments, field.name, None) for field in fields(Site)}
    return Site(**{name: value for name, value in (chosen | changes).items() if value is not None})


def pipeline_arguments(file: str, overrides: list[str], *, exclusions: str, promotion: bool) -> dict[str, Any]:
    """What a run is started with: the parameters, checked, each section as JSON text.

    Raises:
        ParamsError: with every fault.
    """
    checked = params.load(file, overrides)
    faults = _out_of_reach(checked, exclusions)
    if faults:
        raise ParamsError("a container", faults)
    document = params.read(file, overrides)
    sections = {name: json.dumps(document.get(name) or {}) for name in SECTIONS}
    told = {"name": checked.name, "seed": checked.seed, "exclusions": exclusions}
    return {**told, "promotion": promotion and checked.promote.enabled, **sections}


def _site_for(arguments: argparse.Namespace) -> Site:
    """The site of a run with its parameters: with as many GPUs as a trial wants, unless it is said.

    Raises:
        ParamsError: a trial would not have enough GPUs, or nobody would use them.
    """
    if arguments.rayjob:
        return _site(arguments)
    train = params.load(arguments.params, arguments.overrides).train
    wanted = math.ceil(train.workers_per_trial * train.gpus_per_worker)
    site = _site(arguments, gpus=wanted if arguments.gpus is None else arguments.gpus)
    if site.gpus >= wanted and bool(site.gpus) == bool(wanted):
        return site
    asked = f"{train.workers_per_trial} x {train.gpus_per_worker:g} (train.workers_per_trial x train.gpus_per_worker)"
    expected = f"{wanted} or more" if wanted else "0"
    fault = f"--gpus: got {site.gpus}, expected {expected}, for a trial asks for {asked}; leave it out, or change these"
    raise ParamsError("the command line", [fault])


def _out_of_reach(checked: params.Params, exclusions: str) -> list[str]:
    """What a container cannot see or do, though this machine can."""
    faults = []
    if exclusions and not exclusions.startswith("s3://"):
        faults.append(f"--exclusions: got {exclusions!r}, which it does not see; expected s3://bucket/key")
    source = checked.ingest.source
    is_seen = re.match("dvc://https?://", source) if source.startswith("dvc://") else "://" in source
    if not is_seen and not source.startswith("synthetic:"):
        faults.append(
            f"ingest.source: got {source!r}, which it does not see; expected such as s3://bucket/prefix or "
            "dvc://https://example.org/data.git"
        )
    if re.match(r"(dvc://)?https?://[^/]*@", source):
        faults.append(
            "ingest.source: has a login in it, which Kubeflow would show and keep; leave it out: for git it belongs "
            "into the secret segline-git"
        )
    if checked.label.workers > 1:
        faults.append(
            f"label.workers: got {checked.label.workers}, but the image of label has no Ray; expected 1: leave it out, "
            "or say --set label.workers=1"
        )
    return faults


def _arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    return pipeline_arguments(
        arguments.params,
        arguments.overrides,
        exclusions=arguments.exclusions,
        promotion=not arguments.no_promotion,
    )


def _compile(arguments: argparse.Namespace) -> None:
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    compile_to(arguments.out, _site(arguments))
    print(f"pipelines: wrote {arguments.out}")


def _run(arguments: argparse.Namespace) -> None:
    given = _arguments(arguments)
    if arguments.local:
        _run_locally(arguments, given)
        return
    with TemporaryDirectory() as folder:
        package = _package(arguments, Path(folder))
        _service(arguments).run(
            package,
            given,
            name=arguments.name,
            service_account=arguments.service_account,
            caching=False if arguments.no_cache else None,
            wait=arguments.wait,
        )


def _run_locally(arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    from pipelines.local import check_images, run_locally

    logging.getLogger("kfp").setLevel(logging.INFO)
    site = replace(_site_for(arguments), retries=0)
    if site.gpus:
        raise ParamsError("--local", ["train.gpus_per_worker: expected 0, as its containers have no GPU"])
    check_images(site)
    promoted = run_locally(given, site, arguments.folder, arguments.network)
    print(f"pipelines: {json.loads((promoted / 'decision.json').read_text())['reason']}; report in {promoted}")


def _schedule(arguments: argparse.Namespace) -> None:
    given = _arguments(arguments)
    with TemporaryDirectory() as folder:
        package = _package(arguments, Path(folder))
        _service(arguments).schedule(
            package, given, name=arguments.name, cron=arguments.cron, service_account=arguments.service_account
        )


def _unschedule(arguments: argparse.Namespace) -> None:
    _service(arguments).unschedule(arguments.name)


def _list(arguments: argparse.Namespace) -> None:
    service = _service(arguments)
    for schedule in service.schedules():
        print(schedule)
    for run in service.runs():
        print(run)


def _package(arguments: argparse.Namespace, folder: Path) -> Path:
    package = folder / "segline.yaml"
    compile_to(package, _site_for(arguments))
    return package


def _service(arguments: argparse.Namespace) -> Any:
    from pipelines.service import Service

    token = os.environ.get("SEGLINE_KUBEFLOW_TOKEN")
    service = Service(arguments.endpoint, arguments.namespace, Path(token) if token else None)
    if not service.multi_user and arguments.namespace != arguments.default("namespace"):
        fault = (
            f"--namespace: got {arguments.namespace!r}, but this Kubeflow has one user and one namespace; leave it out"
        )
        raise ParamsError("the command line", [fault])
    return service


if __name__ == "__main__":
    sys.exit(main())
