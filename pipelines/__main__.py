"""``python -m pipelines``: compile, run and schedule the pipeline on Kubeflow, or run it in local containers."""

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
from typing import TYPE_CHECKING, Any

from pipelines.arguments import NAMESPACE, check_options, make_parser
from pipelines.training import DeploymentConfig, compile_to
from segline.config.loader import load, read
from segline.config.params import Params
from segline.errors import ParamsError, SeglineError
from segline.utf8 import use_utf8

if TYPE_CHECKING:
    from pipelines.service import Service

SECTIONS = tuple(field.name for field in fields(Params) if field.name not in ("name", "seed"))


def main(words: list[str] | None = None) -> int:
    """Run one command, and return its exit code."""
    if words is None:
        use_utf8()
    arguments = make_parser().parse_args(words)
    try:
        check_options(arguments)
        COMMANDS[arguments.command](arguments)
    except SeglineError as error:
        print(f"pipelines {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"pipelines {arguments.command}: stopped", file=sys.stderr)
        return 130
    return 0


def _deployment(arguments: argparse.Namespace, **changes: Any) -> DeploymentConfig:
    chosen = {field.name: getattr(arguments, field.name, None) for field in fields(DeploymentConfig)}
    return DeploymentConfig(**{name: value for name, value in (chosen | changes).items() if value is not None})


def _run_deployment(arguments: argparse.Namespace) -> DeploymentConfig:
    """Return the deployment of a run, with as many GPUs as a trial needs unless the command line says how many.

    Raises:
        ParamsError: A trial would have too few GPUs, or no trial would use them.
    """
    if arguments.rayjob:
        return _deployment(arguments)
    train = load(arguments.params, arguments.overrides).train
    needed = math.ceil(train.workers_per_trial * train.gpus_per_worker)
    config = _deployment(arguments, gpus=needed if arguments.gpus is None else arguments.gpus)
    if config.gpus >= needed and bool(config.gpus) == bool(needed):
        return config
    product = f"{train.workers_per_trial} x {train.gpus_per_worker:g} (train.workers_per_trial x train.gpus_per_worker)"
    expected = f"{needed} or more" if needed else "0"
    fault = (
        f"--gpus: got {config.gpus}, expected {expected}, since a trial uses {product}; leave it out, or change these"
    )
    raise ParamsError("the command line", [fault])


def _container_faults(checked: Params, exclusions: str) -> list[str]:
    """Return a fault for each parameter that this machine could follow, but not a container."""
    faults = []
    if exclusions and not exclusions.startswith("s3://"):
        faults.append(f"--exclusions: got {exclusions!r}, which a container cannot read; expected s3://bucket/key")
    if re.search(r"\$[$(]", exclusions):
        faults.append(
            f"--exclusions: got {exclusions!r}, of which Kubernetes would replace '$$' and '$(...)'; expected a key "
            "without them"
        )
    source = checked.ingest.source
    is_remote = re.match("dvc://https?://", source) if source.startswith("dvc://") else "://" in source
    if not is_remote and not source.startswith("synthetic:"):
        faults.append(
            f"ingest.source: got {source!r}, which a container cannot read; expected a source such as "
            "s3://bucket/prefix or dvc://https://example.org/data.git"
        )
    if re.match(r"(dvc://)?https?://[^/]*@", source):
        faults.append(
            "ingest.source: contains a login, which Kubeflow would show and keep; leave it out: a login for git "
            "belongs in the secret segline-git"
        )
    if checked.label.workers > 1:
        faults.append(
            f"label.workers: got {checked.label.workers}, expected 1, since the image of label has no Ray; leave it "
            "out, or use --set label.workers=1"
        )
    return faults


def _pipeline_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the pipeline: the checked parameters, each section as JSON text.

    Raises:
        ParamsError: Parameters are wrong, or no container could follow them; it lists all faults.
    """
    checked = load(arguments.params, arguments.overrides)
    faults = _container_faults(checked, arguments.exclusions)
    if arguments.when_changed == "drift" and checked.validate.severity.drift == "stop":
        faults.append(
            "validate.severity.drift: got stop, which ends a run on data that have drifted, so that --when-changed "
            "drift would never train on them; expected warn"
        )
    if faults:
        raise ParamsError("a container", faults)
    document = read(arguments.params, arguments.overrides)
    return {
        "name": checked.name,
        "seed": checked.seed,
        "exclusions": arguments.exclusions,
        "promotion": checked.promote.enabled and not arguments.no_promotion,
        **{name: _section_text(document.get(name) or {}) for name in SECTIONS},
    }


def _section_text(section: dict[str, Any]) -> str:
    """Return a section as JSON text without ``$``: in a container's arguments Kubernetes replaces $$ and $(NAME)."""
    return json.dumps(section).replace("$", r"\u0024")


def _compile(arguments: argparse.Namespace) -> None:
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    compile_to(arguments.out, _with_digests(arguments, _deployment(arguments)))
    print(f"pipelines: wrote {arguments.out}")


def _run(arguments: argparse.Namespace) -> None:
    values = _pipeline_arguments(arguments)
    if arguments.local:
        _run_locally(arguments, values)
        return
    with TemporaryDirectory() as folder:
        package = _package(arguments, Path(folder), caching=not arguments.no_cache)
        account = arguments.service_account
        _service(arguments).run(package, values, name=arguments.name, service_account=account, wait=arguments.wait)


def _run_locally(arguments: argparse.Namespace, values: dict[str, Any]) -> None:
    from pipelines.local import check_images, run_locally

    logging.getLogger("kfp").setLevel(logging.INFO)
    config = replace(_run_deployment(arguments), retries=0)
    if config.gpus:
        raise ParamsError("--local", ["train.gpus_per_worker: expected 0, since local containers have no GPU"])
    check_images(config)
    promotion = run_locally(values, config, arguments.folder, arguments.network)
    decision = json.loads((promotion / "decision.json").read_text(encoding="utf-8"))
    print(f"pipelines: {decision['reason']}; report in {promotion}")


def _schedule(arguments: argparse.Namespace) -> None:
    values = _pipeline_arguments(arguments)
    with TemporaryDirectory() as folder:
        package = _package(arguments, Path(folder))
        _service(arguments).schedule(
            package, values, name=arguments.name, cron=arguments.cron, service_account=arguments.service_account
        )


def _unschedule(arguments: argparse.Namespace) -> None:
    _service(arguments).unschedule(arguments.name)


def _list(arguments: argparse.Namespace) -> None:
    service = _service(arguments)
    for schedule in service.schedules():
        print(service.describe_schedule(schedule))
    for run in service.runs():
        print(service.describe_run(run))


def _package(arguments: argparse.Namespace, folder: Path, *, caching: bool = True) -> Path:
    package = folder / "segline.yaml"
    compile_to(package, replace(_with_digests(arguments, _run_deployment(arguments)), caching=caching))
    return package


def _with_digests(arguments: argparse.Namespace, config: DeploymentConfig) -> DeploymentConfig:
    """Return a deployment whose images are named by digest, if the command line says so, and print the names."""
    if not arguments.digest:
        return config
    from pipelines.registry import find_digest

    digests = {name: find_digest(f"{config.registry}/{name}", config.tag) for name in ("data", "train")}
    found = replace(config, digests=digests)
    for name in digests:
        print(f"pipelines: {config.image(name)} is {found.image(name)}")
    return found


def _attach_bills(arguments: argparse.Namespace) -> None:
    from pipelines.bill import attach_bill

    for name in ("data", "train", "mlflow"):
        image = f"{arguments.registry}/{name}"
        digest = attach_bill(image, arguments.tag, arguments.engine)
        print(f"pipelines: {image}:{arguments.tag} has its bill of materials, {image}@{digest}")


def _service(arguments: argparse.Namespace) -> "Service":
    from pipelines.service import Service

    token = os.environ.get("SEGLINE_KUBEFLOW_TOKEN")
    service = Service(arguments.endpoint, arguments.namespace, Path(token) if token else None)
    if not service.multi_user and arguments.namespace != NAMESPACE:
        fault = (
            f"--namespace: got {arguments.namespace!r}, but this Kubeflow has one user and no namespaces; leave it out"
        )
        raise ParamsError("the command line", [fault])
    return service


COMMANDS = {
    "compile": _compile,
    "run": _run,
    "schedule": _schedule,
    "unschedule": _unschedule,
    "list": _list,
    "sbom": _attach_bills,
}

if __name__ == "__main__":
    sys.exit(main())
