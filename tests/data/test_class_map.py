"""Merged classes are held against a look at every raw value."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.class_map import merge, merge_counts
from segline.data.layouts import LAYOUTS, UNKNOWN
from segline.errors import DataError

WAD = LAYOUTS["wad"]().label_spec("")
WANTED = {"person": ["person"], "wheels": ["car", "bicycle"], "rest": ["background", "bus"]}


def test_every_raw_value_goes_where_its_class_goes():
    merged = merge(WAD, WANTED, "here")
    assert merged.names == ("person", "wheels", "rest")
    assert merged.background == 2
    of = {name: number for number, names in enumerate(WANTED.values()) for name in names}
    for raw in range(65536):
        before = int(WAD.lut[raw])
        expected = before if before == UNKNOWN else of.get(WAD.names[before], IGNORED)
        assert merged.lut[raw] == expected


def test_without_the_background_there_is_none():
    assert merge(WAD, {"person": ["person"]}, "here").background is None


def test_no_map_keeps_the_label_spec():
    assert merge(WAD, {}, "here") is WAD


def test_counts_add_up_by_class():
    pixels = np.random.default_rng(0).integers(0, 99, (5, len(WAD.classes)))
    sums = merge_counts(pixels, WAD, merge(WAD, WANTED, "here"))
    for number, names in enumerate(WANTED.values()):
        expected = sum(pixels[:, WAD.names.index(name)] for name in names)
        np.testing.assert_array_equal(sums[:, number], expected)
    np.testing.assert_array_equal(merge_counts(pixels, WAD, WAD), pixels)


def test_an_unknown_class_is_one_line():
    with pytest.raises(DataError, match=r"^here: unknown class 'tram'; the data have background, car, ") as caught:
        merge(WAD, {"vehicle": ["car", "tram"]}, "here")
    assert "\n" not in str(caught.value)
