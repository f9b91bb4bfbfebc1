"""The commands about the parameters themselves: ``segline schema``."""

import argparse
from typing import Any

from segline.config.schema import schema_text


def add_commands(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    schema = commands.add_parser("schema", help="print the JSON Schema of params.yaml, for editors")
    schema.set_defaults(run=_run_schema)


def _run_schema(_: argparse.Namespace) -> None:
    print(schema_text(), end="")
