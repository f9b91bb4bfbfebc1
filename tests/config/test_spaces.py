"""What a hyperparameter is drawn from."""

import math
from typing import Annotated, Literal

import pytest

from segline.config.fields import Range
from segline.config.spaces import Space, parse_space

RATE = Annotated[float, Range(1e-8, 10)]
COUNT = Annotated[int, Range(1, 64)]


def parse(value, annotation=RATE):
    errors = []
    return parse_space(value, annotation, "key", errors), errors


def test_a_list_gives_each_of_its_values_as_often():
    space, errors = parse([1e-4, 1, 3.0])
    assert errors == []
    assert [space.at(share / 9) for share in range(9)] == [1e-4] * 3 + [1.0] * 3 + [3.0] * 3
    assert all(isinstance(value, float) for value in space.values)


def test_a_range_is_even_in_its_values_or_in_their_logarithm():
    even, _ = parse({"low": 2, "high": 6})
    assert [even.at(share) for share in (0, 0.25, 0.5)] == [2, 3, 4]
    log, _ = parse({"low": 1e-4, "high": 1e-2, "log": True})
    assert [math.log10(log.at(share)) for share in (0, 0.25, 0.5)] == pytest.approx([-4, -3.5, -3])


def test_a_range_of_whole_numbers_gives_whole_numbers():
    space, _ = parse({"low": 2, "high": 9}, COUNT)
    assert [space.at(share / 4) for share in range(4)] == [2, 4, 6, 7]
    assert all(type(space.at(share / 50)) is int for share in range(50))
    assert parse({"low": 1, "high": 10})[0] == Space(low=1.0, high=10.0)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ([], RATE, "key: got [], expected a list of values, or low, high and perhaps log: true"),
        (0.1, RATE, "key: got 0.1, expected a list"),
        ({"low": 1}, RATE, "key: got {'low': 1}, expected a list"),
        ({"low": 1, "high": 2, "step": 1}, RATE, "expected a list"),
        ([0.1, 20], RATE, "key[1]: got 20, expected a number 1e-08 to 10"),
        ({"low": 2, "high": 1}, RATE, "expected low below high"),
        ({"low": 1, "high": 2, "log": 1}, RATE, "expected low below high, and above 0 where log is true"),
        ({"low": 0.5, "high": 2}, COUNT, "key.low: got 0.5, expected a whole number 1 to 64"),
    ],
)
def test_an_error_is_one_line(value, annotation, expected):
    [line] = parse(value, annotation)[1]
    assert expected in line


def test_listed_values_have_no_range():
    assert parse({"low": 8, "high": 16}, Annotated[Literal[8, 16], "stride"])[1] == [
        "key: got a range, expected a list of values"
    ]


def test_a_switch_has_no_range():
    assert "expected true or false" in parse({"low": 0, "high": 1}, bool)[1][0]


def test_near_a_value_is_the_next_of_a_list_or_a_fifth_more_or_less_within_the_range():
    listed = Space(values=(1, 2, 4))
    assert [listed.near(2, above=above) for above in (True, False)] == [4, 1]
    assert [listed.near(4, above=True), listed.near(1, above=False)] == [4, 1]
    ranged = Space(low=1.0, high=10.0, log=True)
    assert [ranged.near(5.0, above=above) for above in (True, False)] == pytest.approx([6.0, 4.0])
    assert [ranged.near(9.0, above=True), ranged.near(1.1, above=False)] == [10.0, 1.0]
    whole = Space(low=1.0, high=10.0, whole=True)
    assert [whole.near(value, above=True) for value in (1, 2, 6, 10)] == [2, 3, 7, 10]
    assert [whole.near(value, above=False) for value in (1, 2, 6, 10)] == [1, 1, 5, 8]
