"""The learning rate of each step, written out."""

import math

import pytest

from segline.config.sections import Train
from segline.training.schedules import learning_rate


def rates(steps, **settings):
    return [learning_rate(Train(learning_rate=0.02, **settings), step, steps) for step in range(steps)]


def test_it_rises_linearly_then_falls_by_a_half_cosine():
    expected = [0.01, 0.02, *(0.01 * (1 + math.cos(math.pi * done / 8)) for done in range(8))]
    assert rates(10, warmup_fraction=0.2) == pytest.approx(expected)


def test_poly_is_deeplabs():
    assert rates(5, warmup_fraction=0.0, schedule="poly") == pytest.approx(
        [0.02, *(0.02 * (1 - n / 4) ** 0.9 for n in range(4))]
    )


def test_constant_stays():
    assert rates(4, warmup_fraction=0.5, schedule="constant") == pytest.approx([0.01, 0.02, 0.02, 0.02])


def test_it_follows_the_time_where_that_is_ahead():
    settings = Train(learning_rate=1.0, warmup_fraction=0.0)
    assert learning_rate(settings, 10, 101, time_fraction=0.5) == pytest.approx(0.5)
    assert learning_rate(settings, 60, 101, time_fraction=0.5) < 0.5
    assert learning_rate(settings, 10, 101, time_fraction=3.0) == pytest.approx(0.0)


def test_time_that_runs_out_shortens_the_rise_as_well():
    settings = Train(learning_rate=1.0, warmup_fraction=0.2, schedule="cosine")
    shares = [
        learning_rate(settings, 0, 10**9, time_fraction=time_fraction) for time_fraction in (0.05, 0.1, 0.2, 0.6, 1.0)
    ]
    assert shares == pytest.approx([0.25, 0.5, 1.0, 0.5, 0.0], abs=1e-6)
    assert learning_rate(settings, 150, 1000, time_fraction=0.1) == pytest.approx(151 / 200)
