"""The command ``segline changed``, which only a schedule with ``--when-changed`` calls."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segline.config.loader import load

WHEN = ("data", "drift")
"""What counts as new: any other data than before, or only data that have drifted from the champion's training data."""


def add_commands(commands: Any, add_tracking: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to the subparsers of the command line; ``add_tracking`` adds the address of MLflow."""
    about = "whether a Kubeflow run has something new to train on"
    changed = commands.add_parser("changed", help=about, description=f"Write {about}: true or false.")
    changed.add_argument("--params", metavar="FILE", default="params.yaml", help="parameters, as for a stage")
    changed.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one parameter"
    )
    changed.add_argument("--when", choices=WHEN, default="data", help="what counts as new (default: data)")
    changed.add_argument(
        "--validation", type=Path, metavar="DIR", required=True, help="folder that `segline validate` wrote"
    )
    changed.add_argument("--exclusions", metavar="FILE", default="", help="CSV of what is left out, as for label")
    changed.add_argument("--out", type=Path, metavar="FILE", required=True, help="file to write")
    add_tracking(changed)
    changed.set_defaults(run=_run_changed)


def _run_changed(arguments: argparse.Namespace) -> None:
    params = load(arguments.params, arguments.overrides)
    with TemporaryDirectory() as folder:
        local_file = import_module("segline.files.transfer").local_file
        import_module("segline.platforms.changed").run(
            params,
            validation_dir=arguments.validation,
            tracking_uri=arguments.tracking_uri,
            when=arguments.when,
            exclusions=local_file(arguments.exclusions, Path(folder)) if arguments.exclusions else None,
            out=arguments.out,
        )
