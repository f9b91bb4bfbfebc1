"""The one door: ``segline <stage>`` for every stage of the line, the same words on a laptop and on Kubeflow.

Paths are arguments; parameters come from ``params.yaml`` or its JSON text. A stage's module is imported only when it
runs, so that ``segline --help`` stays fast and the data stages need no torch.
"""

import argparse
import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from segline import __version__
from segline.config.commands import add_commands
from segline.config.explain import explain
from segline.config.loader import load
from segline.config.renamed import argument_error
from segline.errors import ParamsError, SeglineError, StageError
from segline.interrupts import repeat_lost_signals
from segline.platforms import commands as platform_commands
from segline.redaction import redact
from segline.tracking import commands as registry_commands
from segline.utf8 import use_utf8


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage as the command line knows it.

    Attributes:
        help: The stage's line in the help.
        artifact: The name of the artifact that it leaves, which is the word for its folder (``--dataset``).
        inputs: The names of the artifacts that it reads.
        tracked: Whether it uses MLflow.
        excludes: Whether it takes a list of exclusions.
        planned: Whether it has the option to print a plan and do nothing else.
    """

    help: str
    artifact: str
    inputs: tuple[str, ...] = ()
    tracked: bool = False
    excludes: bool = False
    planned: bool = False


STAGES = {
    "ingest": Stage(help="pair images with label maps and write their manifest", artifact="manifest"),
    "validate": Stage(
        help="check every pair, quarantine the bad ones, write Data Docs",
        artifact="validation",
        inputs=("manifest",),
        tracked=True,
    ),
    "label": Stage(
        help="write class ids and splits: crops to learn from, frames to judge on",
        artifact="dataset",
        inputs=("manifest", "validation"),
        excludes=True,
    ),
    "train": Stage(
        help="train every architecture x loss with Ray Tune",
        artifact="candidates",
        inputs=("dataset",),
        tracked=True,
        planned=True,
    ),
    "evaluate": Stage(
        help="write metrics, pictures and curves of every candidate",
        artifact="evaluation",
        inputs=("dataset", "candidates"),
    ),
    "ensemble": Stage(
        help="average the best candidates, chosen on validation",
        artifact="ensemble",
        inputs=("dataset", "candidates", "evaluation"),
    ),
    "promote": Stage(
        help="make the winner champion if it is better on the same test images",
        artifact="promotion",
        inputs=("dataset", "evaluation", "ensemble"),
        tracked=True,
    ),
}
FOLDERS = {name: Path("data", name) for name in STAGES}
"""The folder that each stage writes unless another is given."""
WRITERS = {stage.artifact: name for name, stage in STAGES.items()}
"""The stage that writes each artifact."""
SHOWN = ("evaluation", "ensemble", "promotion")
"""The artifacts that the summary reads."""


def main(words: list[str] | None = None) -> int:
    """Run one command, and return its exit code (see :mod:`segline.errors`)."""
    if words is None:
        use_utf8()
        repeat_lost_signals()
    _exit_with_dvc()
    signal.signal(signal.SIGTERM, _interrupt)
    if refusal := argument_error(sys.argv[1:] if words is None else words):
        print(refusal, file=sys.stderr)
        return ParamsError.exit_code
    arguments = _parser().parse_args(words)
    try:
        if arguments.command in (*STAGES, "changed") and os.environ.get("SEGLINE_RETRIES"):
            code: int = import_module("segline.platforms.attempts").run(arguments.command, words or sys.argv[1:])
            return code
        arguments.run(arguments)
        sys.stdout.flush()
    except SeglineError as error:
        print(redact(f"segline {arguments.command}: {error}"), file=sys.stderr)
        return error.exit_code
    except SystemExit:
        raise
    except BaseException as error:
        return _end(arguments.command, error)
    return 0


def _end(command: str, error: BaseException) -> int:
    """Return the exit code of an error that is not Segline's own, after one line about it."""
    if isinstance(error, KeyboardInterrupt):
        print(f"segline {command}: stopped; the same command continues", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return 141
    if isinstance(error, OSError) and error.filename is not None:
        print(f"segline {command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return StageError.exit_code
    code: int = import_module("segline.files.tracebacks").report(command, error)
    return code


def _discard_output() -> None:
    """Send what is still buffered nowhere: Python would complain at its end that nobody reads it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_with_dvc() -> None:
    """Have the kernel kill this process with the `dvc repro` that started it, so that no stage goes on writing."""
    if "DVC_STAGE" in os.environ and sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segline",
        description="A production line for semantic segmentation. `dvc repro` runs all stages in order.",
    )
    parser.add_argument("--version", action="version", version=f"segline {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, stage in STAGES.items():
        _add_stage(commands, name, stage)
    summary = commands.add_parser("summary", help="the candidates, the champion, and where to see more")
    for name in SHOWN:
        _add_input(summary, name)
    summary.set_defaults(run=_run_summary)
    add_commands(commands)
    registry_commands.add_commands(commands, _add_tracking)
    platform_commands.add_commands(commands, _add_tracking)
    outcome = commands.add_parser(
        "outcome", help="conclude a Kubeflow run: tag its MLflow runs, call a webhook, clean up"
    )
    outcome.add_argument(
        "--run",
        dest="pipeline_run",
        metavar="ID",
        default=os.environ.get("SEGLINE_RUN", ""),
        help="id of the Kubeflow run (default: $SEGLINE_RUN)",
    )
    outcome.add_argument("--status", metavar="JSON", required=True, help="the final status that Kubeflow gives")
    _add_tracking(outcome)
    outcome.set_defaults(run=_run_outcome)
    return parser


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db"),
        help="MLflow server or database (default: $MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db)",
    )


def _add_input(parser: argparse.ArgumentParser, name: str) -> None:
    writer = WRITERS[name]
    parser.add_argument(
        f"--{name}",
        type=_path_or_address,
        metavar="DIR",
        default=FOLDERS[writer],
        help=f"folder that `segline {writer}` wrote (default: {FOLDERS[writer]}), or s3://bucket/prefix",
    )


def _add_stage(commands: Any, name: str, stage: Stage) -> None:
    parser = commands.add_parser(
        name,
        help=stage.help,
        description=f"{stage.help[0].upper()}{stage.help[1:]}.",
        epilog=explain(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--params",
        metavar="FILE",
        default="params.yaml",
        help="parameters: a YAML file, or its JSON text (default: params.yaml)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter that replaces its value in --params, such as train.epochs=40; may be repeated",
    )
    # Only Kubeflow gives it.
    parser.add_argument("--executor-input", metavar="JSON", default="", help=argparse.SUPPRESS)
    for folder in stage.inputs:
        _add_input(parser, folder)
    parser.add_argument(
        "--out",
        type=_path_or_address,
        metavar="DIR",
        default=FOLDERS[name],
        help=f"folder to write (default: {FOLDERS[name]}), or s3://bucket/prefix",
    )
    _add_options(parser, stage)
    parser.set_defaults(run=_run_stage)


def _add_options(parser: argparse.ArgumentParser, stage: Stage) -> None:
    """Add the options that only some stages have."""
    if stage.tracked:
        _add_tracking(parser)
    if stage.excludes:
        parser.add_argument(
            "--exclusions",
            metavar="FILE",
            default="",
            help="CSV of images and of boxes in them to leave out, such as evaluate's missing_labels.csv; a path, or "
            "s3://bucket/key (default: none)",
        )
    if stage.planned:
        parser.add_argument(
            "--plan",
            action="store_true",
            help="only print the trials, their memory and the time they would take, from a few steps of each kind",
        )
        parser.add_argument(
            "--run", dest="pipeline_run", metavar="ID", default="", help="id of the Kubeflow run that this is part of"
        )


def _run_stage(arguments: argparse.Namespace) -> None:
    stage = STAGES[arguments.command]
    params = load(arguments.params, arguments.overrides)
    inputs = {name: getattr(arguments, name) for name in stage.inputs}
    _check_out(arguments.out, inputs)
    folders = _fetch(inputs)
    _require(folders)
    out = _local_out(arguments.out)
    options = {"tracking_uri": arguments.tracking_uri} if stage.tracked else {}
    options |= {"exclusions": _fetch_exclusions(arguments.exclusions, out)} if stage.excludes else {}
    options |= {"plan_only": arguments.plan} if stage.planned else {}
    _stage_function(arguments)(params, **_keyword_arguments(folders), **options, out=out)
    if isinstance(arguments.out, str) and not options.get("plan_only"):
        import_module("segline.files.transfer").upload(out, arguments.out)
    if arguments.executor_input:
        import_module("segline.platforms.kubeflow").report(arguments.command, out, arguments.executor_input)


def _stage_function(arguments: argparse.Namespace) -> Callable[..., None]:
    """Return the stage's function; for training with the template of a RayJob, one that starts a Ray cluster for it."""
    is_training = STAGES[arguments.command].planned
    if is_training and arguments.pipeline_run:
        os.environ["SEGLINE_RUN"] = arguments.pipeline_run
    if is_training and not arguments.plan and os.environ.get("SEGLINE_RAYJOB"):
        return partial(import_module("segline.platforms.rayjob").train, run=os.environ.get("SEGLINE_RUN", ""))
    run: Callable[..., None] = import_module(f"segline.stages.{arguments.command}").run
    return run


def _path_or_address(word: str) -> Path | str:
    """Return a folder's path on this machine, or its address in a bucket."""
    return word if word.startswith("s3://") else Path(word)


def _fetch(inputs: Mapping[str, Path | str]) -> dict[str, Path]:
    """Return the paths of the inputs on this machine; inputs that lie in a bucket are downloaded."""
    return {
        name: import_module("segline.files.transfer").download(folder) if isinstance(folder, str) else folder
        for name, folder in inputs.items()
    }


def _keyword_arguments(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the folders by the names that the stages' functions give them."""
    return {f"{name}_dir": folder for name, folder in folders.items()}


def _local_out(out: Path | str) -> Path:
    """Return the folder to write; one for a bucket is always the same, so that the same command continues in it."""
    if isinstance(out, Path):
        return out
    name = hashlib.sha256(out.encode()).hexdigest()[:16]
    return Path(import_module("segline.files.cache").cache_dir(), "out", name)


def _fetch_exclusions(address: str, out: Path) -> Path | None:
    """Return the file's path, where a file in a bucket is downloaded; None for no file."""
    if not address.startswith("s3://"):
        return Path(address) if address else None
    local_file = import_module("segline.files.transfer").local_file
    return Path(local_file(address, out.with_name(f"{out.name}.exclusions")))


def _run_outcome(arguments: argparse.Namespace) -> None:
    import_module("segline.platforms.kubeflow").conclude(
        arguments.pipeline_run, arguments.status, arguments.tracking_uri, os.environ.get("SEGLINE_WEBHOOK", "")
    )


def _run_summary(arguments: argparse.Namespace) -> None:
    folders = _fetch({name: getattr(arguments, name) for name in SHOWN})
    _require(folders)
    import_module("segline.reporting.report").print_summary(**_keyword_arguments(folders))


def _require(folders: Mapping[str, Path]) -> None:
    for name, folder in folders.items():
        if not folder.is_dir():
            raise StageError(f"--{name} {folder} does not exist; run `segline {WRITERS[name]}` or `dvc repro` first")


def _check_out(out: Path | str, inputs: Mapping[str, Path | str]) -> None:
    """Refuse an output folder that holds an input."""
    for name, folder in inputs.items():
        if _is_within(folder, out):
            raise StageError(f"--out {out} would replace --{name} {folder}; give another folder")


def _is_within(folder: Path | str, parent: Path | str) -> bool:
    if isinstance(folder, str) and isinstance(parent, str):
        return f"{folder.rstrip('/')}/".startswith(f"{parent.rstrip('/')}/")
    return isinstance(folder, Path) and isinstance(parent, Path) and folder.resolve().is_relative_to(parent.resolve())
