"""Validate: look at every pair once, quarantine the bad ones, stop when the data as a whole are broken.

A pair's files become one row of statistics; Great Expectations judges the rows. When the line stops, the report
goes to ``<out>.rejected``: ``out`` itself only ever holds data that were found good.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from segline.classes import IGNORED
from segline.data.layouts import UNKNOWN, Layout, read_image
from segline.data.manifest import Manifest, read_manifest, write_manifest
from segline.errors import DataError
from segline.expectations import Outcome, Rule, check
from segline.outputs import write_json, write_text, writing
from segline.params import Params, Validate
from segline.progress import bar, say

# Numbers are missing where a file cannot be read, so they need types that can be.
STATISTICS = {
    "key": None,
    "image": None,
    "label": None,
    "image_error": None,
    "label_error": None,
    "image_size": None,
    "label_size": None,
    "shortest_side": "Int64",
    "brightness": "Float64",
    "unknown_values": None,
    "labelled_pixels": "Int64",
    "foreground_share": "Float64",
}
SHOWN_VALUES = 5
SHOWN_PAIRS = 5
NAMED_PAIRS = 3


def run(params: Params, *, ingested: Path, out: Path) -> None:
    """Write the manifest of the whole pairs, ``quarantine.csv``, ``validation.json`` and ``docs/index.html``.

    Raises:
        DataError: too many pairs are bad or too few are whole; the report is then in ``<out>.rejected``.
    """
    manifest = read_manifest(ingested)
    table = measure(manifest, manifest.root(ingested))
    outcomes, page = check(table, rules(params.validate), key="key")
    bad = quarantine(table, outcomes)
    refusal = _refusal(outcomes, len(table), len(bad), params.validate)
    rejected = out.with_name(f"{out.name}.rejected")
    with writing(rejected if refusal else out) as work:
        write_text(work / "docs" / "index.html", page)
        write_text(work / "quarantine.csv", bad.to_csv(index=False, lineterminator="\n"))
        write_json(work / "validation.json", _record(manifest, outcomes, len(bad)))
        if not refusal:
            rows = manifest.rows[~manifest.rows["key"].isin(bad["key"])].reset_index(drop=True)
            write_manifest(work, replace(manifest, rows=rows))
    if refusal:
        raise DataError(_message(refusal, bad, rejected))
    shutil.rmtree(rejected, ignore_errors=True)
    _report(outcomes, len(table), bad, out)


def rules(settings: Validate) -> list[Rule]:
    """What the table of :func:`measure` must fulfil."""
    return [*_stop_rules(settings), *_quarantine_rules(settings), *_warn_rules()]


def measure(manifest: Manifest, root: Path) -> pd.DataFrame:
    """Decode every pair; one row each, with the columns of ``STATISTICS``, in the manifest's order.

    Sizes are texts "height x width" in px, ``brightness`` is the mean of all channels (0 to 255), and
    ``foreground_share`` is of the labelled pixels. A file that cannot be read has an error and no values.
    """
    pairs = manifest.rows[["key", "image", "label"]].to_dict("records")
    rows = []
    with bar("looking at pairs", len(pairs)) as advance, ThreadPoolExecutor() as pool:
        for row in pool.map(lambda pair: _examine(pair, manifest.layout, root), pairs):
            rows.append(row)
            advance(1)
    types = {name: kind for name, kind in STATISTICS.items() if kind}
    return pd.DataFrame(rows, columns=list(STATISTICS)).astype(types)


def quarantine(table: pd.DataFrame, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The bad pairs: columns key, image, label and reasons, which name the file and the value."""
    reasons: dict[str, list[str]] = {}
    rows: dict[str, dict[str, object]] = {row["key"]: row for row in table.to_dict("records")}  # type: ignore[misc]
    for outcome in outcomes:
        if outcome.rule.severity == "quarantine":
            for key in outcome.failing:
                reasons.setdefault(key, []).append(outcome.rule.reason.format(**rows[key]))
    bad = table.loc[table["key"].isin(reasons), ["key", "image", "label"]]
    return bad.assign(reasons=["; ".join(reasons[key]) for key in bad["key"]])


def _stop_rules(settings: Validate) -> list[Rule]:
    again = "run `segline ingest` again"
    return [
        Rule(
            name=f"there are at least {settings.min_pairs} pairs",
            severity="stop",
            expectation="ExpectTableRowCountToBeBetween",
            options={"min_value": settings.min_pairs},
            reason=f"fewer than {settings.min_pairs} pairs; add pairs or lower validate.min_pairs",
        ),
        *(
            Rule(
                name=f"no pair lacks its {column}",
                severity="stop",
                expectation="ExpectColumnValuesToNotBeNull",
                options={"column": column},
                reason=f"a row of the manifest lacks its {column}; {again}",
            )
            for column in ("key", "image", "label")
        ),
        Rule(
            name="no key is there twice",
            severity="stop",
            expectation="ExpectColumnValuesToBeUnique",
            options={"column": "key"},
            reason=f"a key of the manifest is there twice; {again}",
        ),
    ]


def _quarantine_rules(settings: Validate) -> list[Rule]:
    return [
        _bad_unless_empty("the image can be read", "image_error", "{image}: {image_error}"),
        _bad_unless_empty("the label map can be read", "label_error", "{label}: {label_error}"),
        _bad_unless_empty(
            "every label value is known", "unknown_values", "{label}: unknown label values {unknown_values}"
        ),
        Rule(
            name="the label map is as large as the image",
            severity="quarantine",
            expectation="ExpectColumnPairValuesToBeEqual",
            options={
                "column_A": "image_size",
                "column_B": "label_size",
                "ignore_row_if": "either_value_is_missing",
            },
            reason="{label}: the label map is {label_size} px, the image {image_size} px",
        ),
        Rule(
            name=f"the shortest side has at least {settings.min_side} px",
            severity="quarantine",
            expectation="ExpectColumnValuesToBeBetween",
            options={"column": "shortest_side", "min_value": settings.min_side},
            reason=f"{{image}}: {{image_size}} px, the shortest side must have {settings.min_side}",
        ),
        Rule(
            name="at least one pixel is labelled",
            severity="quarantine",
            expectation="ExpectColumnValuesToBeBetween",
            options={"column": "labelled_pixels", "min_value": 1},
            reason="{label}: no labelled pixel",
        ),
    ]


def _warn_rules() -> list[Rule]:
    return [
        Rule(
            name="there is foreground",
            severity="warn",
            expectation="ExpectColumnValuesToBeBetween",
            options={"column": "foreground_share", "min_value": 0, "strict_min": True},
        ),
        Rule(
            name="the image is neither black nor white",
            severity="warn",
            expectation="ExpectColumnValuesToBeBetween",
            options={"column": "brightness", "min_value": 3, "max_value": 252},
        ),
    ]


def _bad_unless_empty(name: str, column: str, reason: str) -> Rule:
    return Rule(
        name=name,
        severity="quarantine",
        expectation="ExpectColumnValuesToBeInSet",
        options={"column": column, "value_set": [""]},
        reason=reason,
    )


def _examine(pair: dict[str, str], layout: Layout, root: Path) -> dict[str, object]:
    # A path that is missing in the manifest is "nan" here; a stop rule finds it.
    image, image_error = _read(read_image, root / str(pair["image"]))
    label, label_error = _read(layout.read_label, root / str(pair["label"]))
    row: dict[str, object] = {**pair, "image_error": image_error, "label_error": label_error}
    if image is not None:
        row |= _of_image(image)
    if label is not None:
        row |= _of_label(label, layout)
    return row


def _read(read: Callable[[Path], NDArray[Any]], path: Path) -> tuple[NDArray[Any] | None, str]:
    """What a file holds, or None and what is wrong with it."""
    try:
        return read(path), ""
    except Exception as error:  # Decoders raise whatever a broken file leads them to; none may stop the pass.
        return None, _complaint(error, path)


def _complaint(error: Exception, path: Path) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "the file is not an image"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # A report must not depend on where the data lie.
    return f"cannot be read ({' '.join(text.replace(str(path), path.name).split())})"


def _of_image(image: NDArray[np.uint8]) -> dict[str, object]:
    height, width = image.shape[:2]
    return {
        "image_size": f"{height} x {width}",
        "shortest_side": min(height, width),
        "brightness": float(image.mean()),
    }


def _of_label(raw: NDArray[np.integer], layout: Layout) -> dict[str, object]:
    counts = np.bincount(raw.ravel(), minlength=len(layout.table))
    labelled = int(counts[(layout.table != IGNORED) & (layout.table != UNKNOWN)].sum())
    background = 0 if layout.background is None else int(counts[layout.table == layout.background].sum())
    return {
        "label_size": f"{raw.shape[0]} x {raw.shape[1]}",
        "unknown_values": _list_values(np.flatnonzero((counts > 0) & (layout.table == UNKNOWN))),
        "labelled_pixels": labelled,
        "foreground_share": (labelled - background) / labelled if labelled else None,
    }


def _list_values(values: NDArray[np.integer]) -> str:
    more = len(values) - SHOWN_VALUES
    return ", ".join(map(str, values[:SHOWN_VALUES])) + (f" and {more} more" if more > 0 else "")


def _refusal(outcomes: Sequence[Outcome], pairs: int, bad: int, settings: Validate) -> str:
    """Why the line stops here; empty when it goes on."""
    stopped = [outcome.rule.reason for outcome in outcomes if outcome.rule.severity == "stop" and not outcome.success]
    if stopped:
        return "; ".join(stopped)
    if pairs - bad < settings.min_pairs:
        return f"only {pairs - bad} of {pairs} pairs are whole, validate.min_pairs is {settings.min_pairs}"
    if bad / pairs > settings.max_quarantined_share:
        return f"{bad} of {pairs} pairs are bad, validate.max_quarantined_share is {settings.max_quarantined_share:g}"
    return ""


def _message(refusal: str, bad: pd.DataFrame, rejected: Path) -> str:
    """One line for the user: why, the first bad files, what to do, where to see more."""
    if bad.empty:
        return f"{refusal}; see {rejected}/docs/index.html"
    named = "; ".join(bad["reasons"][:NAMED_PAIRS])
    more = f"; and {len(bad) - NAMED_PAIRS} more" if len(bad) > NAMED_PAIRS else ""
    return f"{refusal}: {named}{more}; mend or remove these files and ingest again, see {rejected}/quarantine.csv"


def _record(manifest: Manifest, outcomes: Sequence[Outcome], bad: int) -> dict[str, object]:
    pairs = len(manifest.rows)
    expectations = [
        {
            "name": outcome.rule.name,
            "severity": outcome.rule.severity,
            "expectation": outcome.rule.expectation,
            "success": outcome.success,
            "failing_rows": len(outcome.failing),
        }
        for outcome in outcomes
    ]
    counts = {"pairs": pairs, "whole": pairs - bad, "quarantined": bad}
    return {
        "data": manifest.content_hash,
        "layout": manifest.origin.layout,
        **counts,
        "expectations": expectations,
    }


def _report(outcomes: Sequence[Outcome], pairs: int, bad: pd.DataFrame, out: Path) -> None:
    line = f"validate: {pairs - len(bad)} of {pairs} pairs are whole"
    if len(bad):
        line += f", {len(bad)} quarantined, see {out}/quarantine.csv"
    say(line)
    for reasons in bad["reasons"][:SHOWN_PAIRS]:
        say(f"  {reasons}")
    for outcome in outcomes:
        if outcome.rule.severity == "warn" and not outcome.success:
            say(f"  warning: {outcome.rule.name} fails for {len(outcome.failing)} pairs, see {out}/docs/index.html")
