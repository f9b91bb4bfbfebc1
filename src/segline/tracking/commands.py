"""The command ``segline registry``: the versions of a model, the history of its champions, and the way back."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from segline.config.loader import load
from segline.errors import ParamsError

OVERVIEW = "segline.tracking.overview"
"""The module that needs MLflow, which is imported only when a command runs."""


def add_commands(commands: Any, add_tracking: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to the subparsers of the command line; ``add_tracking`` adds the address of MLflow."""
    registry = commands.add_parser("registry", help="the versions of a model and its champions; roll the champion back")
    actions = registry.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    actions.add_parser("list", help="all versions, with their aliases and decisions").set_defaults(run=_run_list)
    show = actions.add_parser("show", help="one version: its decision, its tags, and its files")
    show.add_argument("version", nargs="?", default="champion", help="a number or an alias (default: champion)")
    show.set_defaults(run=_run_show)
    actions.add_parser("history", help="who made which version champion, when and why").set_defaults(run=_run_history)
    rollback = actions.add_parser("rollback", help="make the champion before this one champion again")
    rollback.add_argument("--reason", metavar="TEXT", required=True, help="the reason, which the history keeps")
    rollback.add_argument(
        "--allow-none", action="store_true", help="if there was no champion before, leave the model without one"
    )
    rollback.set_defaults(run=_run_rollback)
    for action in actions.choices.values():
        action.add_argument("--name", default="", help="the registered model (default: `name` of --params)")
        action.add_argument(
            "--params", metavar="FILE", default="params.yaml", help="parameters with the name (default: params.yaml)"
        )
        add_tracking(action)


def _run_list(arguments: argparse.Namespace) -> None:
    import_module(OVERVIEW).print_versions(arguments.tracking_uri, _name(arguments))


def _run_show(arguments: argparse.Namespace) -> None:
    import_module(OVERVIEW).print_version(arguments.tracking_uri, _name(arguments), arguments.version)


def _run_history(arguments: argparse.Namespace) -> None:
    import_module(OVERVIEW).print_history(arguments.tracking_uri, _name(arguments))


def _run_rollback(arguments: argparse.Namespace) -> None:
    reason = " ".join(arguments.reason.split())
    if not reason:
        raise ParamsError("--reason", ["it is empty; say why the champion is rolled back"])
    import_module(OVERVIEW).roll_back(arguments.tracking_uri, _name(arguments), reason, allow_none=arguments.allow_none)


def _name(arguments: argparse.Namespace) -> str:
    return arguments.name or load(arguments.params, []).name
