"""The audit, compared with a flood fill that looks at every pixel, and on maps drawn by hand."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.inference.audit import find_missing_labels

LOOSE = {"min_confidence": 0.0, "min_pixels": 1, "border": 0, "max_labelled_share": 1.0}


def sure(rows, confidence=0.9, classes=3):
    """Probabilities (k, h, w) of a map drawn as rows of digits, each class at ``confidence`` in its own place."""
    ids = np.array([[int(cell) for cell in row] for row in rows])
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.arange(classes)[:, None, None] == ids, confidence, rest)


def most_probable(probabilities):
    return probabilities.argmax(0).astype(np.uint8), probabilities.max(0).astype(np.float32)


def neighbours(place, shape, distance=1):
    y, x = place
    for near in np.ndindex(2 * distance + 1, 2 * distance + 1):
        row, column = y + near[0] - distance, x + near[1] - distance
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            yield row, column


def flood(start, shape, inside):
    """The places that are reached from ``start`` over sides and corners."""
    reached, waiting = {start}, [start]
    while waiting:
        for near in neighbours(waiting.pop(), shape):
            if near not in reached and inside(near):
                reached.add(near)
                waiting.append(near)
    return reached


def look_at_every_pixel(probabilities, labels, background, min_confidence, min_pixels, border, max_labelled_share):
    predicted = probabilities.argmax(0)
    seen, actual = set(), []

    def lacks_label(place, border):
        if {predicted[start], IGNORED} & {labels[near] for near in neighbours(place, labels.shape, border)}:
            return False
        return background is None or labels[place] == background

    def same(place):
        return predicted[place] == predicted[start]

    for start in np.ndindex(predicted.shape):
        if predicted[start] == background or start in seen or not lacks_label(start, border):
            continue
        region = flood(start, predicted.shape, lambda place: same(place) and lacks_label(place, border))
        seen |= region
        whole = flood(start, predicted.shape, same)
        labelled_share = sum(not lacks_label(place, 0) for place in whole) / len(whole)
        confidence = sum(float(probabilities[predicted[start]][place]) for place in region) / len(region)
        if len(region) >= min_pixels and confidence >= min_confidence and labelled_share <= max_labelled_share:
            ys, xs = [y for y, _ in region], [x for _, x in region]
            box = (min(ys), min(xs), max(ys) - min(ys) + 1, max(xs) - min(xs) + 1)
            actual.append((int(predicted[start]), box, len(region), pytest.approx(confidence, rel=1e-5)))
    return sorted(actual, key=lambda entry: entry[0])


@pytest.mark.parametrize("background", [0, 2, None])
@pytest.mark.parametrize(
    "limits",
    [(0.0, 1, 0, 1.0), (0.55, 1, 0, 1.0), (0.0, 4, 0, 1.0), (0.0, 1, 0, 0.3), (0.0, 1, 1, 1.0), (0.5, 2, 2, 0.9)],
)
def test_the_objects_are_those_of_a_flood_fill(background, limits):
    rng = np.random.default_rng(limits[1:3])
    listed = 0
    for _ in range(10):
        logits = rng.normal(size=(4, 5, 6)).repeat(3, 1).repeat(2, 2) * 2 + rng.normal(size=(4, 15, 12))
        probabilities = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
        blocks = rng.choice([0, 1, 2, 3, IGNORED], (3, 4), p=[0.45, 0.05, 0.4, 0.05, 0.05])
        labels = blocks.repeat(5, 0).repeat(3, 1).astype(np.uint8)
        actual = find_missing_labels(
            *most_probable(probabilities), labels, background, **dict(zip(LOOSE, limits, strict=True))
        )
        expected = look_at_every_pixel(probabilities, labels, background, *limits)
        assert [(entry.class_id, entry.box, entry.pixels, entry.confidence) for entry in actual] == expected
        listed += len(actual)
    assert listed > 10


SCENE = [
    "011000000",
    "011000220",
    "000100220",
    "000000000",
    "110000000",
]


def boxes(**settings):
    labels = settings.pop("labels", np.zeros((5, 9), np.uint8))
    actual = find_missing_labels(*most_probable(sure(SCENE)), labels, settings.pop("background", 0), **LOOSE | settings)
    return [tuple(entry.box) for entry in actual]


CAR, CAR_BELOW, PERSON = (0, 1, 3, 3), (4, 0, 1, 2), (1, 6, 2, 2)


def test_corners_touch_and_background_is_no_object():
    assert boxes() == [CAR, CAR_BELOW, PERSON]


def test_small_objects_are_not_listed():
    assert boxes(min_pixels=5) == [CAR]
    assert boxes(min_pixels=6) == []


def test_an_object_needs_the_confidence_of_its_class():
    assert boxes(min_confidence=0.89) == [CAR, CAR_BELOW, PERSON]
    assert boxes(min_confidence=0.91) == []


def test_a_label_of_the_class_settles_its_surroundings_and_any_label_its_own_pixels():
    labels = np.zeros((5, 9), np.uint8)
    labels[1, 6] = 2
    assert boxes(labels=labels) == [CAR, CAR_BELOW, PERSON]
    assert boxes(labels=labels, min_pixels=4) == [CAR]
    assert boxes(labels=labels, border=1) == [CAR, CAR_BELOW]
    labels[1, 6] = 1
    assert boxes(labels=labels, border=1) == [CAR, CAR_BELOW, PERSON]
    labels[1:3, 6:8] = 1
    assert boxes(labels=labels, border=1) == [CAR, CAR_BELOW]


def test_an_unlabelled_object_that_touches_a_labelled_one_is_found_by_itself():
    labels = np.zeros((5, 9), np.uint8)
    labels[0:3, 1] = 1
    assert boxes(labels=labels) == [(0, 2, 3, 2), CAR_BELOW, PERSON]
    assert boxes(labels=labels, border=1) == [(2, 3, 1, 1), (4, 0, 1, 2), PERSON]


@pytest.mark.parametrize("value", [1, 2, IGNORED])
def test_what_is_left_of_a_labelled_object_is_not_listed(value):
    labels = np.zeros((5, 9), np.uint8)
    labels[0, 1:4] = value
    rest = [(1, 1, 2, 3), CAR_BELOW, PERSON]
    assert boxes(labels=labels) == boxes(labels=labels, max_labelled_share=0.4) == rest
    assert boxes(labels=labels, max_labelled_share=0.39) == [CAR_BELOW, PERSON]


def test_an_excluded_box_is_not_listed_again():
    labels = np.zeros((5, 9), np.uint8)
    labels[0:2, 1:3] = IGNORED
    assert boxes(labels=labels) == [(2, 3, 1, 1), CAR_BELOW, PERSON]
    assert boxes(labels=labels, border=1) == [CAR_BELOW, PERSON]


def test_without_a_background_a_region_of_any_other_class_is_listed():
    labels = np.array([[int(cell) for cell in row] for row in SCENE], np.uint8)
    assert boxes(labels=labels, background=None) == []
    labels[0:3, 1:4] = 2
    labels[4, 0:2] = 0
    assert boxes(labels=labels, background=None) == [(0, 1, 3, 3), CAR, CAR_BELOW]
    assert boxes(labels=labels, background=None, min_pixels=5) == [CAR]


def test_an_ignored_crop_and_a_crop_of_background_have_none():
    assert boxes(labels=np.full((5, 9), IGNORED, np.uint8)) == []
    assert find_missing_labels(*most_probable(sure(["000"] * 2)), np.zeros((2, 3), np.uint8), 0, **LOOSE) == []
