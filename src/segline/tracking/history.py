"""The history of a registered model: who made which version champion, when, and why.

Each change is a tag of the registered model, numbered from 1. A change that no tag records, as of version 0.1, of a
process that was killed, or of one by hand, is added when the next change is recorded.
"""

import getpass
import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from segline.tracking import registry
from segline.tracking.client import Experiment
from segline.tracking.registry import Version
from segline.tracking.tags import DECISION, HISTORY, PREVIOUS_CHAMPION

PROMOTED, ROLLED_BACK, UNRECORDED = "promoted", "rolled back", "unrecorded"
MAX_REASON = 1500
"""The number of characters of a reason that are kept; MLflow takes 5000 bytes for a tag."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the champion.

    Attributes:
        version: The version that became champion, or None for no champion.
        before: The champion before it, or None.
        kind: ``promoted``, ``rolled back`` or ``unrecorded``.
        who: The user and machine, or the Kubeflow run; empty if unknown.
        when: The time in UTC, ISO 8601; empty if unknown.
        why: The reason.
    """

    version: int | None
    before: int | None
    kind: str
    who: str = ""
    when: str = ""
    why: str = ""


def changes(experiment: Experiment) -> list[Change]:
    """Return all changes of the champion, the first one first, those that no tag records included.

    Each one begins with the champion with which the one before it ended.
    """
    kept = [change for _, change in sorted(_recorded(experiment).items())]
    champion = registry.get_by_alias(experiment, registry.CHAMPION)
    return kept + _missing(experiment, kept, champion)


def record(experiment: Experiment, version: Version | None, before: int | None, kind: str, why: str) -> None:
    """Add the change that made a version champion, None for no champion, unless it is the last one.

    The caller holds the lock.
    """
    last = complete(experiment, before)
    number = version.number if version else None
    if last and last.version == number:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _append(
        experiment,
        [Change(version=number, before=before, kind=kind, who=_who(), when=now, why=why[:MAX_REASON])],
    )


def complete(experiment: Experiment, champion: int | None) -> Change | None:
    """Record what led to this champion and is not recorded, and return the last change. The caller holds the lock."""
    kept = [change for _, change in sorted(_recorded(experiment).items())]
    version = registry.get_version(experiment, champion) if champion else None
    added = _missing(experiment, kept, version)
    _append(experiment, added)
    return next(iter(reversed(kept + added)), None)


def _append(experiment: Experiment, added: list[Change]) -> None:
    first = max(_recorded(experiment), default=0) + 1 if added else 0
    for number, change in enumerate(added, first):
        text = json.dumps(asdict(change), ensure_ascii=False, sort_keys=True)
        experiment.client.set_registered_model_tag(experiment.name, f"{HISTORY}{number:06d}", text)


def _recorded(experiment: Experiment) -> dict[int, Change]:
    """Return the changes that tags record, by their number; a tag that is no change is left out."""
    found = {}
    for name, text in registry.model_tags(experiment).items():
        number = name.removeprefix(HISTORY)
        if name.startswith(HISTORY) and number.isdecimal():
            change = _parse(text)
            found.update({int(number): change} if change else {})
    return found


def _parse(text: str) -> Change | None:
    try:
        return Change(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _missing(experiment: Experiment, kept: list[Change], champion: Version | None) -> list[Change]:
    """Return the changes between the last recorded one and the champion of now, by the tags of the versions."""
    last = kept[-1].version if kept else None
    found: list[Change] = []
    seen: set[int] = set()
    while champion and champion.number != last and champion.number not in seen:
        seen.add(champion.number)
        before = previous(champion)
        found.append(_unrecorded(champion, before))
        champion = registry.get_version(experiment, before) if before else None
    found.reverse()
    if found and found[0].before != last:
        found[0] = Change(**asdict(found[0]) | {"before": last})
    return found


def _unrecorded(version: Version, before: int | None) -> Change:
    decision = registry.parse_record(version.tags.get(DECISION, ""))
    if decision.get("promoted") and decision.get("against") == before:
        return Change(version=version.number, before=before, kind=PROMOTED, why=str(decision.get("reason", "")))
    return Change(version=version.number, before=before, kind=UNRECORDED, why="an alias was moved by other means")


def previous(version: Version) -> int | None:
    """Return the number of the champion before a version, which its tag names; None without one."""
    text = version.tags.get(PREVIOUS_CHAMPION, "")
    return int(text) if text.isdecimal() else None


def _who() -> str:
    run = os.environ.get("SEGLINE_RUN", "")
    if run:
        return f"Kubeflow run {run}"
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container whose user has no name
        return f"user {os.getuid()}@{socket.gethostname()}"
