"""Validate: look at every pair once, quarantine the bad ones, stop when the data as a whole are broken.

A pair's files become one row of statistics; Great Expectations judges the rows. When the line stops, the report
goes to ``<out>.rejected``: ``out`` itself only ever holds data that were found good. What was measured stays in
``<out>.partial`` then, as after a kill, and the same data are not measured a second time.
"""

import html
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from segline.artifacts.manifest import Manifest, read_manifest, write_manifest
from segline.artifacts.validation import (
    PAGE,
    PIECES,
    QUARANTINE,
    QUARANTINE_SHEET,
    VALIDATION,
    read_statistics,
    write_report,
    write_statistics,
)
from segline.config.params import Params
from segline.config.sections import Validate
from segline.data.pairs import checked, label_spec_of, layout_of, open_tree
from segline.data.statistics import find_duplicates, measure, reduction
from segline.data.validation import drift
from segline.data.validation.contact_sheet import HEIGHT, Thumbnail, colorize, write_sheet
from segline.data.validation.expectations import Outcome, Rule, check
from segline.data.validation.rules import rules
from segline.errors import DataError, StageError, TrackingError
from segline.files.atomic import MARK
from segline.files.trees import Tree
from segline.progress import log, progress_bar

SHOWN_PAIRS = 5
NAMED_PAIRS = 3
RECORDED_PAIRS = 10
TILES = 48
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Drift:
    """How far the data have moved from the champion's training data.

    Attributes:
        champion: its number; None when there is nothing to compare with.
        note: why nothing was compared; empty when it was.
        table: the columns of :func:`segline.data.validation.drift.compare`, the largest index first.
        unchecked: whether nothing was compared although there is a champion, or may be one.
    """

    champion: int | None
    note: str
    table: pd.DataFrame
    unchecked: bool = False


def run(params: Params, *, manifest_dir: Path, tracking_uri: str, out: Path) -> None:
    """Write the whole pairs' ``manifest.parquet`` and ``statistics.parquet``, and the report on all.

    The report is ``docs/index.html``, ``validation.json``, and ``quarantine.csv`` with the sheet ``quarantine.jpg``.

    Raises:
        DataError: too many pairs are bad, too few are whole, or a rule whose severity is "stop" is broken; the
            report is then in ``<out>.rejected``.
    """
    settings, manifest = params.validate, read_manifest(manifest_dir)
    tree = checked(open_tree(manifest.origin.root, manifest_dir), manifest)
    rejected = out.with_name(f"{out.name}.rejected")
    with VALIDATION.writing(out, depends_on=manifest.content_hash) as work:
        with progress_bar("looking at pairs", len(manifest.rows)) as advance:
            statistics = measure(manifest, tree, pieces=work / PIECES, progress=advance)
        table = _lut(manifest, statistics, settings)
        drifted = _drift(params, table, tracking_uri)
        if drifted.unchecked and settings.severity.drift == "warn":
            log(f"validate: warning: {drifted.note}")
        judged, section = table.drop(columns=["classes", "class_pixels"]), _drift_section(drifted, settings)
        outcomes, page = check(judged, rules(settings), key="key", appendix=section)
        outcomes.append(_drift_outcome(drifted, settings))
        told = reasons(outcomes, table)
        bad = quarantine(outcomes, told, table)
        refusal = _refusal(outcomes, told, len(table), bad, settings)

        def report(folder: Path) -> None:
            record = _record(manifest, outcomes, told, len(bad), refusal, drifted)
            write_report(folder, page=page, record=record, quarantine=bad)
            _write_sheet(folder / QUARANTINE_SHEET, table, bad, manifest, tree)

        if refusal:
            with VALIDATION.writing(rejected) as folder:
                report(folder)
            raise DataError(f"{refusal}; see {rejected}/{PAGE} and {QUARANTINE}")
        report(work)
        whole = ~table["key"].isin(bad["key"])
        write_manifest(work, replace(manifest, rows=manifest.rows[whole.to_numpy()].reset_index(drop=True)))
        write_statistics(work, statistics[whole])
        shutil.rmtree(work / PIECES)
    if (rejected / MARK).is_file():
        shutil.rmtree(rejected, ignore_errors=True)
    _report(outcomes, told, len(table), bad, out)


def reasons(outcomes: Sequence[Outcome], table: pd.DataFrame) -> dict[str, list[str]]:
    """By the slug of a rule that is broken one line for each failing row, or one for the table as a whole."""
    failing = {key for outcome in outcomes for key in outcome.failing}
    bad = table[table["key"].isin(failing)]
    rows: dict[str, Any] = {str(row["key"]): row for row in bad.to_dict("records")}
    return {
        outcome.rule.slug: [outcome.rule.reason.format(**rows.get(key, {})) for key in outcome.failing]
        or [outcome.rule.reason]
        for outcome in outcomes
        if not outcome.success
    }


def quarantine(outcomes: Sequence[Outcome], told: dict[str, list[str]], table: pd.DataFrame) -> pd.DataFrame:
    """The bad pairs: columns key, image, label, rules and reasons, which name the file and the value."""
    found: dict[str, list[tuple[str, str]]] = {}
    for outcome in outcomes:
        if outcome.rule.severity == "quarantine":
            for key, reason in zip(outcome.failing, told.get(outcome.rule.slug, []), strict=True):
                found.setdefault(key, []).append((outcome.rule.slug, reason))
    bad = table.loc[table["key"].isin(found), ["key", "image", "label"]]
    return bad.assign(
        rules=[" ".join(slug for slug, _ in found[key]) for key in bad["key"]],
        reasons=["; ".join(reason for _, reason in found[key]) for key in bad["key"]],
    )


def _lut(manifest: Manifest, statistics: pd.DataFrame, settings: Validate) -> pd.DataFrame:
    """Manifest, statistics, how the pairs stand to one another, and what only the rules need."""
    table = pd.concat([manifest.rows, statistics.drop(columns="key")], axis=1)
    table = pd.concat([table, find_duplicates(table, distance=settings.duplicate_distance)], axis=1)
    table["shortest_side"] = table[["height", "width"]].min(axis=1)
    for name, sides in (("image_size", ("height", "width")), ("label_size", ("label_height", "label_width"))):
        height, width = (table[side].astype("string") for side in sides)
        table[name] = height + " x " + width
    return table


# Drift, the one rule that Great Expectations does not judge.


def _drift(params: Params, table: pd.DataFrame, uri: str) -> Drift:
    """The readable pairs that may be trained on, compared with those that the champion was trained on."""
    nothing = pd.DataFrame(columns=drift.COLUMNS)
    try:
        number, before = _champion(params.name, uri)
    except LookupError:
        return Drift(None, "there is no champion with statistics to compare with", nothing)
    except (ImportError, StageError, TrackingError) as error:
        return Drift(None, f"drift is not checked: {error}", nothing, unchecked=True)
    readable = table[table["height"].notna() & (table["labelled_pixels"].fillna(0) > 0)]
    now = readable[readable["split"].isin(["train", ""])]
    found = drift.compare(before, now).sort_values(["psi", "statistic"], ascending=[False, True])
    if found.empty:
        fewest = f"{min(len(before), len(now))} pairs are too few to compare, at least {drift.FEWEST} are needed"
        return Drift(number, f"drift is not checked: {fewest}", found, unchecked=True)
    return Drift(number, "", found)


def _champion(name: str, uri: str) -> tuple[int, pd.DataFrame]:
    """The champion's number and the statistics of its training pairs; LookupError when there are none."""
    # MLflow takes seconds to import, which a run without any registry should not cost.
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise LookupError
    from segline.tracking.registry import champion_statistics

    with TemporaryDirectory() as folder:
        found = champion_statistics(uri, name, Path(folder))
        if found is None:
            raise LookupError
        return found[0], read_statistics(found[1].parent)


def _drift_outcome(drifted: Drift, settings: Validate) -> Outcome:
    """Whether the data have not drifted. Where drift may stop the line, it also has to be known."""
    far = drifted.table[drifted.table["psi"] > settings.max_drift]
    shown = ", ".join(
        f"{row.statistic} {row.psi:.2f} ({row.before:.3g} -> {row.now:.3g})" for row in far.itertuples(index=False)
    )
    reason = (
        f"the data differ from those that champion v{drifted.champion} was trained on: {shown}; if this is meant, "
        "raise validate.max_drift"
    )
    if drifted.unchecked:
        reason = f"{drifted.note}; mend that or set validate.severity.drift to warn"
    rule = Rule(
        slug="drift",
        name=f"no population stability index is above {settings.max_drift:g}",
        expectation="population stability index",
        severity=settings.severity.drift,
        reason=reason,
    )
    unknown = drifted.unchecked and rule.severity == "stop"
    return Outcome(rule, far.empty and not unknown, ())


def _drift_section(drifted: Drift, settings: Validate) -> str:
    """The drift as HTML for the page."""
    compared = (
        f"Population stability index of every statistic against the training data of champion v{drifted.champion}; "
        f"above {settings.max_drift:g} the rule drift is broken"
    )
    caption = f"<h5>Drift</h5>\n<p>{html.escape(drifted.note or compared)}.</p>\n"
    rows = "".join(
        f"<tr><td>{html.escape(str(row.statistic))}</td><td>{row.psi:.3f}</td><td>{row.before:.4g}</td>"
        f"<td>{row.now:.4g}</td></tr>\n"
        for row in drifted.table.itertuples(index=False)
    )
    head = "<tr><th>statistic</th><th>index</th><th>mean before</th><th>mean now</th></tr>\n"
    return f"{caption}<table>\n{head}{rows}</table>\n" if rows else caption


# What is told.


def _refusal(
    outcomes: Sequence[Outcome],
    told: dict[str, list[str]],
    pairs: int,
    bad: pd.DataFrame,
    settings: Validate,
) -> str:
    """Why the line stops here; empty when it goes on."""
    stopped = [outcome.rule.slug for outcome in outcomes if outcome.rule.severity == "stop" and not outcome.success]
    if stopped:
        return "; ".join(_first(list(dict.fromkeys(told[slug]))) for slug in stopped)
    named = _first(list(bad["reasons"]))
    if pairs - len(bad) < settings.min_pairs:
        return (
            f"only {pairs - len(bad)} of {pairs} pairs are whole, validate.min_pairs is {settings.min_pairs}: {named}"
        )
    if len(bad) / pairs > settings.max_quarantined_share:
        share = f"validate.max_quarantined_share is {settings.max_quarantined_share:g}"
        return f"{len(bad)} of {pairs} pairs are bad, {share}: {named}"
    return ""


def _first(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - NAMED_PAIRS} more" if len(lines) > NAMED_PAIRS else ""
    return "; ".join(lines[:NAMED_PAIRS]) + more


def _record(
    manifest: Manifest,
    outcomes: Sequence[Outcome],
    told: dict[str, list[str]],
    bad: int,
    refusal: str,
    drifted: Drift,
) -> dict[str, object]:
    pairs = len(manifest.rows)
    return {
        "data": manifest.content_hash,
        "layout": manifest.origin.layout,
        "stopped": refusal or None,
        "pairs": pairs,
        "whole": pairs - bad,
        "quarantined": bad,
        "rules": [_record_of_rule(outcome, told.get(outcome.rule.slug, [])) for outcome in outcomes],
        "drift": {
            "champion": drifted.champion,
            "note": drifted.note,
            "statistics": drifted.table.round(6).to_dict("records"),
        },
    }


def _record_of_rule(outcome: Outcome, told: list[str]) -> dict[str, object]:
    rule = outcome.rule
    return {
        "rule": rule.slug,
        "says": rule.name,
        "severity": rule.severity,
        "expectation": rule.expectation,
        "success": outcome.success,
        "failing": len(outcome.failing),
        "keys": list(outcome.failing[:RECORDED_PAIRS]),
        "reasons": told[:RECORDED_PAIRS],
    }


def _report(outcomes: Sequence[Outcome], told: dict[str, list[str]], pairs: int, bad: pd.DataFrame, out: Path) -> None:
    line = f"validate: {pairs - len(bad)} of {pairs} pairs are whole"
    if len(bad):
        line += f", {len(bad)} quarantined, see {out}/{QUARANTINE} and {QUARANTINE_SHEET}"
    log(line)
    for said in bad["reasons"][:SHOWN_PAIRS]:
        log(f"  {said}")
    for outcome in outcomes:
        if outcome.rule.severity == "warn" and not outcome.success:
            count = len(outcome.failing)
            more = f"; and {count - 1} more, see {out}/{PAGE}" if count > 1 else ""
            log(f"  warning: {outcome.rule.slug}: {told[outcome.rule.slug][0]}{more}")


def _write_sheet(path: Path, table: pd.DataFrame, bad: pd.DataFrame, manifest: Manifest, tree: Tree) -> None:
    """The first bad pairs as pictures; also when there are none, for a pipeline expects the file."""
    shown = table[table["key"].isin(bad["key"])].head(TILES).to_dict("records")
    said = dict(zip(bad["key"], bad["reasons"], strict=True))
    tiles = [_tile({str(name): value for name, value in row.items()}, said, manifest, tree) for row in shown]
    more = f", +{len(bad) - len(tiles)} more" if len(bad) > len(tiles) else ""
    write_sheet(path, tiles, heading=f"quarantined: {len(bad)} of {len(table)} pairs{more}")


def _tile(row: dict[str, Any], said: dict[str, str], manifest: Manifest, tree: Tree) -> Thumbnail:
    """A pair as it can be shown: what could not be read is left out."""
    layout, image, label = layout_of(manifest.origin), None, None
    with suppress(OSError):
        if pd.notna(row["shortest_side"]):
            reduce = reduction(row["shortest_side"], HEIGHT)
            image = layout.read_image(tree, row["image"], row["slice_index"], reduce=reduce)
    with suppress(OSError):
        if pd.notna(row["labelled_pixels"]):
            label = colorize(layout.read_label(tree, row["label"], row["slice_index"]), label_spec_of(manifest.origin))
    return Thumbnail(row["key"], said[row["key"]], image, label)
