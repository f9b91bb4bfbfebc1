"""What the command ``segline registry`` prints and does. No database is created."""

from segline.errors import TrackingError, clip
from segline.tracking import champions, history, registry
from segline.tracking.client import Experiment
from segline.tracking.tags import DECISION, ROLLED_BACK

SHOWN_REASON = 90
"""The number of characters of a reason in a list."""


def print_versions(uri: str, name: str) -> None:
    """Print a line for each version: its aliases, its mIoU on the test split, and the decision about it."""
    experiment = _open(uri, name)
    with experiment.explained_errors("listing versions"):
        versions, aliases = registry.list_versions(experiment), registry.aliases(experiment)
    if not versions:
        print(f"{name} has no versions")
    for version in versions:
        decision = registry.parse_record(version.tags.get(DECISION, ""))
        miou, reason = decision.get("test_miou"), _line(decision.get("reason", ""))
        score = f"{miou:.4f}" if isinstance(miou, int | float) else "-"
        marks = [*aliases.get(version.number, ()), *(["rolled back"] if ROLLED_BACK in version.tags else [])]
        print(f"v{version.number:<4} {score:>6}  {', '.join(marks) or '-':<24}  {clip(reason, SHOWN_REASON)}".rstrip())


def print_version(uri: str, name: str, which: str) -> None:
    """Print the facts about a version, which is given by its number or by an alias.

    Raises:
        TrackingError: there is no such version.
    """
    experiment = _open(uri, name)
    with experiment.explained_errors("reading a version"):
        number = which.removeprefix("v")
        version = (
            registry.get_version(experiment, int(number))
            if number.isdecimal()
            else registry.get_by_alias(experiment, which)
        )
        if version is None:
            raise TrackingError(f"{name} has no version {which}; `segline registry list --name {name}` shows all")
        aliases = registry.aliases(experiment).get(version.number, [])
    print(f"{name} v{version.number}")
    print(f"  aliases: {', '.join(aliases) or 'none'}")
    print(f"  load:    models:/{name}/{version.number}")
    for key, text in sorted(version.tags.items()):
        if key != DECISION:
            print(f"  {key}: {_line(text)}")
    for key, value in sorted(registry.parse_record(version.tags.get(DECISION, "")).items()):
        print(f"  decision.{key}: {_line(value)}")


def print_history(uri: str, name: str) -> None:
    """Print a line for each change of the champion, the first one first."""
    experiment = _open(uri, name)
    with experiment.explained_errors("reading the history"):
        changes = history.changes(experiment)
    if not changes:
        print(f"{name} never had a champion")
    for change in changes:
        before, after = (f"v{number}" if number else "none" for number in (change.before, change.version))
        who = f"by {change.who}" if change.who else "by an unknown user"
        print(f"{change.when or 'at an unknown time'}  {before} -> {after}  {change.kind} {who}: {_line(change.why)}")


def roll_back(uri: str, name: str, reason: str, *, allow_none: bool) -> None:
    """Roll the champion back, and print which version is champion now.

    Raises:
        TrackingError: there is no champion, or none before it and ``allow_none`` is false.
    """
    experiment = _open(uri, name)
    with experiment.explained_errors("rolling back"):
        before, after = champions.roll_back(experiment, reason, allow_none=allow_none)
    now = f"v{after.number} is champion again" if after else "there is no champion now"
    print(f"{name}: v{before.number} was rolled back, {now}; promote leaves v{before.number} alone ({ROLLED_BACK})")


def _open(uri: str, name: str) -> Experiment:
    experiment = Experiment(uri, name)
    if experiment.database and not experiment.database.exists():
        raise TrackingError(f"--tracking-uri {experiment.shown_uri} does not exist; `segline promote` creates it")
    return experiment


def _line(value: object) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
