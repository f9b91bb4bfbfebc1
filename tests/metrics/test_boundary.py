"""Counts near contours against loops over all pairs of pixels, and against MONAI's surface dice."""

import math

import numpy as np
import pytest
import torch

from segline.classes import IGNORED
from segline.metrics.boundary import TOLERANCE, boundary_counts, boundary_f1, trimap_counts
from segline.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy

CASES = [
    {},
    {"images": 1, "patch": 1},
    {"classes": 2, "patch": 4},
    {"ignored": 0},
    {"ignored": 1},
    {"shape": (1, 11)},
    {"shape": (1, 1)},
    {"classes": 1},
    {"classes": 12},
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def random_maps(images=3, classes=4, shape=(9, 12), patch=3, ignored=0.2, seed=0):
    """Truth in patches, and a prediction that is partly right."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, classes, (images, *shape), np.uint8)
    truth = np.kron(patches, np.ones((patch, patch), np.uint8))[:, : shape[0], : shape[1]]
    predicted = np.where(generator.random(truth.shape) < 0.7, truth, np.roll(truth, 1, axis=2))
    truth = np.where(generator.random(truth.shape) < ignored, IGNORED, truth).astype(np.uint8)
    return truth, predicted


def places(mask):
    return list(zip(*np.nonzero(mask), strict=True))


def is_near(pixel, others, reach):
    return any(math.dist(pixel, other) < reach for other in others)


@every_case
@pytest.mark.parametrize("seed", range(2))
def test_trimaps_are_those_of_all_pairs_of_pixels(case, seed):
    truth, predicted = random_maps(**case, seed=seed)
    classes, widths = case.get("classes", 4), (1, 2, 5)
    expected = np.zeros((len(truth), len(widths), classes, classes), int)
    for image, labels in enumerate(truth):
        known = labels != IGNORED
        for pixel in places(known):
            others = places(known & (labels != labels[pixel]))
            for band, width in enumerate(widths):
                # No two pixels are between width + 0.5 and this far apart.
                if is_near(pixel, others, width + 0.5 + 1e-9):
                    expected[image, band, labels[pixel], predicted[image][pixel]] += 1
    actual = trimap_counts(truth, predicted, classes, widths)
    assert actual.dtype == np.int64
    np.testing.assert_array_equal(actual, expected)


def test_a_band_of_one_px_is_the_pixels_beside_another_class():
    truth = np.zeros((1, 7, 7), np.uint8)
    truth[0, 3, 3] = 1
    actual = trimap_counts(truth, truth, 2, [1, 2])[0]
    # 8 neighbours; and those of the 5 x 5 around it that are at most 2.5 px away, which its corners are not.
    assert actual[:, 0, 0].tolist() == [8, 20]
    assert actual[:, 1, 1].tolist() == [1, 1]


def test_wide_bands_hold_all_and_the_rest_is_what_is_not_near():
    truth, predicted = random_maps(classes=3, ignored=0.1)
    whole = confusion_matrix(truth, predicted, 3)
    bands = trimap_counts(truth, predicted, 3, [1, 2, 100])
    np.testing.assert_array_equal(bands[:, 2], whole)
    assert (whole >= bands[:, 1]).all()
    assert (bands[:, 1] >= bands[:, 0]).all()


def test_errors_at_contours_lower_the_scores_of_narrow_bands_most():
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[:, :, 10:] = 1
    predicted = np.roll(truth, 1, axis=2)
    predicted[:, :, 0] = 0
    bands = trimap_counts(truth, predicted, 2, [1, 2, 5])[0]
    # Of the two sides' w columns one is wrong: accuracy (2w - 1) / 2w.
    np.testing.assert_allclose(pixel_accuracy(bands), [1 / 2, 3 / 4, 9 / 10])
    np.testing.assert_allclose(mean_iou(bands), [(1 / 2 + 0) / 2, (2 / 3 + 1 / 2) / 2, (5 / 6 + 4 / 5) / 2])


def slow_contour(labels, class_id):
    """The pixels of a class with a neighbour above, below or beside them that is known and of another."""
    height, width = labels.shape
    actual = []
    for y, x in places(labels == class_id):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        values = [labels[at] for at in around if 0 <= at[0] < height and 0 <= at[1] < width]
        if any(value not in (class_id, IGNORED) for value in values):
            actual.append((y, x))
    return actual


@every_case
@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.1, 0.5])
def test_boundary_counts_are_those_of_all_pairs_of_pixels(case, tolerance):
    truth, predicted = random_maps(**case)
    classes, radius = case.get("classes", 4), tolerance * math.hypot(*truth.shape[1:])
    actual = boundary_counts(truth, predicted, classes, tolerance)
    assert actual.dtype == np.int64
    assert actual.shape == (len(truth), classes, 4)
    for image, class_id in np.ndindex(len(truth), classes):
        seen = np.where(truth[image] == IGNORED, IGNORED, predicted[image])
        guessed, true = slow_contour(seen, class_id), slow_contour(truth[image], class_id)
        expected = [
            sum(is_near(pixel, true, radius) for pixel in guessed),
            len(guessed),
            sum(is_near(pixel, guessed, radius) for pixel in true),
            len(true),
        ]
        assert actual[image, class_id].tolist() == expected


def objects(seed):
    """Three blocks each in truth and prediction, off the frame, which MONAI takes for contour and Segline does not."""
    generator = np.random.default_rng(seed)
    maps = np.zeros((2, 1, 40, 50), np.uint8)
    for class_id in (1, 2, 3):
        top, left = generator.integers(4, 20, 2)
        for labels in maps:
            down, right = generator.integers(-3, 4, 2)
            labels[0, top + down : top + down + 12, left + right : left + right + 15] = class_id
    return maps


# MONAI calls itself with an argument that it deprecates.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("radius", [1.2, 2.7])
def test_matches_are_those_of_monai(seed, radius):
    """Its surface dice is the share of all pixels of both contours that match; it takes those up to its tolerance,
    Segline those below, so that the radius is one that no two pixels are apart."""
    from monai.metrics import compute_surface_dice  # for seconds, in one process of the tests

    truth, predicted = objects(seed)
    counts = boundary_counts(truth, predicted, 4, radius / math.hypot(40, 50))[:, 1:]
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 4).movedim(-1, 1) for labels in (predicted, truth)
    ]
    theirs = compute_surface_dice(*one_hot, class_thresholds=[radius] * 3, include_background=False)
    ours = (counts[..., 0] + counts[..., 2]) / (counts[..., 1] + counts[..., 3])
    assert 0 < ours.min() < 1
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_the_f1_is_that_of_summed_precision_and_recall():
    counts = np.array([[[3, 4, 1, 2], [0, 0, 0, 0]], [[1, 4, 5, 6], [0, 0, 0, 0]]])
    precision, recall = 4 / 8, 6 / 8
    expected = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(boundary_f1(counts.sum(0)), [expected, math.nan])
    assert boundary_f1(counts).shape == (2, 2)
    np.testing.assert_allclose(boundary_f1(counts)[0, 0], 2 * (3 / 4) * (1 / 2) / (3 / 4 + 1 / 2))


def test_an_absent_class_has_no_score_and_a_missed_or_invented_one_zero():
    truth, predicted = np.zeros((2, 1, 9, 9), np.uint8)
    truth[0, 3:5, 3:5], predicted[0, 6:8, 1:3] = 1, 2
    actual = boundary_f1(boundary_counts(truth, predicted, 4, 0.01).sum(0))
    np.testing.assert_array_equal(actual[1:], [0, 0, math.nan])


def test_the_same_maps_have_a_score_of_one_and_far_contours_zero():
    truth = np.zeros((1, 60, 80), np.uint8)
    truth[:, 10:20, 10:20] = 1
    moved = np.roll(truth, 30, axis=2)
    np.testing.assert_array_equal(boundary_f1(boundary_counts(truth, truth, 2).sum(0)), [1, 1])
    np.testing.assert_array_equal(boundary_f1(boundary_counts(truth, moved, 2).sum(0)), [0, 0])


@pytest.mark.parametrize(("side", "shift", "score"), [(400, 4, 1), (400, 5, 0)])
def test_contours_match_below_three_quarters_of_a_percent_of_the_diagonal(side, shift, score):
    """That is 4.24 px of a square of 400 px; a straight contour across it is moved."""
    assert TOLERANCE == 0.0075
    truth, predicted = np.zeros((2, 1, side, side), np.uint8)
    truth[:, :, 100:], predicted[:, :, 100 + shift :] = 1, 1
    np.testing.assert_array_equal(boundary_f1(boundary_counts(truth, predicted, 2).sum(0)), [score, score])
