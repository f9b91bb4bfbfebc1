"""The one door: ``segline <stage>`` for every stage of the line, the same words on a laptop and on Kubeflow.

Paths are arguments; parameters come from ``params.yaml`` or its JSON text. A stage's module is imported only
when it runs, so that ``segline --help`` stays fast and the data stages need no torch.
"""

import argparse
import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from segline import __version__
from segline.config import params, tables
from segline.config.fields import describe
from segline.errors import SeglineError, StageError

# The folder that an argument names, and the stage that writes it.
INPUTS = {
    "manifest": "ingest",
    "validation": "validate",
    "dataset": "label",
    "candidates": "train",
    "evaluation": "evaluate",
    "ensemble": "ensemble",
    "promotion": "promote",
}


@dataclass(frozen=True)
class Stage:
    """A stage's line in the help, the folders it reads, whether it talks to MLflow, takes exclusions, has a plan."""

    help: str
    inputs: tuple[str, ...] = ()
    tracked: bool = False
    excludes: bool = False
    planned: bool = False


STAGES = {
    "ingest": Stage("pair images with label maps and write their manifest"),
    "validate": Stage("check every pair, quarantine the bad, write Data Docs", ("manifest",), tracked=True),
    "label": Stage("class ids, crops and splits as memory-mapped shards", ("manifest", "validation"), excludes=True),
    "train": Stage("train every architecture x loss with Ray Tune", ("dataset",), tracked=True, planned=True),
    "evaluate": Stage("metrics, pictures and curves of every candidate", ("dataset", "candidates")),
    "ensemble": Stage("average the best candidates, chosen on validation", ("dataset", "candidates", "evaluation")),
    "promote": Stage(
        "make the winner champion if it is better on the same test images",
        ("dataset", "evaluation", "ensemble"),
        tracked=True,
    ),
}
FOLDERS = {name: f"data/{name}" for name in STAGES}


def main(words: list[str] | None = None) -> int:
    """Run one command; returns its exit code (see :mod:`segline.errors`)."""
    _end_with_dvc()
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = _parser().parse_args(words)
    try:
        arguments.run(arguments)
    except SeglineError as error:
        print(f"segline {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"segline {arguments.command}: stopped; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        if error.filename is None:
            raise
        print(f"segline {arguments.command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return StageError.exit_code
    return 0


def _end_with_dvc() -> None:
    """A stage must not go on writing after the `dvc repro` that started it was killed."""
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
    for name in ("evaluation", "ensemble", "promotion"):
        _add_input(summary, name)
    summary.set_defaults(run=_run_summary)
    outcome = commands.add_parser("outcome", help="what a Kubeflow run came to: clean up, tag its runs, tell a webhook")
    outcome.add_argument(
        "--run",
        dest="pipeline_run",
        metavar="ID",
        default=os.environ.get("SEGLINE_RUN", ""),
        help="of the Kubeflow run (default: $SEGLINE_RUN)",
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
    writer = INPUTS[name]
    parser.add_argument(
        f"--{name}",
        type=_place,
        metavar="DIR",
        default=Path(FOLDERS[writer]),
        help=f"folder that `segline {writer}` wrote (default: {FOLDERS[writer]}), or s3://bucket/prefix",
    )


def _add_stage(commands: Any, name: str, stage: Stage) -> None:
    parser = commands.add_parser(
        name,
        help=stage.help,
        description=f"{stage.help[0].upper()}{stage.help[1:]}.",
        epilog=_explain(name),
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
        help="a parameter in place of what --params says, such as train.epochs=40; may be given often",
    )
    parser.add_argument("--executor-input", metavar="JSON", default="", help=argparse.SUPPRESS)  # by Kubeflow alone
    for folder in stage.inputs:
        _add_input(parser, folder)
    parser.add_argument(
        "--out",
        type=_place,
        metavar="DIR",
        default=Path(FOLDERS[name]),
        help=f"folder to write (default: {FOLDERS[name]}), or s3://bucket/prefix",
    )
    if stage.tracked:
        _add_tracking(parser)
    if stage.excludes:
        parser.add_argument(
            "--exclusions",
            metavar="FILE",
            default="",
            help="CSV of images and of boxes in them to leave out, such as evaluate's unlabelled.csv; a path, or "
            "s3://bucket/key (default: none)",
        )
    if stage.planned:
        parser.add_argument(
            "--plan",
            action="store_true",
            help="only print the trials, their memory and the time they would take, from a few steps of each kind",
        )
        parser.add_argument(
            "--run", dest="pipeline_run", metavar="ID", default="", help="of the Kubeflow run that this is part of"
        )
    parser.set_defaults(run=_run_stage)


def _run_stage(arguments: argparse.Namespace) -> None:
    stage = STAGES[arguments.command]
    loaded = params.load(arguments.params, arguments.overrides)
    places = {name: getattr(arguments, name) for name in stage.inputs}
    _spare(places, arguments.out)
    folders = _fetched(places)
    _require(folders)
    out = _local_out(arguments.out)
    more = {"tracking_uri": arguments.tracking_uri} if stage.tracked else {}
    more |= {"exclusions": _exclusions(arguments, out)} if stage.excludes else {}
    more |= {"plan_only": arguments.plan} if stage.planned else {}
    _runner(arguments)(loaded, **_arguments(folders), **more, out=out)
    if isinstance(arguments.out, str) and not more.get("plan_only"):
        import_module("segline.files.s3").upload(out, arguments.out)
    if arguments.executor_input:
        import_module("segline.platforms.kubeflow").report(arguments.command, out, arguments.executor_input)


def _runner(arguments: argparse.Namespace) -> Callable[..., None]:
    """The stage; or, for training with the template of a RayJob, what runs it on a Ray cluster of its own."""
    is_training = STAGES[arguments.command].planned
    if is_training and arguments.pipeline_run:
        os.environ["SEGLINE_RUN"] = arguments.pipeline_run
    if is_training and not arguments.plan and os.environ.get("SEGLINE_RAYJOB"):
        return partial(import_module("segline.platforms.rayjob").train, run=os.environ.get("SEGLINE_RUN", ""))
    run: Callable[..., None] = import_module(f"segline.stages.{arguments.command}").run
    return run


def _place(word: str) -> Path | str:
    """A folder of this machine, or the address of one in a bucket."""
    return word if word.startswith("s3://") else Path(word)


def _fetched(places: dict[str, Path | str]) -> dict[str, Path]:
    """The folders on this machine; those that lie in a bucket are copied here."""
    return {
        name: import_module("segline.files.s3").download(place) if isinstance(place, str) else place
        for name, place in places.items()
    }


def _arguments(folders: dict[str, Path]) -> dict[str, Path]:
    """Name the folders as the stages' functions do."""
    return {f"{name}_dir": folder for name, folder in folders.items()}


def _local_out(out: Path | str) -> Path:
    """Where to write what goes to a bucket afterwards; the same command finds it there again, and continues."""
    if isinstance(out, Path):
        return out
    name = hashlib.sha256(out.encode()).hexdigest()[:16]
    return Path(import_module("segline.files.s3").cache(), "out", name)


def _exclusions(arguments: argparse.Namespace, out: Path) -> Path | None:
    """The file, copied here if it lies in a bucket."""
    place: str = arguments.exclusions
    if not place.startswith("s3://"):
        return Path(place) if place else None
    local_file = import_module("segline.files.s3").local_file
    return Path(local_file(place, out.with_name(f"{out.name}.exclusions")))


def _run_outcome(arguments: argparse.Namespace) -> None:
    import_module("segline.platforms.kubeflow").conclude(
        arguments.pipeline_run, arguments.status, arguments.tracking_uri, os.environ.get("SEGLINE_WEBHOOK", "")
    )


def _run_summary(arguments: argparse.Namespace) -> None:
    folders = _fetched({name: getattr(arguments, name) for name in ("evaluation", "ensemble", "promotion")})
    _require(folders)
    import_module("segline.reporting.report").print_summary(**_arguments(folders))


def _require(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        if not folder.is_dir():
            raise StageError(f"--{name} {folder} is not there; run `segline {INPUTS[name]}` or `dvc repro` first")


def _spare(places: dict[str, Path | str], out: Path | str) -> None:
    for name, place in places.items():
        if _lies_in(place, out):
            raise StageError(f"--out {out} would replace --{name} {place}; give another folder")


def _lies_in(place: Path | str, out: Path | str) -> bool:
    if isinstance(place, str) and isinstance(out, str):
        return f"{place.rstrip('/')}/".startswith(f"{out.rstrip('/')}/")
    return isinstance(place, Path) and isinstance(out, Path) and place.resolve().is_relative_to(out.resolve())


# The tables that a stage's parameters choose from.
OFFERED = {"ingest": {"data.layouts": "layout"}, "train": {"models": "models", "losses": "losses"}}


def _explain(stage: str) -> str:
    """The stage's parameters, one line each: key, default, unit, meaning and range."""
    lines = [f"parameters, with their defaults (section `{stage}` of params.yaml):"]
    for table, key in OFFERED.get(stage, {}).items():
        lines += _offer(table, getattr(getattr(params.Params(), stage), key), key)
    for key, default, annotation in _leaves(getattr(params.Params(), stage)):
        unit, expected, meaning = describe(annotation)
        shown = f"{key}: {default} {unit}".rstrip()
        lines.append(f"  {shown:<32} {meaning} ({expected})")
    return "\n".join(lines)


def _offer(table: str, chosen: Any, key: str) -> Iterator[str]:
    """What a table holds, and the options of each entry."""
    cells = (
        [choice if isinstance(choice, tuple) else (choice,) for choice in chosen] if isinstance(chosen, tuple) else []
    )
    default = f"[{', '.join(' + '.join(map(str, cell)) for cell in cells)}]" if cells else str(chosen)
    yield f"  {key}: {default}; known are"
    for name, options in tables.options(table).items():
        yield f"    {name}"
        for option, annotation in options.items():
            _, expected, meaning = describe(annotation)
            yield f"      {option:<26} {meaning} ({expected})"


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    hints = get_type_hints(type(section), include_extras=True)
    for entry in fields(section):
        value = getattr(section, entry.name)
        if isinstance(value, params.ComponentSpec):
            continue
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{entry.name}.")
        elif not isinstance(value, tuple):
            yield f"{prefix}{entry.name}", value, hints[entry.name]
