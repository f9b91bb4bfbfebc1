"""Comparisons against a plain jackknife, and how often they are wrong where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from segline.metrics.comparison import SampleSize, compare, most_frequent, sample_size
from segline.metrics.confusion import mean_iou
from segline.metrics.units import block_ids, correlation_length, effective_frames, frame_order, ids_in_order

CLASSES, PIXELS = 3, 200


def counts_of(accuracies, generator):
    """The counts of crops (n, 3, 3) of which 200 pixels of each class are right with the crop's own probability."""
    right = generator.binomial(PIXELS, np.repeat(accuracies[:, None], CLASSES, 1))
    counts = np.zeros((len(accuracies), CLASSES, CLASSES), np.int64)
    for k in range(CLASSES):
        counts[:, k, k] = right[:, k]
        counts[:, k, (k + 1) % CLASSES] = PIXELS - right[:, k]
    return counts


def pair_of(effects, generator):
    """Two models whose accuracies have the same distribution; ``effects`` (2, n) move them."""
    return [counts_of(1 / (1 + np.exp(-1 - effect)), generator) for effect in effects]


def plain_miou(counts, classes):
    total = counts.sum(0)
    values = []
    for k in classes:
        union = total[k, :].sum() + total[:, k].sum() - total[k, k]
        values.append(total[k, k] / union if union else 0)
    return sum(values) / len(values)


def named(count, per):
    """Numbers of ``count`` things of ``per`` rows each, as text."""
    return np.repeat([str(number) for number in range(count)], per)


def test_the_interval_is_that_of_a_plain_jackknife_over_groups():
    generator = np.random.default_rng(1)
    effects = np.repeat(generator.normal(0, 0.5, (2, 7)), 3, axis=1)
    challenger, champion = pair_of(effects, generator)
    groups = named(7, 3)
    actual = compare(challenger, champion, keys=np.arange(21), groups=groups, error=0.1)

    left_out = [
        plain_miou(challenger[groups != group], range(3)) - plain_miou(champion[groups != group], range(3))
        for group in sorted(set(groups))
    ]
    deviation = math.sqrt(6 / 7 * sum((value - np.mean(left_out)) ** 2 for value in left_out))
    gain = plain_miou(challenger, range(3)) - plain_miou(champion, range(3))
    assert actual.gain == pytest.approx(gain)
    assert actual.lower == pytest.approx(gain - stats.t.ppf(0.9, 6) * deviation)
    assert actual.upper == pytest.approx(gain + stats.t.ppf(0.9, 6) * deviation)
    assert (actual.units, actual.kind, actual.reason) == (7, "groups", "")


def false_promotions(draw, keys, groups, trials):
    """How often one of two equal models is called better, and how often there is an interval."""
    results = []
    for trial in range(trials):
        challenger, champion = draw(np.random.default_rng(trial))
        results.append(compare(challenger, champion, keys=keys, groups=groups, error=0.05))
    return sum(result.better for result in results), sum(not math.isnan(result.lower) for result in results)


def at_most(rate, trials):
    """The number that a binomial of this rate exceeds once in 10,000 times."""
    return int(stats.binom.ppf(0.9999, trials, rate))


@pytest.mark.parametrize("own", [0.2, 0.7])
@pytest.mark.parametrize(
    ("units", "rows", "frames"), [(25, 4, 1), (10, 10, 10)], ids=["25 frames x 4 crops", "10 drives x 10 frames"]
)
def test_equal_models_are_promoted_in_5_percent_at_most(units, rows, frames, own):
    def draw(generator):
        shared = np.repeat(generator.normal(0, 1 - own, (2, units)), rows, axis=1)
        return pair_of(shared + generator.normal(0, own, shared.shape), generator)

    keys = np.arange(units * rows) if frames > 1 else named(units, rows)
    false, judged = false_promotions(draw, keys, named(units, rows), 400)
    assert judged == 400
    assert false <= at_most(0.05, 400)


@pytest.mark.parametrize("shared", [0, 0.3, 0.6])
def test_three_drives_of_34_frames_do_not_promote_more_often(shared):
    def draw(generator):
        drives = np.repeat(generator.normal(0, shared, (2, 3)), 34, axis=1)
        return pair_of(drives + generator.normal(0, 1 - shared, drives.shape), generator)

    false, _ = false_promotions(draw, np.arange(102), named(3, 34), 400)
    assert false <= at_most(0.05, 400)


def test_a_clip_of_frames_that_follow_each_other_is_cut_into_blocks():
    def draw(generator):
        steps = generator.normal(0, 0.5, (2, 300))
        for frame in range(1, 300):
            steps[:, frame] = 0.7 * steps[:, frame - 1] + math.sqrt(0.51) * steps[:, frame]
        return pair_of(steps, generator)

    false, judged = false_promotions(draw, np.arange(300), named(1, 300), 300)
    assert judged > 250
    assert false <= at_most(0.065, 300)


def test_fewer_than_5_units_give_no_interval():
    generator = np.random.default_rng(0)
    good, bad = (counts_of(np.full(40, accuracy), generator) for accuracy in (0.95, 0.5))
    groups = named(2, 20)
    actual = compare(good, bad, keys=np.arange(40), groups=groups, error=0.05, block_frames=10)
    assert math.isnan(actual.lower)
    assert math.isnan(actual.upper)
    assert actual.gain > 0.3
    assert not actual.better
    assert actual.reason == "4 blocks of 10 frames are too few for an interval, at least 5 independent units are needed"
    enough = compare(good, bad, keys=np.arange(40), groups=groups, error=0.05, block_frames=5)
    assert (enough.units, enough.kind, enough.better) == (8, "blocks of 5 frames", True)


def test_a_stray_pixel_of_an_absent_class_does_not_matter():
    """+0.152 became -0.053 when the class was averaged over for one of the models."""
    generator = np.random.default_rng(0)
    counts = np.zeros((2, 8, 4, 4), np.int64)
    for model, accuracy in enumerate((0.9, 0.75)):
        counts[model, :, :3, :3] = counts_of(np.full(8, accuracy), generator)
    before = compare(*counts, keys=np.arange(8), groups=np.arange(8), error=0.05)
    counts[0, 0, 0, 0] -= 1
    counts[0, 0, 0, 3] += 1
    after = compare(*counts, keys=np.arange(8), groups=np.arange(8), error=0.05)
    assert after.gain == pytest.approx(before.gain, abs=0.001)
    assert after.better
    assert after.challenger == pytest.approx(float(mean_iou(counts[0].sum(0))))


def test_a_class_that_one_group_alone_has_is_no_evidence():
    generator = np.random.default_rng(0)
    champion = counts_of(np.full(10, 0.8), generator)
    champion[1:, 2] = champion[1:, :, 2] = 0
    challenger = champion.copy()
    challenger[0, 2] = [0, 0, PIXELS]
    actual = compare(challenger, champion, keys=np.arange(10), groups=np.arange(10), error=0.05)
    assert actual.gain > 0.02
    assert not actual.better


def test_one_group_that_holds_nearly_all_pixels_is_no_evidence():
    generator = np.random.default_rng(0)
    champion = counts_of(np.full(8, 0.8), generator)
    challenger = champion.copy()
    for k in range(CLASSES):
        challenger[:, k, k] += 10
        challenger[:, k, (k + 1) % CLASSES] -= 10
    challenger[0], champion[0] = 1000 * challenger[0], 1000 * champion[0]
    few = compare(challenger, champion, keys=np.arange(8), groups=np.arange(8), error=0.001)
    alike = compare(challenger[1:], champion[1:], keys=np.arange(7), groups=np.arange(7), error=0.001)
    assert not few.better
    assert alike.better


def test_identical_models_and_images_without_labels():
    counts = counts_of(np.full(9, 0.8), np.random.default_rng(0))
    same = compare(counts, counts, keys=np.arange(9), groups=np.arange(9), error=0.5)
    assert (same.gain, same.lower, same.better) == (0, 0, False)
    empty = compare(counts * 0, counts * 0, keys=np.arange(9), groups=np.arange(9), error=0.05)
    assert (empty.units, empty.better, empty.reason) == (0, False, "no test image has a labelled pixel")
    counts[5:] = 0
    some = compare(counts, counts, keys=np.arange(9), groups=np.arange(9), error=0.05)
    assert some.units == 5


def test_the_most_frequent_class_is_predicted_everywhere():
    counts = counts_of(np.full(2, 0.7), np.random.default_rng(0))
    expected = np.zeros_like(counts)
    expected[..., 1] = PIXELS
    np.testing.assert_array_equal(most_frequent(counts, 1), expected)


def test_frames_are_in_natural_order_within_their_group():
    keys = ["b/frame10", "a/2", "b/frame9", "a/10", "a/1"]
    ids, first = ids_in_order(["b", "a", "b", "a", "a"])
    assert (ids.tolist(), first.tolist()) == ([0, 1, 0, 1, 1], [0, 1])
    assert [keys[row] for row in frame_order(ids, keys)] == ["b/frame9", "b/frame10", "a/1", "a/2", "a/10"]


def test_blocks_are_at_least_as_long_as_asked_for_and_within_a_group():
    groups = np.repeat([0, 1, 2], [7, 2, 6])
    assert block_ids(groups, 3).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (0.8, 8)])
def test_the_correlation_length_is_that_of_a_first_order_process(share, expected):
    """The autocorrelation at lag k is share**k, which falls below 0.2 at ``expected``."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=200_000)
    for frame in range(1, len(values)):
        values[frame] = share * values[frame - 1] + math.sqrt(1 - share**2) * values[frame]
    assert correlation_length(values - values.mean(), np.zeros(len(values), np.intp)) == expected


def test_what_whole_groups_have_in_common_is_correlation_without_end():
    values = np.repeat([1.0, -2.0, 1.0], 20)
    assert correlation_length(values, np.repeat([0, 1, 2], 20)) == 20


def autoregressive(count, correlation, generator):
    """A process of the first order of unit variance."""
    values = generator.normal(0, 1, count)
    for number in range(1, count):
        values[number] = correlation * values[number - 1] + math.sqrt(1 - correlation**2) * values[number]
    return values


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_frames_of_one_film_count_as_the_theory_of_a_first_order_process_says(correlation):
    """The variance of a mean is that of n (1 - r) / (1 + r) independent values."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(30):
        values = autoregressive(3000, correlation, generator)
        found.append(effective_frames(values - values.mean(), np.zeros(3000, np.intp)))
    assert np.median(found) == pytest.approx(3000 * (1 - correlation) / (1 + correlation), rel=0.12)


@pytest.mark.parametrize("common", [0.0, 0.1, 0.5])
def test_frames_of_many_groups_count_by_what_a_group_has_in_common(common):
    """Kish's design effect is 1 + (m - 1) r, for groups of m frames of which every pair correlates by r."""
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(2000), 6)
    shared = generator.normal(0, math.sqrt(common), 2000)[groups]
    values = shared + generator.normal(0, math.sqrt(1 - common), len(groups))
    expected = len(groups) / (1 + 5 * common)
    assert effective_frames(values - values.mean(), groups) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("groups", [5, 7])
def test_equal_frames_of_a_group_count_once(groups):
    values = np.random.default_rng(4).normal(size=groups)
    ids = np.repeat(np.arange(groups), 9)
    assert effective_frames((values - values.mean())[ids], ids) == pytest.approx(groups)


def test_the_size_of_a_sample_is_that_of_a_plain_jackknife_and_the_order_of_crops_does_not_matter():
    """Eight drives of four frames of two crops; one frame has no labelled pixel."""
    generator = np.random.default_rng(5)
    frames, drives = named(32, 2), named(8, 8)
    counts = counts_of(1 / (1 + np.exp(-np.repeat(generator.normal(1, 1, 8), 8))), generator)
    counts[frames == "13"] = 0
    shuffled = generator.permutation(64)
    size = sample_size(counts[shuffled], keys=frames[shuffled], groups=drives[shuffled])

    used = [frame for frame in sorted(set(frames)) if frame != "13"]
    without = [plain_miou(counts[frames != frame], range(CLASSES)) for frame in used]
    centred = np.mean(without) - without
    of_drive = [
        sum(value for value, frame in zip(centred, used, strict=True) if int(frame) // 4 == n) for n in range(8)
    ]
    expected = len(used) * np.square(centred).sum() / np.square(of_drive).sum()
    assert (size.frames, size.groups) == (31, 8)
    assert size.effective == pytest.approx(expected)
    assert 1 < size.effective < 31


def test_a_test_set_without_labels_says_nothing_and_a_faultless_model_leaves_nothing_to_correlate():
    empty = np.zeros((3, 2, 2), np.int64)
    assert sample_size(empty, keys=["a", "b", "c"], groups=["x"] * 3) == SampleSize(0, 0, 0.0)
    faultless = empty + np.eye(2, dtype=np.int64)
    assert sample_size(faultless, keys=["a", "b", "c"], groups=["x"] * 3) == SampleSize(3, 1, 3.0)
