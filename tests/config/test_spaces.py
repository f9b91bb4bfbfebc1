"""The space of a hyperparameter is read from a list or a range."""

from typing import Annotated, Literal

import pytest

from segline.config.fields import Range
from segline.config.spaces import Space, parse_space

RATE = Annotated[float, Range(1e-8, 10)]
COUNT = Annotated[int, Range(1, 64)]


def parse(value, annotation=RATE):
    errors = []
    return parse_space(value, annotation, "key", errors), errors


def test_a_list_is_read_with_the_type_of_the_hyperparameter():
    space, errors = parse([1e-4, 1, 3.0])
    assert errors == []
    assert space == Space(values=(1e-4, 1.0, 3.0))
    assert all(isinstance(value, float) for value in space.values)


def test_a_range_is_read_with_its_logarithm_and_whole_numbers():
    assert parse({"low": 1, "high": 10})[0] == Space(low=1.0, high=10.0)
    assert parse({"low": 1e-4, "high": 1e-2, "log": True})[0] == Space(low=1e-4, high=1e-2, log=True)
    assert parse({"low": 2, "high": 9}, COUNT)[0] == Space(low=2.0, high=9.0, whole=True)


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
