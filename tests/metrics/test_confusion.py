"""The confusion matrix against a triple loop, and the region metrics against torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from segline.classes import IGNORED
from segline.metrics.confusion import confusion_matrix, dice, iou, mean_iou, pixel_accuracy, scores


def random_maps(images=4, classes=5, side=9, ignored=0.2, seed=0):
    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(0, classes, (2, images, side, side + 2), dtype=np.uint8)
    truth[generator.random(truth.shape) < ignored] = IGNORED
    return truth, predicted


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize(
    "case",
    [{}, {"images": 1}, {"classes": 1}, {"classes": 150}, {"ignored": 0}, {"ignored": 1}, {"images": 20, "side": 1}],
    ids=str,
)
def test_counts_are_those_of_a_loop(case, kind):
    truth, predicted = random_maps(**case)
    classes = case.get("classes", 5)
    expected = np.zeros((len(truth), classes, classes), int)
    for image, y, x in np.ndindex(*truth.shape):
        if truth[image, y, x] != IGNORED:
            expected[image, truth[image, y, x], predicted[image, y, x]] += 1
    actual = confusion_matrix(truth.astype(kind), predicted.astype(kind), classes)
    assert actual.dtype == np.int64
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize("ignored", [0, 0.3])
@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_are_those_of_torchmetrics(classes, ignored):
    """On data that hold every class: for an absent one torchmetrics writes 0."""
    truth, predicted = random_maps(classes=classes, ignored=ignored)
    counts = confusion_matrix(truth, predicted, classes).sum(0)

    def theirs(metric, average):
        measure = metric(classes, average=average, ignore_index=IGNORED)
        return measure(torch.from_numpy(predicted.astype(int)), torch.from_numpy(truth.astype(int))).numpy()

    np.testing.assert_allclose(iou(counts), theirs(MulticlassJaccardIndex, "none"), rtol=1e-6)
    np.testing.assert_allclose(mean_iou(counts), theirs(MulticlassJaccardIndex, "macro"), rtol=1e-6)
    np.testing.assert_allclose(dice(counts), theirs(MulticlassF1Score, "none"), rtol=1e-6)
    np.testing.assert_allclose(pixel_accuracy(counts), theirs(MulticlassAccuracy, "micro"), rtol=1e-6)


def test_an_absent_class_has_no_score_though_it_is_predicted_and_a_missed_one_zero():
    truth = np.array([[[0, 0, 0, 1, IGNORED]]])
    predicted = np.array([[[0, 0, 2, 2, 3]]])
    counts = confusion_matrix(truth, predicted, 4)[0]
    np.testing.assert_array_equal(iou(counts), [2 / 3, 0, math.nan, math.nan])
    np.testing.assert_array_equal(dice(counts), [4 / 5, 0, math.nan, math.nan])
    assert mean_iou(counts) == pytest.approx(1 / 3)
    assert pixel_accuracy(counts) == pytest.approx(2 / 4)


def test_scores_are_of_the_whole_split_not_means_over_images():
    counts = np.array([[[9, 0], [0, 1]], [[1, 9], [0, 0]]])
    assert scores(counts.sum(0), ["road", "car"]) == {
        "pixel_accuracy": pytest.approx(11 / 20),
        "miou": pytest.approx((10 / 19 + 1 / 10) / 2),
        "mean_dice": pytest.approx((20 / 29 + 2 / 11) / 2),
        "iou": {"road": pytest.approx(10 / 19), "car": pytest.approx(1 / 10)},
        "dice": {"road": pytest.approx(20 / 29), "car": pytest.approx(2 / 11)},
    }


def test_nothing_labelled_is_nan_everywhere():
    actual = scores(np.zeros((2, 2), np.int64), ["road", "car"])
    values = [
        actual["pixel_accuracy"],
        actual["miou"],
        actual["mean_dice"],
        *actual["iou"].values(),
        *actual["dice"].values(),
    ]
    assert all(type(value) is float and math.isnan(value) for value in values)


def test_names_and_classes_must_agree():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        scores(np.eye(3, dtype=np.int64), ["road", "car"])


def test_leading_dimensions_are_kept():
    counts = np.random.default_rng(0).integers(0, 4, (3, 2, 4, 4))
    assert iou(counts).shape == dice(counts).shape == (3, 2, 4)
    for metric in (iou, dice, mean_iou, pixel_accuracy):
        for place in np.ndindex(3, 2):
            np.testing.assert_array_equal(metric(counts)[place], metric(counts[place]))
