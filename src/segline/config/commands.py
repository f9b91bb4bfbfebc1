"""The commands about the parameters themselves: ``segline schema`` and ``segline migrate``."""

import argparse
import sys
from difflib import unified_diff
from pathlib import Path
from typing import Any

from segline.config.loader import describe_origin, is_json, read_text
from segline.config.migrate import migrate
from segline.config.schema import schema_text
from segline.errors import ParamsError
from segline.files.atomic import write_text


def add_commands(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    schema = commands.add_parser("schema", help="print the JSON Schema of params.yaml, for editors")
    schema.set_defaults(run=_run_schema)
    rewrite = commands.add_parser("migrate", help="show what a params.yaml of version 0.1 becomes, or rewrite it")
    rewrite.add_argument("--params", metavar="FILE", default="params.yaml", help="the file (default: params.yaml)")
    rewrite.add_argument("--write", action="store_true", help="rewrite the file; otherwise the changes are only shown")
    rewrite.set_defaults(run=_run_migrate)


def _run_schema(_: argparse.Namespace) -> None:
    print(schema_text(), end="")


def _run_migrate(arguments: argparse.Namespace) -> None:
    origin: str = arguments.params
    if is_json(origin):
        raise ParamsError(
            describe_origin(origin), ["only a file is rewritten; give --params the path of a params.yaml"]
        )
    before = read_text(origin)
    after = migrate(before, origin)
    if after == before:
        print(f"{origin} is up to date")
        return
    for line in unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), origin, origin):
        print(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n", end="")
    if arguments.write:
        write_text(Path(origin).resolve(), after)
    else:
        print("segline migrate: nothing was written; run it again with --write", file=sys.stderr)
