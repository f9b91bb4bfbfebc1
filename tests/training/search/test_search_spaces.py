"""Values that are drawn from a space, and values near another one."""

import math

import pytest

from segline.config.spaces import Space
from segline.training.search.spaces import latin_hypercube, perturb, sample


def test_a_list_gives_each_of_its_values_as_often():
    space = Space(values=(1e-4, 1.0, 3.0))
    assert [sample(space, ninth / 9) for ninth in range(9)] == [1e-4] * 3 + [1.0] * 3 + [3.0] * 3


def test_a_range_is_even_in_its_values_or_in_their_logarithm():
    assert [sample(Space(low=2.0, high=6.0), fraction) for fraction in (0, 0.25, 0.5)] == [2, 3, 4]
    log = Space(low=1e-4, high=1e-2, log=True)
    assert [math.log10(sample(log, fraction)) for fraction in (0, 0.25, 0.5)] == pytest.approx([-4, -3.5, -3])


def test_a_range_of_whole_numbers_gives_whole_numbers():
    space = Space(low=2.0, high=9.0, whole=True)
    assert [sample(space, quarter / 4) for quarter in range(4)] == [2, 4, 6, 7]
    assert all(type(sample(space, fiftieth / 50)) is int for fiftieth in range(50))


def test_near_a_value_is_the_next_of_a_list_or_a_fifth_more_or_less_within_the_range():
    listed = Space(values=(1, 2, 4))
    assert [perturb(listed, 2, above=above) for above in (True, False)] == [4, 1]
    assert [perturb(listed, 4, above=True), perturb(listed, 1, above=False)] == [4, 1]
    ranged = Space(low=1.0, high=10.0, log=True)
    assert [perturb(ranged, 5.0, above=above) for above in (True, False)] == pytest.approx([6.0, 4.0])
    assert [perturb(ranged, 9.0, above=True), perturb(ranged, 1.1, above=False)] == [10.0, 1.0]
    whole = Space(low=1.0, high=10.0, whole=True)
    assert [perturb(whole, value, above=True) for value in (1, 2, 6, 10)] == [2, 3, 7, 10]
    assert [perturb(whole, value, above=False) for value in (1, 2, 6, 10)] == [1, 1, 5, 8]


def test_a_latin_hypercube_has_a_point_in_each_part():
    for count in (1, 4, 9):
        points = latin_hypercube("7/learning_rate", count)
        assert sorted(int(point * count) for point in points) == list(range(count))
        assert latin_hypercube("7/learning_rate", count) == points
