"""The rule drift, the only one that Great Expectations does not check: its outcome, and its section of the page."""

import html
from dataclasses import dataclass

import pandas as pd

from segline.config.sections import Validate
from segline.data.validation import drift
from segline.data.validation.expectations import Outcome, Rule


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The drift of the data from the champion's training data.

    Attributes:
        champion: The champion's number; None when there is no champion to compare with.
        note: The reason why nothing was compared; empty when the data were compared.
        table: The columns of :func:`segline.data.validation.drift.compare`, the largest index first.
        unchecked: Whether nothing was compared although there is a champion, or may be one.
    """

    champion: int | None
    note: str
    table: pd.DataFrame
    unchecked: bool = False


def without_champion(note: str, *, unchecked: bool = False) -> Drift:
    """Return the drift when there is no champion, or when it is not known whether there is one."""
    return Drift(champion=None, note=note, table=pd.DataFrame(columns=drift.COLUMNS), unchecked=unchecked)


def drift_from(champion: int, reference: pd.DataFrame, table: pd.DataFrame) -> Drift:
    """Compare the readable pairs that may be trained on with the pairs that the champion was trained on.

    Args:
        champion: The champion's number.
        reference: The statistics of the champion's training pairs.
        table: The statistics of all pairs, with their splits.
    """
    readable = table[table["height"].notna() & (table["labelled_pixels"].fillna(0) > 0)]
    now = readable[readable["split"].isin(["train", ""])]
    compared = drift.compare(reference, now).sort_values(["psi", "statistic"], ascending=[False, True])
    note = ""
    if compared.empty:
        fewest = f"{min(len(reference), len(now))} pairs are too few to compare, at least {drift.FEWEST} are needed"
        note = f"drift is not checked: {fewest}"
    return Drift(champion=champion, note=note, table=compared, unchecked=compared.empty)


def drift_outcome(result: Drift, settings: Validate) -> Outcome:
    """Return whether the data have not drifted. If drift may stop the line, unchecked drift stops it as well."""
    far = result.table[result.table["psi"] > settings.max_drift]
    moved = ", ".join(
        f"{row.statistic} {row.psi:.2f} ({row.before:.3g} -> {row.now:.3g})" for row in far.itertuples(index=False)
    )
    reason = (
        f"the data differ from those that champion v{result.champion} was trained on: {moved}; if this is meant, "
        "raise validate.max_drift"
    )
    if result.unchecked:
        reason = f"{result.note}; fix that or set validate.severity.drift to warn"
    rule = Rule(
        slug="drift",
        name=f"no population stability index is above {settings.max_drift:g}",
        expectation="population stability index",
        severity=settings.severity.drift,
        reason=reason,
    )
    is_unknown = result.unchecked and rule.severity == "stop"
    return Outcome(rule, far.empty and not is_unknown, ())


def drift_section(result: Drift, settings: Validate) -> str:
    """Return the drift as HTML for the page."""
    compared = (
        f"Population stability index of every statistic against the training data of champion v{result.champion}; "
        f"above {settings.max_drift:g} the rule drift is broken"
    )
    caption = f"<h5>Drift</h5>\n<p>{html.escape(result.note or compared)}.</p>\n"
    rows = "".join(
        f"<tr><td>{html.escape(str(row.statistic))}</td><td>{row.psi:.3f}</td><td>{row.before:.4g}</td>"
        f"<td>{row.now:.4g}</td></tr>\n"
        for row in result.table.itertuples(index=False)
    )
    head = "<tr><th>statistic</th><th>index</th><th>mean before</th><th>mean now</th></tr>\n"
    return f"{caption}<table>\n{head}{rows}</table>\n" if rows else caption
