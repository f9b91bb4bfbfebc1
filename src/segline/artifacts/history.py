"""The files that a trial writes while it trains: its parameters and its epochs."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from segline.files.atomic import write_json, write_text

HISTORY = "history.csv"
"""The file of a trial's epochs."""
TRIAL = "trial.json"
"""The file of a trial's parameters, as MLflow shows them."""


def write_history(folder: Path, epochs: Sequence[dict[str, float]]) -> None:
    """Write the epochs of a trial, a row each."""
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(epochs[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(epochs)
    write_text(folder / HISTORY, text.getvalue())


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the epochs of a trial so far."""
    path = folder / HISTORY
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def count_epochs(text: str) -> int:
    """Return the number of epochs in the text of a history file."""
    return max(0, len(text.splitlines()) - 1)


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Write the parameters of a trial."""
    write_json(folder / TRIAL, params)


def read_params(folder: Path) -> dict[str, Any]:
    """Return the parameters of a trial."""
    content: dict[str, Any] = json.loads((folder / TRIAL).read_text())
    return content
