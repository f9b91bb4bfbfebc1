"""Optuna's draws: on a function whose best is known, they come closer to it than chance does."""

import math
from random import Random

import pytest

from segline.config.spaces import Space
from segline.training.search.optuna import propose
from segline.training.search.spaces import sample

SPACES = {
    "learning_rate": Space(low=1e-4, high=1e-1, log=True),
    "augment.flip": Space(values=(0.0, 0.5, 1.0)),
    "batch_size": Space(low=2, high=32, whole=True),
}


def score(drawn):
    """Zero at its best, below elsewhere."""
    return (
        -abs(math.log10(drawn["learning_rate"]) + 2.3)
        - abs(drawn["augment.flip"] - 0.5)
        - abs(drawn["batch_size"] - 20) / 30
    )


def by_chance(count, seed):
    random = Random(seed)
    drawn = [{key: sample(space, random.random()) for key, space in SPACES.items()} for _ in range(count)]
    return [(values, score(values)) for values in drawn]


def test_they_come_closer_to_the_best_than_chance():
    gained = []
    for seed in range(10):
        results = by_chance(8, seed)
        for batch in range(4):
            results += [(drawn, score(drawn)) for drawn in propose(SPACES, results, f"{seed}/{batch}", 4)]
        gained.append(max(value for _, value in results) - max(value for _, value in by_chance(24, seed)))
    assert sum(gained) / len(gained) > 0.1


def test_the_same_seed_proposes_the_same_and_all_lie_in_their_spaces():
    results = by_chance(8, 1)
    proposed = propose(SPACES, results, "a", 6)
    assert propose(SPACES, results, "a", 6) == proposed
    assert propose(SPACES, results, "b", 6) != proposed
    for drawn in proposed:
        assert list(drawn) == list(SPACES)
        assert 1e-4 <= drawn["learning_rate"] <= 1e-1
        assert drawn["augment.flip"] in (0.0, 0.5, 1.0)
        assert drawn["batch_size"] in range(2, 33)
    assert len({drawn["learning_rate"] for drawn in proposed}) == 6


@pytest.mark.parametrize("values", [(True, False), ("cosine", "poly"), (8, 16)])
def test_nothing_is_proposed_twice(values):
    first, other = ({"key": value} for value in values)
    assert propose({"key": Space(values=values)}, [(first, 0.1)], "a", 3) == [other]
    assert propose({"key": Space(values=values)}, [(first, 0.1), (other, 0.9)], "a", 1) == []
