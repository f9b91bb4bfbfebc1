"""What promote decides: whether a version is better than the champion, or as the first than the most frequent class."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from segline.artifacts.dataset import DatasetInfo
from segline.artifacts.evaluation import CountedCrops
from segline.artifacts.promotion import Decision
from segline.config.sections import Promote
from segline.metrics.comparison import Comparison, compare, most_frequent
from segline.metrics.confusion import Counts
from segline.tracking.registry import Version, parse_record
from segline.tracking.tags import DECISION


def hash_test_set(tested: CountedCrops) -> str:
    """Return the SHA-256 over the keys, groups and labelled pixels of the test images, by which a test set is known."""
    digest = hashlib.sha256()
    for key, group, pixels in zip(tested.keys, tested.groups, tested.counts.sum(-1).tolist(), strict=True):
        digest.update(f"{key}\n{group}\n{pixels}\n".encode())
    return digest.hexdigest()


def times_judged(versions: Iterable[Version], test_set: str) -> int:
    """Return how many decisions about these versions a test set has made; 0 for one that is not known."""
    return max((_judged(version.tags.get(DECISION, ""), test_set) for version in versions), default=0)


def _judged(decision: str, test_set: str) -> int:
    record = parse_record(decision)
    if record.get("test_set") != test_set:
        return 0
    return record["judged"] if isinstance(record.get("judged"), int) else 1


def judge_first(decision: Decision, tested: CountedCrops, info: DatasetInfo) -> Decision:
    """Return the decision about a version without a champion: its mIoU has to exceed that of the most frequent class.

    The most frequent class is that of the training split. No interval is needed.
    """
    class_id = int(np.argmax(info.pixels["train"]))
    baseline = most_frequent(tested.counts, class_id)
    comparison = compare(tested.counts, baseline, keys=tested.keys, groups=tested.groups, error=0.05)
    better = comparison.gain > 0
    verdict = "it is the first, and its" if better else "it would be the first, but its"
    reason = (
        f"{verdict} mIoU {comparison.challenger:.4f} {'exceeds' if better else 'does not exceed'} the "
        f"{comparison.champion:.4f} of the most frequent class, {info.names[class_id]}, on the same "
        f"{comparison.units} {comparison.kind}"
    )
    numbers = replace(decision, units=comparison.units, kind=comparison.kind, baseline_test_miou=comparison.champion)
    return replace(numbers, promoted=better, reason=reason)


def judge(decision: Decision, tested: CountedCrops, champion: Counts, settings: Promote) -> Decision:
    """Return the decision about a version against the champion, whose counts (n, k, k) are of the same images."""
    comparison = compare(
        tested.counts,
        champion,
        keys=tested.keys,
        groups=tested.groups,
        error=settings.error,
        block_frames=settings.block_frames,
    )
    spent = _budget_spent(decision, settings)
    return replace(
        decision,
        promoted=comparison.better and not spent,
        reason="; ".join(filter(None, [_reason(comparison, settings.error), _remarks(decision), spent])),
        champion_test_miou=comparison.champion,
        gain=comparison.gain,
        lower_bound=None if math.isnan(comparison.lower) else comparison.lower,
        upper_bound=None if math.isnan(comparison.upper) else comparison.upper,
        units=comparison.units,
        kind=comparison.kind,
    )


def _reason(comparison: Comparison, error: float) -> str:
    scores = f"mIoU {comparison.challenger:.4f} against {comparison.champion:.4f}"
    if comparison.reason:
        return f"{scores}, but {comparison.reason}"
    bound = f"the {100 * (1 - error):.4g}% lower bound of the gain is {comparison.lower:+.4f}"
    return f"{scores} on the same {comparison.units} {comparison.kind}, and {bound}"


def _remarks(decision: Decision) -> str:
    """Return what a reader of the reason has to know beside it."""
    remarks = []
    if decision.judged and decision.judged > 1:
        remarks.append(f"this test set has judged {decision.judged} times")
    if decision.seen_by_champion:
        remarks.append(
            f"the champion was trained on {decision.seen_by_champion} of these images, so it has an advantage"
        )
    return "; ".join(remarks)


def _budget_spent(decision: Decision, settings: Promote) -> str:
    allowed = settings.error_budget.decisions
    if not allowed or decision.judged is None or decision.judged <= allowed:
        return ""
    return f"its {allowed} decisions are spent (promote.error_budget), so take another test set or another budget"
