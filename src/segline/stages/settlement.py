"""The end of a promotion: the decision is kept with the version, and the aliases move, if nothing changed meanwhile."""

from dataclasses import asdict, replace

from segline.artifacts.promotion import Decision
from segline.tracking import champions, registry
from segline.tracking.client import Experiment
from segline.tracking.locks import registry_lock
from segline.tracking.registry import CHAMPION, Version
from segline.tracking.tags import DECISION, ROLLED_BACK

IS_CHAMPION = "it is champion already"


def earlier_decision(version: Version) -> Decision | None:
    """Return the decision that is kept with a version; None if there is none, or what is kept is no decision."""
    try:
        return Decision(**registry.parse_record(version.tags.get(DECISION, "")))
    except TypeError:
        return None


def is_rival(experiment: Experiment, version: Version, decision: Decision) -> bool:
    """Return whether the champion of now is the one that a decision is about, or the version that it promoted."""
    champion = registry.get_by_alias(experiment, CHAMPION)
    number = champion.number if champion else None
    return number == decision.against or (decision.promoted and number == version.number)


def settle(experiment: Experiment, version: Version, decision: Decision, *, enabled: bool) -> Decision | None:
    """Keep a decision with the version and move the aliases; None if another version became champion meanwhile.

    Args:
        experiment: The experiment and the registered model of the same name.
        version: The version that the decision is about.
        decision: The decision, made against the champion of a moment ago.
        enabled: Whether a promotion is allowed.

    Returns:
        The decision, without a promotion that is switched off or was rolled back.
    """
    with registry_lock(experiment) as lock:
        if not is_rival(experiment, version, decision):
            return None
        if not enabled:
            decision = _withhold(decision, "promotion is off (promote.enabled)")
        registry.set_tags(experiment, version, {DECISION: asdict(decision)})
        # A rollback is not kept with the version, so that the decision counts again once the tag is deleted.
        current = registry.get_version(experiment, version.number) or version
        if ROLLED_BACK in current.tags:
            why = f"v{version.number} was rolled back; delete its tag {ROLLED_BACK} to allow it"
            decision = _withhold(decision, why)
        if decision.promoted:
            champions.make_champion(experiment, version, decision.against, decision.reason, lock)
        else:
            champions.make_challenger(experiment, version)
    return decision


def _withhold(decision: Decision, why: str) -> Decision:
    """Return a decision that moves no champion; a version that is champion already stays champion."""
    if not decision.promoted or decision.reason == IS_CHAMPION:
        return decision
    return replace(decision, promoted=False, reason=f"{decision.reason}, but {why}")
