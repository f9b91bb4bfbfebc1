"""Great Expectations: a suite of rules over a table, and its Data Docs page. Only this module imports it.

Everything stays in memory and offline: no project folder, no telemetry, no output on the terminal. The page is rendered
by Great Expectations itself, but inside a frame of Segline, because the original frame loads styles and scripts from
seven public servers and its index is empty without them.
"""

import html
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pandas as pd

from segline.config.sections import Severity

SEVERITIES: dict[Severity, str] = {"stop": "critical", "quarantine": "warning", "warn": "info"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that a table has to satisfy.

    Attributes:
        slug: The name in parameters and records.
        name: The rule in words, as the Data Docs show it.
        expectation: The class in ``great_expectations.expectations``.
        severity: ``stop`` ends the line, ``quarantine`` leaves the row out, ``warn`` only reports it.
        options: The arguments of the expectation.
        reason: The message about a row that fails, with names of columns in braces; for a rule about the whole table,
            the message about the table.
    """

    slug: str
    name: str
    expectation: str
    severity: Severity = "stop"
    options: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of a rule.

    Attributes:
        rule: The rule.
        success: Whether it is satisfied.
        failing: The keys of the rows that fail; empty for a rule about the whole table.
    """

    rule: Rule
    success: bool
    failing: tuple[str, ...]


def check(table: pd.DataFrame, rules: Sequence[Rule], *, key: str, appendix: str = "") -> tuple[list[Outcome], str]:
    """Check a table against the rules.

    A rule for a column ignores missing values and succeeds on a table without rows, so rows and values have to be
    required by rules of their own.

    Args:
        table: The table, one row for each thing to check.
        rules: The rules, with unique slugs.
        key: The column that names a row.
        appendix: HTML for the end of the page.

    Returns:
        The outcomes in the order of the rules, and the Data Docs page, HTML that needs no other file.

    Raises:
        RuntimeError: A rule could not be evaluated, as when its column is missing.
    """
    with _quiet():
        result = _validate(table, rules, key)
        entries = {entry["expectation_config"]["meta"]["rule"]: entry for entry in result.to_json_dict()["results"]}
        return [_outcome(rule, entries[rule.slug], key) for rule in rules], _page(result, appendix)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's warnings and log, and prevent its telemetry.

    Release 1.24 has no telemetry any more; the variable is for other releases that pyproject.toml allows.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    log = logging.getLogger("great_expectations")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _validate(table: pd.DataFrame, rules: Sequence[Rule], key: str) -> Any:
    # Imported here, because it takes seconds, which a run that cannot start should not spend.
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        # The default creates a temporary folder for a site and does not delete it.
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("segline").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": _escaped(table)})
    suite = gx.ExpectationSuite(name="segline", expectations=[_expectation(rule) for rule in rules])
    return batch.validate(
        suite,
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": [key],
            "return_unexpected_index_query": False,
        },
    )


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its texts escaped for HTML, because the page shows names of files as they are."""
    shown = table.copy()
    for name in table.select_dtypes(exclude="number"):
        shown[name] = table[name].map(html.escape, na_action="ignore")
    return shown


def _expectation(rule: Rule) -> Any:
    from great_expectations import expectations

    return getattr(expectations, rule.expectation)(
        **rule.options,
        severity=SEVERITIES[rule.severity],
        description=f"{rule.severity}: {rule.name}",
        meta={"rule": rule.slug},
    )


def _outcome(rule: Rule, entry: dict[str, Any], key: str) -> Outcome:
    if not entry["result"]:
        raise RuntimeError(f"{rule.expectation} {rule.options} could not be evaluated: {entry['exception_info']}")
    rows = entry["result"].get("unexpected_index_list") or []
    return Outcome(rule, entry["success"], tuple(html.unescape(str(row[key])) for row in rows))


def _page(result: Any, appendix: str) -> str:
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    # Equal tables give equal pages: the time is removed, and ids have consecutive instead of random numbers.
    result.meta.get("batch_markers", {}).pop("ge_load_time", None)
    document = ValidationResultsPageRenderer().render(result).to_json_dict()
    view, numbers = DefaultJinjaPageView(), count(1)
    view.env.filters["generate_html_element_uuid"] = lambda prefix: f"{prefix}{next(numbers)}"
    return str(view.env.from_string(PAGE).render(document, appendix=appendix))


# Class names and ids come from the templates of Great Expectations. Hidden are links into a site of many pages, which
# is not written, and the parts that need its scripts.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="UTF-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data Docs: validation</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; }  h5 { font-size: 1.1rem; }  h5, h6 { margin: 1.5rem 0 .3rem; }
  table { border-collapse: collapse; margin: .3rem 0; }
  td, th { text-align: left; vertical-align: top; padding: .3rem .8rem; border-bottom: 1px solid #8884; }
  td:first-child:has(i) { width: 3rem; }
  .fas { font-style: normal; font-weight: bold; }
  .fa-check-circle::before { content: "\\2713"; }  .fa-times::before { content: "\\2717"; }
  .fa-exclamation-triangle::before { content: "!"; }
  .text-success { color: #00875f; }  .text-danger { color: #d04010; }
  #section-1-content-block-1, #section-1-content-block-3, [data-toggle="collapse"] { display: none; }
</style>
</head>
<body>
<h1>Validation of the pairs of image and label map</h1>
<p><b>stop</b>: the line ends here. <b>quarantine</b>: the pair is left out. <b>warn</b>: the pair is kept.</p>
{% for section in sections %}{% set section_loop = loop %}{% include "section.j2" %}{% endfor %}
{{ appendix | safe }}
<footer><p>Made by Great Expectations {{ ge_version }}.</p></footer>
</body>
</html>
"""
