"""Distance maps are compared with the distances between all pairs of pixels, and with scenes drawn by hand."""

import math

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.distances import DISTANCES, FAR, Truth, channels
from segline.data.layouts import LAYOUTS

CLASSES = 6
SHAPES = [(1, 1), (1, 9), (7, 1), (2, 2), (9, 13)]


def scene(shape, patch, ids, seed):
    """Patches of random classes, and raw values: class x 10 + one of two instances."""
    rng = np.random.default_rng([*shape, patch, seed])

    def patches(values):
        drawn = np.kron(rng.choice(np.array(values, np.uint16), shape), np.ones((patch, patch), np.uint16))
        return drawn[: shape[0], : shape[1]]

    labels = patches(ids)
    return labels.astype(np.uint8), (labels * 10 + patches([0, 1])).astype(np.uint16)


def truth(labels, raw=None, classes=CLASSES, background=0):
    labels = np.asarray(labels, np.uint8)
    return Truth(labels, labels.astype(np.uint16) if raw is None else np.asarray(raw), classes, background)


def places(mask):
    return list(zip(*np.nonzero(mask), strict=True))


def nearest(pixel, others):
    return min((math.dist(pixel, other) for other in others), default=math.inf)


def slow_border(given):
    known = given.labels != IGNORED
    found = np.zeros((1, *given.labels.shape))
    for pixel in places(known):
        found[0][pixel] = nearest(pixel, places(known & (given.labels != given.labels[pixel]))) - 0.5
    return np.minimum(found, FAR)


def slow_signed(given):
    known = given.labels != IGNORED
    found = np.zeros((given.classes, *given.labels.shape))
    for class_id in range(given.classes):
        inside, outside = places(given.labels == class_id), places(known & (given.labels != class_id))
        for pixel in inside if outside else ():
            found[class_id][pixel] = 0.5 - nearest(pixel, outside)
        for pixel in outside if inside else ():
            found[class_id][pixel] = nearest(pixel, inside) - 0.5
    return found


def flooded(given):
    """The instances as lists of pixels, each flooded from one of its pixels."""
    left = {
        pixel: int(given.raw[pixel])
        for pixel in places(given.labels != IGNORED)
        if given.labels[pixel] != given.background
    }
    instances = []
    while left:
        start, value = next(iter(left.items()))
        edge, instance = [start], []
        while edge:
            pixel = edge.pop()
            if left.get(pixel) == value:
                del left[pixel]
                instance.append(pixel)
                edge += [(pixel[0] + down, pixel[1] + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        instances.append(instance)
    return instances


def slow_touching(given):
    instances = flooded(given)
    found = np.full((1, *given.labels.shape), FAR)
    for pixel in np.ndindex(*given.labels.shape) if len(instances) > 1 else ():
        gaps = sorted(0 if pixel in instance else nearest(pixel, instance) - 0.5 for instance in instances)
        found[0][pixel] = gaps[0] + gaps[1]
    return found


SLOW = {"border": slow_border, "signed": slow_signed, "touching": slow_touching}


def check(name, given):
    found = DISTANCES[name](given)
    assert found.dtype == np.float16
    assert found.shape == (channels(name, given.classes), *given.labels.shape)
    known = given.labels != IGNORED
    expected = SLOW[name](given)
    # Rounding to float16 is off by half a step, 2 ** -11 of the value.
    np.testing.assert_allclose(found[:, known].astype(float), expected[:, known], rtol=2**-11, atol=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("patch", "ids"), [(1, [0, 1, 2, 5, IGNORED]), (3, [0, 1, 2, 5, IGNORED]), (3, [0, 0, 0, 4])])
@pytest.mark.parametrize("background", [0, None])
def test_maps_are_those_of_all_pairs_of_pixels(name, shape, patch, ids, background):
    for seed in range(3):
        labels, raw = scene(shape, patch, ids, seed)
        check(name, truth(labels, raw, background=background))


@pytest.mark.parametrize("name", DISTANCES)
def test_sparse_objects_are_far_from_one_another(name):
    rng = np.random.default_rng(4)
    labels = np.where(rng.random((24, 31)) < 0.02, rng.integers(1, CLASSES, (24, 31)), 0)
    labels[rng.random(labels.shape) < 0.1] = IGNORED
    check(name, truth(labels, labels * 1000))


@pytest.mark.parametrize("value", [0, 3, IGNORED])
def test_a_single_class_has_no_contour(value):
    given = truth(np.full((3, 4), value))
    if value != IGNORED:
        assert (DISTANCES["border"](given) == FAR).all()
    assert (DISTANCES["touching"](given) == FAR).all()
    assert not DISTANCES["signed"](given).any()


def test_distances_at_a_straight_contour_are_halves():
    given = truth([[0, 0, 0, 1, 1]])
    assert DISTANCES["border"](given).tolist() == [[[2.5, 1.5, 0.5, 0.5, 1.5]]]
    signed = DISTANCES["signed"](given)
    assert signed[0].tolist() == [[-2.5, -1.5, -0.5, 0.5, 1.5]]
    assert signed[1].tolist() == [[2.5, 1.5, 0.5, -0.5, -1.5]]
    assert not signed[2:].any()


def test_what_is_ignored_makes_no_contour_and_is_passed_over():
    given = truth([[0, 0, IGNORED, IGNORED, 0, 1]])
    border = DISTANCES["border"](given)[0, 0]
    assert border[[0, 1, 4, 5]].tolist() == [4.5, 3.5, 0.5, 0.5]


def test_between_two_instances_the_gap_counts_and_inside_one_the_way_to_the_next():
    given = truth([[1, 1, 0, 0, 1, 0, 0, 0]])
    assert DISTANCES["touching"](given).tolist() == [[[3.5, 2.5, 2, 2, 2.5, 4, 6, 8]]]


def test_raw_values_tell_instances_apart_that_touch():
    labels = [[1, 1, 1, 0, 0]]
    assert (DISTANCES["touching"](truth(labels)) == FAR).all()
    assert DISTANCES["touching"](truth(labels, [[33_001, 33_001, 33_002, 0, 0]])).tolist() == [[[1.5, 0.5, 0.5, 2, 4]]]


def test_instances_join_over_corners_and_not_over_gaps():
    cross = truth([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert (DISTANCES["touching"](cross) == FAR).all()
    assert DISTANCES["touching"](truth([[1, 0, 1]])).tolist() == [[[1.5, 1, 1.5]]]


def test_distances_are_cut_off_where_they_may_be_and_signed_ones_are_not():
    labels = np.zeros((1, 3000))
    labels[0, 0] = 1
    labels[0, 2] = 2
    given = truth(labels)
    assert DISTANCES["border"](given).max() == FAR
    assert DISTANCES["touching"](given).max() == FAR
    assert DISTANCES["signed"](given).max() == pytest.approx(2998.5, rel=2**-11)


def test_a_float16_holds_the_value_for_nothing():
    assert float(np.float16(FAR)) == FAR


def test_the_layout_of_instances_keeps_them_in_its_raw_values():
    """WAD's raw value is class x 1000 + instance; the class map makes them one class."""
    label_spec = LAYOUTS["wad"]().label_spec("")
    raw = np.array([[33_001, 33_002, 0]], np.uint16)
    labels = label_spec.lut[raw]
    assert labels.tolist() == [[1, 1, 0]]
    given = Truth(labels, raw, len(label_spec.classes), label_spec.background)
    assert DISTANCES["touching"](given).tolist() == [[[0.5, 0.5, 2]]]
