"""Values are checked one by one; what fits and what the message says was worked out by hand."""

import math
from typing import Annotated, Literal

import pytest

from segline.config.fields import Pattern, Range, Unit, as_declared, describe, find_error, suggestion

WHOLE = Annotated[int, Range(1, 8), Unit("px"), "side"]
SHARE = Annotated[float, Range(0, 1), "share"]
POSITIVE = Annotated[float, Range(0), "weight"]
KIND = Annotated[Literal["bf16", "fp32"], "precision"]
CODE = Annotated[str, Pattern("|[a-f]{2}", "two letters from a to f, or nothing"), "code"]
MAP = dict[str, dict[str, list[str]]]


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, WHOLE),
        (8, WHOLE),
        (0, SHARE),
        (1, SHARE),
        (0.5, SHARE),
        (1e300, POSITIVE),
        ("", str),
        (False, bool),
        ("fp32", KIND),
        ("", CODE),
        ("af", CODE),
        ({}, MAP),
        ({"a": {"b": ["c"], "d": []}, "e": {}}, MAP),
        ([1, 2], list[int]),
    ],
)
def test_a_value_of_the_declared_kind_fits(value, annotation):
    assert find_error(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (0, WHOLE, "got 0, expected a whole number 1 to 8"),
        (9, WHOLE, "got 9, expected a whole number 1 to 8"),
        (True, WHOLE, "got True, expected a whole number 1 to 8"),
        (2.0, WHOLE, "got 2.0, expected a whole number 1 to 8"),
        ("2", WHOLE, "got '2', expected a whole number 1 to 8"),
        (None, WHOLE, "got None, expected a whole number 1 to 8"),
        (-0.001, SHARE, "got -0.001, expected a number 0 to 1"),
        (2, SHARE, "got 2, expected a number 0 to 1"),
        (True, SHARE, "got True, expected a number 0 to 1"),
        (math.nan, SHARE, "got nan, expected a number 0 to 1"),
        (-1.0, POSITIVE, "got -1.0, expected a number at least 0"),
        (1, bool, "got 1, expected true or false"),
        (1, str, "got 1, expected text"),
        ("fp16", KIND, "got 'fp16', expected one of bf16, fp32"),
        ([], KIND, "got [], expected one of bf16, fp32"),
        ("a", CODE, "got 'a', expected two letters from a to f, or nothing"),
        ("af\n", CODE, "got 'af\\n', expected two letters from a to f, or nothing"),
        (1, CODE, "got 1, expected two letters from a to f, or nothing"),
        ([], MAP, "got [], expected a mapping of layouts to mappings of classes"),
        ({"a": "b"}, MAP, "got {'a': 'b'}, expected a mapping of layouts to mappings of classes"),
        ({"a": {"b": [1]}}, MAP, "got {'a': {'b': [1]}}, expected a mapping of layouts to mappings of classes"),
        ({1: {}}, MAP, "got {1: {}}, expected a mapping of layouts to mappings of classes"),
    ],
)
def test_an_error_says_what_was_got_and_what_was_expected(value, annotation, message):
    assert find_error(value, annotation) == message


def test_infinity_is_no_number_of_a_parameter():
    assert find_error(math.inf, POSITIVE) is not None


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (Range(0, 0.9), "0 to 0.9"),
        (Range(1), "at least 1"),
        (Range(1e-8, 10), "1e-08 to 10"),
        (Range(100, 1_000_000), "100 to 1000000"),
        (Range(0, 2**32 - 1), "0 to 4294967295"),
    ],
)
def test_a_range_shows_its_bounds_as_they_are(bounds, text):
    assert str(bounds) == text


def test_a_whole_number_becomes_a_float_where_one_is_declared():
    assert isinstance(as_declared(1, SHARE), float)
    assert as_declared(3, WHOLE) == 3
    assert isinstance(as_declared(3, WHOLE), int)
    assert as_declared(True, SHARE) is True
    assert as_declared("1", SHARE) == "1"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("unt", "; did you mean 'unet'?"),
        ("zzz", "; known are dice, unet"),
        (7, "; known are dice, unet"),
    ],
)
def test_a_near_miss_is_suggested_and_otherwise_all_are_listed(word, text):
    assert suggestion(word, {"unet", "dice"}) == text


def test_where_nothing_is_known_it_says_so():
    assert suggestion("width", []) == "; it has no options"


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (WHOLE, ("px", "a whole number 1 to 8", "side")),
        (POSITIVE, ("", "a number at least 0", "weight")),
        (KIND, ("", "one of bf16, fp32", "precision")),
        (MAP, ("", "a mapping of layouts to mappings of classes", "")),
        (bool, ("", "true or false", "")),
    ],
)
def test_a_field_is_described_by_unit_range_and_meaning(annotation, shown):
    assert describe(annotation) == shown
