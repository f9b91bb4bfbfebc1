"""What a search has decided, on disk and in the bucket: a search that goes on decides nothing anew."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segline.files.atomic import write_json
from segline.training.checkpoints import Mirror

FOLDER = "search"
"""Beside the folders of the trials."""


@dataclass(frozen=True)
class Decisions:
    """Those of a grid, a file each that is written once, such as ``search/batch1-rung2.json``."""

    work: Path
    mirror: Mirror

    def once(self, name: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was decided under a name; if nothing was, decide it now."""
        found = self.find(name)
        if found is None:
            path = self._path(name)
            path.parent.mkdir(exist_ok=True)
            write_json(path, decide())
            self.mirror.put(path.parent, (path.name,))
            found = self.find(name)
        assert found is not None
        return found

    def find(self, name: str) -> dict[str, Any] | None:
        """What was decided under a name, if anything was."""
        path = self._path(name)
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return found

    def _path(self, name: str) -> Path:
        return self.work / FOLDER / f"{name}.json"
