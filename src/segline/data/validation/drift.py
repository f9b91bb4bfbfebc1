"""Drift: how far the statistics of a data set have moved from those of a reference data set."""

import json

import numpy as np
import pandas as pd
from numpy.typing import NDArray

COLUMNS = ["statistic", "psi", "before", "now"]
BINS = 10
FEWEST = 100
"""The number of pairs that each side needs. With fewer, chance alone exceeds the usual threshold of 0.2 too often (with
100, for one statistic in 60)."""
STATISTICS = ["height", "width", "brightness", "contrast", "sharpness", "foreground_share"]


def compare(reference: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the drift of every statistic that both tables have, with the means of both, in ``COLUMNS``.

    Args:
        reference: The statistics of intact pairs, as in :mod:`segline.data.statistics`.
        table: The statistics to compare. Classes are matched by name.

    Returns:
        One row per statistic; no row when either side has fewer than ``FEWEST`` pairs.
    """
    before, now = observed(reference), observed(table)
    rows = []
    if min(len(before), len(now)) >= FEWEST:
        for name in now.columns.intersection(before.columns, sort=False):
            old, new = (side[name].dropna().to_numpy() for side in (before, now))
            if len(old) and len(new):
                rows.append((name, stability_index(old, new), old.mean(), new.mean()))
    return pd.DataFrame(rows, columns=COLUMNS)


def observed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics that may drift, as floats: ``STATISTICS``, and each class's share of labelled pixels."""
    plain = table[STATISTICS].astype(float)
    if table.empty:
        return plain
    names = [f"share of {name}" for name in json.loads(table["classes"].iloc[0])]
    pixels = pd.DataFrame(table["class_pixels"].to_list(), columns=names, index=table.index)
    return plain.join(pixels.div(table["labelled_pixels"].astype(float), axis=0))


def stability_index(reference: NDArray[np.floating], values: NDArray[np.floating]) -> float:
    """Return the population stability index ``sum_b (q_b - p_b) ln(q_b / p_b)``, corrected for chance.

    The bins are bounded by the reference's deciles; a value on which several deciles fall has a bin of its own, so that
    constant and mostly zero statistics are distinguished from any other value. ``B`` of the bins are not empty.
    ``p_b = (n_b + 1/2) / (n + B/2)`` is the reference's share of a bin, and ``q_b`` the share of the ``m`` values; the
    half keeps empty bins finite. Without any drift the sum is ``(B - 1) (1/n + 1/m)`` on average; this is subtracted,
    and the result is at least 0. The usual reading is: below 0.1 no drift, from 0.1 moderate drift, from 0.2 large
    drift.

    Source: Siddiqi, "Credit Risk Scorecards", 2006; for the correction, Yurdakul, "Statistical Properties of
    Population Stability Index", 2018.
    """
    edges = _edges(reference)
    before, now = (
        np.bincount(np.searchsorted(edges, side, "right"), minlength=len(edges) + 1) for side in (reference, values)
    )
    filled = (before + now) > 0
    p, q = (_shares(counts[filled]) for counts in (before, now))
    chance = (filled.sum() - 1) * (1 / len(reference) + 1 / len(values))
    return max(0.0, float(((q - p) * np.log(q / p)).sum() - chance))


def _edges(reference: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the deciles; a repeated one is followed by another edge, so that it is alone in its bin."""
    deciles = np.quantile(reference, np.arange(1, BINS) / BINS, method="inverted_cdf")
    values, times = np.unique(deciles, return_counts=True)
    return np.sort(np.concatenate([values, np.nextafter(values[times > 1], np.inf)]))


def _shares(counts: NDArray[np.integer]) -> NDArray[np.floating]:
    return np.asarray((counts + 0.5) / (counts.sum() + len(counts) / 2))
