"""The moves of the aliases. Each is made under the lock of the registered model, and is looked at afterwards.

The champion's alias moves first, then ``previous``, which names the champion before it, and then the history is
written. A process that is killed in between leaves a state from which the same command, or the next promotion, goes on.
"""

from segline.errors import TrackingError
from segline.tracking import history, registry
from segline.tracking.client import Experiment
from segline.tracking.locks import HeldLock, registry_lock
from segline.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Version
from segline.tracking.tags import PREVIOUS_CHAMPION, ROLLED_BACK


def make_champion(experiment: Experiment, version: Version, against: int | None, why: str, lock: HeldLock) -> None:
    """Make a version champion that was judged against the champion of now, None for none; nobody is challenger then.

    Raises:
        TrackingError: The lock was lost, or another program moved the alias at the same time.
    """
    current = registry.get_by_alias(experiment, CHAMPION)
    before = against if current is None or current.number == version.number else current.number
    if before is not None:
        registry.set_tags(experiment, version, {PREVIOUS_CHAMPION: str(before)})
    if current is None or current.number != version.number:
        history.complete(experiment, before)
        _move(experiment, version, lock)
        history.record(experiment, version, before, history.PROMOTED, why)
    else:
        history.complete(experiment, version.number)
    _set_previous(experiment, before if before is not None else history.previous(version))
    registry.delete_alias(experiment, CHALLENGER)


def make_challenger(experiment: Experiment, version: Version) -> None:
    """Name the version that is not champion."""
    registry.set_alias(experiment, CHALLENGER, version)


def roll_back(experiment: Experiment, why: str, *, allow_none: bool = False) -> tuple[Version, Version | None]:
    """Make the champion before this one champion again, and return the version that was and the one that is.

    The former champion keeps the reason in a tag, which prevents promote from promoting it again.

    Args:
        experiment: The experiment and the registered model of the same name.
        why: The reason.
        allow_none: Whether the model may be left without a champion, if there is none before this one.

    Raises:
        TrackingError: There is no champion, or none before it that was not rolled back.
    """
    with registry_lock(experiment) as lock:
        champion = registry.get_by_alias(experiment, CHAMPION)
        if champion is None:
            raise TrackingError(f"{experiment.name} has no champion; nothing was changed")
        target = _before(experiment, champion)
        if target is None and not allow_none:
            raise TrackingError(
                f"{experiment.name} v{champion.number} has no champion before it; nothing was changed; to leave the "
                "model without a champion, add --allow-none"
            )
        history.complete(experiment, champion.number)
        registry.set_tags(experiment, champion, {ROLLED_BACK: why[: history.MAX_REASON]})
        if target:
            _move(experiment, target, lock)
        else:
            lock.check()
            registry.delete_alias(experiment, CHAMPION)
        _set_previous(experiment, _number(_before(experiment, target) if target else None))
        history.record(experiment, target, champion.number, history.ROLLED_BACK, why)
    return champion, target


def _number(version: Version | None) -> int | None:
    return version.number if version else None


def _before(experiment: Experiment, version: Version) -> Version | None:
    """Return the nearest champion before a version that still exists and was not rolled back."""
    seen = {version.number}
    number = history.previous(version)
    while number is not None and number not in seen:
        seen.add(number)
        found = registry.get_version(experiment, number)
        if found is None:
            return None
        if ROLLED_BACK not in found.tags:
            return found
        number = history.previous(found)
    return None


def _move(experiment: Experiment, version: Version, lock: HeldLock) -> None:
    lock.check()
    registry.set_alias(experiment, CHAMPION, version)
    now = registry.get_by_alias(experiment, CHAMPION)
    if now is None or now.number != version.number:
        found = f"v{now.number}" if now else "no version"
        raise TrackingError(
            f"{experiment.name}: v{version.number} was made champion, but {found} is: another program moves it; "
            "run the same command again"
        )


def _set_previous(experiment: Experiment, number: int | None) -> None:
    version = registry.get_version(experiment, number) if number is not None else None
    if version:
        registry.set_alias(experiment, PREVIOUS, version)
    else:
        registry.delete_alias(experiment, PREVIOUS)
