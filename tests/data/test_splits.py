"""Splits are held against what must be true of any of them, for random groups."""

from itertools import chain

import numpy as np
import pandas as pd
import pytest

from segline.data.splits import SPLITS, assign
from segline.errors import DataError

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def rows_of(groups, split=""):
    return pd.DataFrame({"group": list(groups), "split": split}).astype("str")


def random_groups(seed):
    """Between 3 and 30 groups of 1 to 12 rows, mixed."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, rng.integers(3, 30))
    return rng.permutation(np.repeat([f"drive{number}" for number in range(len(sizes))], sizes))


CASES = pytest.mark.parametrize(
    ("seed", "shares"),
    [
        (seed, shares)
        for seed in range(12)
        for shares in (
            SHARES,
            {"train": 0.5, "val": 0.25, "test": 0.25},
            {"train": 0.9, "val": 0.1, "test": 0.0},
            {"train": 1.0, "val": 0.0, "test": 0.0},
            {"train": 0.98, "val": 0.01, "test": 0.01},
        )
    ],
)


@CASES
def test_every_row_is_in_one_split_and_no_group_on_two_sides(seed, shares):
    groups = random_groups(seed)
    splits = assign(rows_of(groups), shares, seed)
    assert list(splits) == list(SPLITS)
    assert sorted(chain(*splits.values())) == list(range(len(groups)))
    sides = [set(groups[positions]) for positions in splits.values()]
    assert sum(map(len, sides)) == len(set(groups))
    assert all(positions == sorted(positions) for positions in splits.values())


@CASES
def test_every_split_with_a_share_has_rows_and_no_other(seed, shares):
    splits = assign(rows_of(random_groups(seed)), shares, seed)
    assert {name: bool(positions) for name, positions in splits.items()} == {
        name: share > 0 for name, share in shares.items()
    }


@CASES
def test_no_split_has_a_whole_group_too_many(seed, shares):
    """What is dealt to the split that lacks most overshoots by less than one group."""
    groups = random_groups(seed)
    largest = pd.Series(groups).value_counts().max()
    for name, positions in assign(rows_of(groups), shares, seed).items():
        surplus = len(positions) - shares[name] * len(groups)
        assert surplus < largest
        assert surplus > -2 * largest


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_met_where_the_groups_allow(seed):
    splits = assign(rows_of(f"drive{number}" for number in range(100)), SHARES, seed)
    assert {name: len(positions) for name, positions in splits.items()} == {"train": 80, "val": 10, "test": 10}


def test_the_split_follows_the_seed_and_not_the_order_of_rows():
    groups = random_groups(5)
    rows, shuffled = rows_of(groups), np.random.default_rng(0).permutation(len(groups))
    first = assign(rows, SHARES, 1)
    assert assign(rows, SHARES, 1) == first
    assert any(assign(rows, SHARES, seed) != first for seed in range(2, 6))
    again = assign(rows.iloc[shuffled].reset_index(drop=True), SHARES, 1)
    for name in SPLITS:
        assert set(groups[first[name]]) == set(groups[shuffled][again[name]])


@pytest.mark.parametrize(
    ("groups", "shares"), [("aaab", SHARES), ("aaaa", {"train": 0.9, "val": 0.1, "test": 0.0}), ("", SHARES)]
)
def test_too_few_groups_are_refused_in_one_line(groups, shares):
    with pytest.raises(DataError, match="group") as caught:
        assign(rows_of(groups), shares, 0)
    assert "\n" not in str(caught.value)


def test_as_many_groups_as_splits_fill_all():
    splits = assign(rows_of("a" * 50 + "b" + "c"), SHARES, 0)
    assert sorted(map(len, splits.values())) == [1, 1, 50]


@pytest.mark.parametrize(
    ("official", "expected"),
    [
        (["train", "test", "val", "train"], {"train": [0, 3], "val": [2], "test": [1]}),
        (["train", "val", "val", "train"], {"train": [0, 3], "val": [1, 2], "test": [1, 2]}),
    ],
)
def test_the_layouts_own_split_is_kept_and_validation_is_tested_on_if_there_is_no_test(official, expected):
    assert assign(rows_of("aaaa", official), SHARES, 0) == expected


def test_a_layout_with_train_alone_is_split_by_group():
    splits = assign(rows_of("abcdefghij", "train"), SHARES, 0)
    assert [len(splits[name]) for name in SPLITS] == [8, 1, 1]
