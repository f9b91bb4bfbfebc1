"""The result of a validation: the rules' outcomes, their messages, the quarantined pairs, and why the line stops."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from segline.artifacts.manifest import Manifest
from segline.config.sections import Validate
from segline.data.validation.drift_rule import Drift
from segline.data.validation.expectations import Outcome

NAMED_PAIRS = 3
"""The number of pairs that the reason of a stop names."""
RECORDED_PAIRS = 10
"""The number of pairs that the record of a rule names."""


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The result of a validation.

    Attributes:
        table: The manifest's rows and the statistics of all pairs.
        outcomes: The outcomes of all rules, drift last.
        drift: The drift from the champion's training data.
        page: The Data Docs page.
        settings: The section ``validate``.
    """

    table: pd.DataFrame
    outcomes: Sequence[Outcome]
    drift: Drift
    page: str
    settings: Validate

    @cached_property
    def messages(self) -> dict[str, list[str]]:
        """The messages of every broken rule, by its slug: one for each failing row, or one for the whole table."""
        failing = {key for outcome in self.outcomes for key in outcome.failing}
        bad = self.table[self.table["key"].isin(failing)]
        rows: dict[str, Any] = {str(row["key"]): row for row in bad.to_dict("records")}
        return {
            outcome.rule.slug: [outcome.rule.reason.format(**rows.get(key, {})) for key in outcome.failing]
            or [outcome.rule.reason]
            for outcome in self.outcomes
            if not outcome.success
        }

    @cached_property
    def quarantined(self) -> pd.DataFrame:
        """The bad pairs: columns key, image, label, rules and reasons, which name the file and the value."""
        broken: dict[str, list[tuple[str, str]]] = {}
        for outcome in self.outcomes:
            if outcome.rule.severity == "quarantine":
                for key, reason in zip(outcome.failing, self.messages.get(outcome.rule.slug, []), strict=True):
                    broken.setdefault(key, []).append((outcome.rule.slug, reason))
        bad = self.table.loc[self.table["key"].isin(broken), ["key", "image", "label"]]
        return bad.assign(
            rules=[" ".join(slug for slug, _ in broken[key]) for key in bad["key"]],
            reasons=["; ".join(reason for _, reason in broken[key]) for key in bad["key"]],
        )

    @cached_property
    def refusal(self) -> str:
        """The reason why the line stops here; empty when it goes on."""
        broken = [entry.rule.slug for entry in self.outcomes if entry.rule.severity == "stop" and not entry.success]
        if broken:
            return "; ".join(_first(list(dict.fromkeys(self.messages[slug]))) for slug in broken)
        settings, pairs, bad = self.settings, len(self.table), len(self.quarantined)
        reasons = _first(list(self.quarantined["reasons"]))
        if pairs - bad < settings.min_pairs:
            least = f"validate.min_pairs is {settings.min_pairs}"
            return f"only {pairs - bad} of {pairs} pairs are whole, {least}: {reasons}"
        if bad / pairs > settings.max_quarantined_share:
            share = f"validate.max_quarantined_share is {settings.max_quarantined_share:g}"
            return f"{bad} of {pairs} pairs are bad, {share}: {reasons}"
        return ""

    def record(self, manifest: Manifest) -> dict[str, object]:
        """Return the result as plain values for JSON."""
        pairs, bad = len(self.table), len(self.quarantined)
        return {
            "data": manifest.content_hash,
            "layout": manifest.origin.layout,
            "stopped": self.refusal or None,
            "pairs": pairs,
            "whole": pairs - bad,
            "quarantined": bad,
            "rules": [_record_of(outcome, self.messages.get(outcome.rule.slug, [])) for outcome in self.outcomes],
            "drift": {
                "champion": self.drift.champion,
                "note": self.drift.note,
                "statistics": self.drift.table.round(6).to_dict("records"),
            },
        }


def _record_of(outcome: Outcome, messages: list[str]) -> dict[str, object]:
    rule = outcome.rule
    return {
        "rule": rule.slug,
        "says": rule.name,
        "severity": rule.severity,
        "expectation": rule.expectation,
        "success": outcome.success,
        "failing": len(outcome.failing),
        "keys": list(outcome.failing[:RECORDED_PAIRS]),
        "reasons": messages[:RECORDED_PAIRS],
    }


def _first(messages: Sequence[str]) -> str:
    """Return the first messages, and the number of the others."""
    more = f"; and {len(messages) - NAMED_PAIRS} more" if len(messages) > NAMED_PAIRS else ""
    return "; ".join(messages[:NAMED_PAIRS]) + more
