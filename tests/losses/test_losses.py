"""Every loss against its formula written as a loop in double precision, and the contract they all share."""

import math
from collections import Counter

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from segline.classes import IGNORED
from segline.losses import LOSSES, WeightedSum
from segline.losses.bounding_box import inside_box
from segline.losses.dice import Dice

OPTIONS = {
    "bounding_box": [{"beta_bg": 0.0}, {"beta_bg": 1.0, "alpha_bg": 0.1}, {"alpha_bg": 0.0}],
    "class_weight_schedule": [{"alpha_bg": 1.0}, {"alpha_bg": 0.01}],
    "dice": [{"squared": True}, {"smooth": 1e-3}],
}
CASES = [(name, options) for name in LOSSES for options in ({}, *OPTIONS.get(name, ()))]
every_loss = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


def random_case(images=3, classes=4, side=6, ignored=0.2, seed=0, absent=None):
    """Logits and class ids; some pixels are ignored, and one class may be missing from the truth."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, (images, side, side))
    if absent is not None:
        target[target == absent] = (absent + 1) % classes
    target[generator.random(target.shape) < ignored] = IGNORED
    logits = generator.normal(0, 2, (images, classes, side, side))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(target)


def softmax(values):
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]
    return [power / sum(powers) for power in powers]


def counting_pixels(logits, target):
    """Image, row, column, probabilities and class of each pixel that counts."""
    images, height, width = target.shape
    for i in range(images):
        for y in range(height):
            for x in range(width):
                if int(target[i, y, x]) != IGNORED:
                    yield i, y, x, softmax(logits[i, :, y, x].double().tolist()), int(target[i, y, x])


def boxes(target, background):
    """Image -> first row, last row, first column and last column of its foreground."""
    found = {}
    for i, y, x in np.argwhere((target.numpy() != IGNORED) & (target.numpy() != background)):
        top, bottom, left, right = found.get(i, (y, y, x, x))
        found[i] = min(top, y), max(bottom, y), min(left, x), max(right, x)
    return found


def loop_cross_entropy(logits, target, background, weight=lambda i, y, x, label: 1.0):
    total, count = 0.0, 0
    for i, y, x, probabilities, label in counting_pixels(logits, target):
        total -= weight(i, y, x, label) * math.log(probabilities[label])
        count += 1
    return total / max(count, 1)


def class_weights(target, background, alpha_bg):
    labels = target[target != IGNORED].tolist()
    pixels = Counter(labels)
    weights = {label: len(labels) / (len(pixels) * count) for label, count in pixels.items()}
    if background in pixels:
        weights[background] = alpha_bg * pixels[background] / len(labels)
    return weights


def loop_class_weight_schedule(logits, target, background, *, alpha_bg=0.5):
    weights = class_weights(target, background, alpha_bg)
    return loop_cross_entropy(logits, target, background, lambda i, y, x, label: weights[label])


def loop_bounding_box(logits, target, background, *, beta_bg=0.05, alpha_bg=0.5):
    weights, box = class_weights(target, background, alpha_bg), boxes(target, background)

    def weight(i, y, x, label):
        top, bottom, left, right = box.get(i, (y, y, x, x))
        return weights[label] * (1 if top <= y <= bottom and left <= x <= right else beta_bg)

    return loop_cross_entropy(logits, target, background, weight)


def loop_dice(logits, target, background, *, squared=False, smooth=1.0):
    pixels, classes = list(counting_pixels(logits, target)), logits.shape[1]
    power = 2 if squared else 1
    total = 0.0
    for k in range(classes):
        overlap = sum(probabilities[k] for *_, probabilities, label in pixels if label == k)
        size = sum(probabilities[k] ** power + (label == k) for *_, probabilities, label in pixels)
        total += (2 * overlap + smooth) / (size + smooth)
    return 1 - total / classes


LOOPS = {
    "bounding_box": loop_bounding_box,
    "class_weight_schedule": loop_class_weight_schedule,
    "cross_entropy": loop_cross_entropy,
    "dice": loop_dice,
}


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


def test_every_loss_has_its_formula_here():
    assert set(LOOPS) == set(LOSSES)


@every_loss
@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param({}, id="plain"),
        pytest.param({"images": 1}, id="one-image"),
        pytest.param({"images": 1, "side": 1, "ignored": 0}, id="one-pixel"),
        pytest.param({"ignored": 0}, id="none-ignored"),
        pytest.param({"ignored": 1}, id="all-ignored"),
        pytest.param({"absent": 1}, id="class-absent"),
        pytest.param({"absent": 0}, id="first-absent"),
        pytest.param({"classes": 1}, id="one-class"),
        pytest.param({"classes": 150, "side": 4}, id="150-classes"),
    ],
)
def test_value_is_that_of_the_formula(name, options, background, case):
    logits, target = random_case(**case)
    expected = LOOPS[name](logits, target, background, **options)
    for kind in (torch.int64, torch.uint8):
        value = LOSSES[name](background, **options)(logits, target.to(kind))
        assert float(value) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@every_loss
def test_gradient_is_the_slope_of_the_value(name, options):
    """The losses compute in single precision, so the steps of the central differences are wide."""
    logits, target = random_case(images=2, classes=3, side=3)
    loss = LOSSES[name](0, **options)
    assert torch.autograd.gradcheck(
        lambda given: loss(given, target), logits.double().requires_grad_(), eps=1e-2, atol=2e-4, rtol=1e-2
    )


@every_loss
def test_gradient_is_the_slope_of_the_formula(name, options):
    logits, target = random_case(images=2, classes=3, side=3, seed=5)
    _, gradient = value_and_gradient(LOSSES[name](2, **options), logits, target)
    for place in np.ndindex(*logits.shape):
        nudge = torch.zeros_like(logits, dtype=torch.float64)
        nudge[place] = 1e-5
        higher, lower = (LOOPS[name](logits.double() + sign * nudge, target, 2, **options) for sign in (1, -1))
        assert float(gradient[place]) == pytest.approx((higher - lower) / 2e-5, rel=1e-4, abs=1e-6)


@every_loss
def test_ignored_pixels_change_nothing(name, options):
    logits, target = random_case()
    ignored = (target == IGNORED).unsqueeze(1)
    wild = torch.where(ignored, 1e4 * random_case(seed=9)[0], logits)
    loss = LOSSES[name](0, **options)
    value, gradient = value_and_gradient(loss, logits, target)
    value_of_wild, gradient_of_wild = value_and_gradient(loss, wild, target)
    assert torch.equal(value, value_of_wild)
    assert torch.equal(gradient, gradient_of_wild)
    assert not gradient.masked_select(ignored).any()


@every_loss
def test_all_ignored_is_zero(name, options):
    logits, target = random_case(ignored=1)
    value, gradient = value_and_gradient(LOSSES[name](0, **options), logits, target)
    assert float(value) == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


@every_loss
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_whole_answer(name, options, kind):
    logits, target = random_case()
    loss = LOSSES[name](0, **options)
    value, gradient = value_and_gradient(loss, (100 * logits).to(kind), target)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert torch.equal(value, loss((100 * logits).to(kind).float(), target))


@every_loss
def test_the_truth_costs_nothing_and_anything_else_more(name, options):
    logits, target = random_case(absent=2)
    loss = LOSSES[name](None, **options)
    truth = 60 * torch.nn.functional.one_hot(target.where(target != IGNORED, 0), 4).movedim(-1, 1).float()
    assert 0 <= float(loss(truth, target)) < 1e-6
    assert float(loss(logits, target)) > 0.1
    assert float(loss(-truth, target)) > float(loss(logits, target))


@every_loss
def test_the_order_of_images_and_pixels_does_not_matter(name, options):
    logits, target = random_case()
    loss = LOSSES[name](0, **options)
    for change in (lambda x: x.flip(0), lambda x: x.flip(-1), lambda x: x.transpose(-1, -2)):
        torch.testing.assert_close(loss(change(logits), change(target)), loss(logits, target))


@pytest.mark.parametrize("smooth", [1e-3, 1.0])
def test_dice_is_that_of_smp_where_no_class_is_absent(smooth):
    """smp drops the cost of classes that the truth does not hold; its numerator is half of ours, so its smooth too."""
    logits, target = random_case(side=12)
    theirs = smp.losses.DiceLoss("multiclass", smooth=smooth / 2, ignore_index=IGNORED)
    torch.testing.assert_close(Dice(None, smooth=smooth)(logits, target), theirs(logits, target))


def test_dice_makes_the_prediction_of_an_absent_class_cost():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    good = torch.stack([torch.full((1, 8, 8), 20.0), torch.zeros(1, 8, 8)], 1)
    stray = good.clone()
    stray[:, 1, 0, :] = 40
    assert float(Dice(None)(good, target)) == pytest.approx(0, abs=1e-6)
    assert float(Dice(None)(stray, target)) == pytest.approx(1 - (113 / 121 + 1 / 9) / 2, abs=1e-5)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.5, 1.0])
def test_a_box_holds_the_foreground_of_its_image(density):
    foreground = np.random.default_rng(3).random((20, 7, 9)) < density
    expected = np.ones_like(foreground)
    for image, box in zip(foreground, expected, strict=True):
        if image.any():
            rows, columns = np.nonzero(image)
            box[:] = False
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert np.array_equal(inside_box(torch.from_numpy(foreground)).numpy(), expected)


def test_the_default_weights_are_those_of_the_seed():
    """Three of four pixels are background: it weighs 0.5 * 3 / 4, and the one pixel of class 1 four halves."""
    logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 0, 0]]])
    value = LOSSES["class_weight_schedule"](0)(logits, target)
    assert float(value) == pytest.approx(math.log(2) * (3 * 0.5 * 3 / 4 + 4 / 2) / 4)
    boxed = LOSSES["bounding_box"](0, beta_bg=0.1)(logits, target)
    assert float(boxed) == pytest.approx(math.log(2) * (3 * 0.1 * 0.5 * 3 / 4 + 4 / 2) / 4)


def test_without_a_background_the_box_holds_all_that_is_labelled():
    logits, target = random_case(images=2, ignored=0.8)
    boxed, unboxed = (LOSSES[name](None)(logits, target) for name in ("bounding_box", "class_weight_schedule"))
    assert torch.equal(boxed, unboxed)


def test_a_weighted_sum_adds_up():
    logits, target = random_case()
    terms = [(0.25, "dice"), (2.0, "cross_entropy"), (0.0, "bounding_box")]
    total = WeightedSum([(weight, LOSSES[name](0)) for weight, name in terms])
    expected = sum(weight * LOOPS[name](logits, target, 0) for weight, name in terms)
    assert float(total(logits, target)) == pytest.approx(expected, rel=1e-5)
    assert total(logits.half(), target).dtype == torch.float32
    _, gradient = value_and_gradient(total, logits, target)
    parts = [weight * value_and_gradient(LOSSES[name](0), logits, target)[1] for weight, name in terms]
    torch.testing.assert_close(gradient, sum(parts))
