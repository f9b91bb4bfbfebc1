"""Validate: check every pair once, quarantine the bad ones, stop when the data as a whole are broken.

A pair's files become one row of statistics; Great Expectations checks the rows. When the line stops, the report goes to
``<out>.rejected``: ``out`` itself only ever holds data that passed. The statistics stay in ``<out>.partial`` then, as
after a kill, and the same data are not measured a second time.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from segline.artifacts.manifest import MANIFEST, Manifest, read_manifest, write_manifest
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
from segline.data.pairs import checked, open_tree
from segline.data.statistics import find_duplicates, measure
from segline.data.validation.drift_rule import Drift, drift_from, drift_outcome, drift_section, without_champion
from segline.data.validation.expectations import check
from segline.data.validation.quarantine_sheet import write_quarantine_sheet
from segline.data.validation.result import ValidationResult
from segline.data.validation.rules import rules
from segline.errors import DataError, StageError, TrackingError
from segline.files.atomic import MARK
from segline.files.trees import Tree
from segline.progress import log, progress_bar

LOGGED_PAIRS = 5
SQLITE = "sqlite:///"


def run(params: Params, *, manifest_dir: Path, tracking_uri: str, out: Path) -> None:
    """Write ``manifest.parquet`` and ``statistics.parquet`` of the pairs that passed, and the report on all pairs.

    The report is ``docs/index.html``, ``validation.json``, and ``quarantine.csv`` with the sheet ``quarantine.jpg``.

    Raises:
        DataError: Too many pairs are bad, too few are intact, or a rule whose severity is "stop" is broken; the
            report is then in ``<out>.rejected``.
    """
    MANIFEST.check(manifest_dir)
    settings, manifest = params.validate, read_manifest(manifest_dir)
    tree = checked(open_tree(manifest.origin.root, manifest_dir), manifest)
    rejected = out.with_name(f"{out.name}.rejected")
    with VALIDATION.writing(out, depends_on=manifest.content_hash) as work:
        with progress_bar("looking at pairs", len(manifest.rows)) as advance:
            statistics = measure(manifest, tree, pieces=work / PIECES, progress=advance)
        table = _table_to_check(manifest, statistics, settings)
        drift = _compare_with_champion(params, table, tracking_uri)
        result = _check(table, drift, settings)
        if result.refusal:
            with VALIDATION.writing(rejected) as folder:
                _write_report(folder, result, manifest, tree)
            raise DataError(f"{result.refusal}; see {rejected}/{PAGE} and {QUARANTINE}")
        _write_report(work, result, manifest, tree)
        _write_passed(work, result, manifest, statistics)
        shutil.rmtree(work / PIECES)
    if (rejected / MARK).is_file():
        shutil.rmtree(rejected, ignore_errors=True)
    _log_result(result, out)


def _table_to_check(manifest: Manifest, statistics: pd.DataFrame, settings: Validate) -> pd.DataFrame:
    """Return a row per pair: manifest, statistics, duplicates, and columns that only the rules need."""
    table = pd.concat([manifest.rows, statistics.drop(columns="key")], axis=1)
    table = pd.concat([table, find_duplicates(table, distance=settings.duplicate_distance)], axis=1)
    table["shortest_side"] = table[["height", "width"]].min(axis=1)
    for name, sides in (("image_size", ("height", "width")), ("label_size", ("label_height", "label_width"))):
        height, width = (table[side].astype("string") for side in sides)
        table[name] = height + " x " + width
    return table


def _compare_with_champion(params: Params, table: pd.DataFrame, uri: str) -> Drift:
    """Return the drift from the champion's training data, and warn when it is not known."""
    try:
        champion, reference = _champion(params.name, uri)
    except LookupError:
        drift = without_champion("there is no champion with statistics to compare with")
    except (ImportError, StageError, TrackingError) as error:
        drift = without_champion(f"drift is not checked: {error}", unchecked=True)
    else:
        drift = drift_from(champion, reference, table)
    if drift.unchecked and params.validate.severity.drift == "warn":
        log(f"validate: warning: {drift.note}")
    return drift


def _champion(name: str, uri: str) -> tuple[int, pd.DataFrame]:
    """Return the champion's number and the statistics of its training pairs.

    Raises:
        LookupError: There is no champion with statistics.
    """
    # MLflow takes seconds to import, which a run without any registry should not cost.
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise LookupError
    from segline.tracking.registry import champion_statistics

    with TemporaryDirectory() as folder:
        champion = champion_statistics(uri, name, Path(folder))
        if champion is None:
            raise LookupError
        number, file = champion
        return number, read_statistics(file.parent)


def _check(table: pd.DataFrame, drift: Drift, settings: Validate) -> ValidationResult:
    """Check the table against all rules."""
    columns = table.drop(columns=["classes", "class_pixels"])
    outcomes, page = check(columns, rules(settings), key="key", appendix=drift_section(drift, settings))
    outcomes.append(drift_outcome(drift, settings))
    return ValidationResult(table=table, outcomes=outcomes, drift=drift, page=page, settings=settings)


def _write_report(folder: Path, result: ValidationResult, manifest: Manifest, tree: Tree) -> None:
    write_report(folder, page=result.page, record=result.record(manifest), quarantine=result.quarantined)
    write_quarantine_sheet(folder / QUARANTINE_SHEET, result, manifest, tree)


def _write_passed(folder: Path, result: ValidationResult, manifest: Manifest, statistics: pd.DataFrame) -> None:
    """Write the manifest and the statistics of the pairs that are not quarantined."""
    passed = ~result.table["key"].isin(result.quarantined["key"])
    write_manifest(folder, replace(manifest, rows=manifest.rows[passed.to_numpy()].reset_index(drop=True)))
    write_statistics(folder, statistics[passed])


def _log_result(result: ValidationResult, out: Path) -> None:
    pairs, bad = len(result.table), result.quarantined
    line = f"validate: {pairs - len(bad)} of {pairs} pairs are whole"
    if len(bad):
        line += f", {len(bad)} quarantined, see {out}/{QUARANTINE} and {QUARANTINE_SHEET}"
    log(line)
    for reasons in bad["reasons"][:LOGGED_PAIRS]:
        log(f"  {reasons}")
    for outcome in result.outcomes:
        if outcome.rule.severity == "warn" and not outcome.success:
            count = len(outcome.failing)
            more = f"; and {count - 1} more, see {out}/{PAGE}" if count > 1 else ""
            log(f"  warning: {outcome.rule.slug}: {result.messages[outcome.rule.slug][0]}{more}")
