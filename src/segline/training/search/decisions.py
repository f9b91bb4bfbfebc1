"""The decisions of a search, on disk and in the bucket: a continued search decides nothing anew."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segline.files.atomic import write_json
from segline.training.checkpoints import CheckpointStore

FOLDER = "search"
"""The folder of the decisions, beside the folders of the trials."""


@dataclass(frozen=True)
class Decisions:
    """The decisions of a grid, each a file that is written once, such as ``search/batch1-rung2.json``."""

    work: Path
    store: CheckpointStore

    def once(self, name: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the decision of this name; decide now if there is none."""
        decision = self.find(name)
        if decision is None:
            path = self._path(name)
            path.parent.mkdir(exist_ok=True)
            write_json(path, decide())
            self.store.upload(path.parent, (path.name,))
            decision = self.find(name)
        assert decision is not None
        return decision

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the decision of this name, or None."""
        path = self._path(name)
        decision: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return decision

    def _path(self, name: str) -> Path:
        return self.work / FOLDER / f"{name}.json"
