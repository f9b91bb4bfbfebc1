"""The population stability index beside a plain loop and a closed form."""

import bisect
import itertools
import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from segline.data.validation.drift import COLUMNS, FEWEST, STATISTICS, compare, observed, stability_index


def plain_index(reference, values):
    """The docstring's formula, value by value."""
    ordered = sorted(reference)
    deciles = [ordered[math.ceil(tenth * len(ordered) / 10) - 1] for tenth in range(1, 10)]
    bins = {}
    for side, numbers in enumerate((reference, values)):
        for number in numbers:
            # Between two deciles, or alone on one that several deciles share.
            label = (bisect.bisect_right(sorted(set(deciles)), number), deciles.count(number) > 1)
            bins.setdefault(label, [0, 0])[side] += 1
    n, m, count = len(reference), len(values), len(bins)
    index = 0.0
    for old, new in bins.values():
        p, q = (old + 0.5) / (n + count / 2), (new + 0.5) / (m + count / 2)
        index += (q - p) * math.log(q / p)
    return max(0.0, index - (count - 1) * (1 / n + 1 / m))


SAMPLES = {
    "continuous": (lambda rng: rng.normal(size=300), lambda rng: rng.normal(0.7, 1.5, size=211)),
    "half zeros": (
        lambda rng: rng.exponential(size=200) * rng.integers(0, 2, 200),
        lambda rng: rng.exponential(size=150),
    ),
    "few values": (
        lambda rng: rng.integers(0, 4, 200).astype(float),
        lambda rng: rng.integers(1, 6, 300).astype(float),
    ),
    "constant": (lambda rng: np.full(200, 3.0), lambda rng: rng.integers(2, 5, 120).astype(float)),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_it_is_the_formula(kind):
    rng = np.random.default_rng(0)
    reference, values = (draw(rng) for draw in SAMPLES[kind])
    assert stability_index(reference, values) == pytest.approx(plain_index(list(reference), list(values)))
    assert stability_index(reference, values) > 0.05


def test_many_samples_come_to_what_the_densities_say():
    """Two normal densities of distance 0.5: the sum over deciles in closed form."""
    normal, shifted = statistics.NormalDist(), statistics.NormalDist(0.5)
    edges = [-math.inf, *(normal.inv_cdf(tenth / 10) for tenth in range(1, 10)), math.inf]
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        q = shifted.cdf(high) - shifted.cdf(low)
        expected += (q - 0.1) * math.log(q / 0.1)
    rng = np.random.default_rng(1)
    found = stability_index(rng.normal(size=400_000), rng.normal(0.5, size=400_000))
    assert found == pytest.approx(expected, rel=0.02)


def test_chance_is_taken_off():
    """On average nothing is left but what the cut at zero leaves, at any number of samples."""
    rng = np.random.default_rng(2)
    found = [stability_index(rng.normal(size=FEWEST), rng.normal(size=FEWEST)) for _ in range(300)]
    assert np.mean(found) < 0.04
    assert np.mean(np.array(found) > 0.2) < 0.04


@pytest.mark.parametrize("moved", [2.0, 2.999, 3.001, 4.0])
def test_a_constant_that_moves_is_a_large_drift(moved):
    constant = np.full(200, 3.0)
    assert stability_index(constant, constant) == 0
    assert stability_index(constant, np.full(200, moved)) > 5


def test_the_order_of_the_samples_does_not_matter():
    rng = np.random.default_rng(3)
    reference, values = rng.normal(size=200), rng.normal(1, size=200)
    assert stability_index(rng.permutation(reference), rng.permutation(values)) == stability_index(reference, values)


def table_of(count, classes=("road", "car"), **changed):
    rng = np.random.default_rng(count)
    pixels = rng.integers(1, 1000, (count, len(classes)))
    table = pd.DataFrame({name: pd.array(rng.normal(100, 10, count), "Float64") for name in STATISTICS} | changed)
    table["labelled_pixels"] = pd.array(pixels.sum(1), "Int64")
    table["classes"] = json.dumps(classes)
    table["class_pixels"] = pixels.tolist()
    return table


def test_every_statistic_is_compared_and_classes_by_their_name():
    found = compare(table_of(200, ("road", "car", "bus")), table_of(300, ("car", "road"), brightness=40.0))
    assert list(found) == COLUMNS
    assert list(found["statistic"]) == [*STATISTICS, "share of car", "share of road"]
    by_name = found.set_index("statistic")
    assert by_name.loc["brightness", "psi"] > 5 > by_name.loc["contrast", "psi"]
    assert by_name.loc["brightness", "now"] == 40
    cars = [row[1] / sum(row) for row in table_of(200, ("road", "car", "bus"))["class_pixels"]]
    assert by_name.loc["share of car", "before"] == pytest.approx(np.mean(cars))


@pytest.mark.parametrize(("before", "now"), [(FEWEST - 1, 200), (200, FEWEST - 1), (0, 200), (200, 0)])
def test_few_pairs_are_not_compared(before, now):
    assert compare(table_of(before), table_of(now)).empty


def test_what_is_missing_is_left_out():
    table = table_of(150)
    table.loc[:20, "sharpness"] = pd.NA
    table.loc[100, "labelled_pixels"], table.at[100, "class_pixels"] = 0, [0, 0]
    assert observed(table)[["sharpness", "share of car"]].notna().sum().to_list() == [129, 149]
    assert (compare(table_of(200), table)["psi"] < 0.2).all()
