"""The contract that all losses share, and each of them against its formula."""

import doctest
import importlib
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_cases import case_of, random_target, truth_logits
from loss_formulas import LOOPS

from segline import losses
from segline.classes import IGNORED
from segline.losses import LOSSES, required_distances
from segline.losses.task import Task

OPTIONS = {
    "boundary": [{"foreground_only": True}],
    "bounding_box": [
        {"beta_bg": 0.0},
        {"beta_bg": 1.0, "alpha_bg": 0.1},
        {"alpha_bg": 0.0},
        {"class_weights": False, "beta_bg": 0.2},
    ],
    "class_weight_schedule": [{"alpha_bg": 1.0}, {"alpha_bg": 0.01}],
    "cross_entropy": [{"class_weights": {"class 0": 0.25}}],
    "dice": [{"squared": True}, {"smooth": 1e-3}],
    "distance_map": [{"w0": 3.0, "sigma": 1.0}],
    "focal": [{"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 5.0}],
    "loss_max_pooling": [
        {"p": 1.0},
        {"p": 1.01, "share": 0.1},
        {"p": 4.0, "share": 0.5},
        {"p": 2.0, "share": 1e-6},
        {"share": 1.0},
    ],
    "lovasz_softmax": [{"per_image": True}, {"classes": "all"}, {"per_image": True, "classes": "all"}],
    "semeda": [{"lambda_1": 0.0, "lambda_2": 0.0, "lambda_3": 1.0}, {"lambda_1": 1.0, "lambda_2": 0.0}],
    "sobel": [{"lambda_1": 0.0}, {"lambda_1": 0.5}],
    "touching_border": [{"w0": 3.0, "sigma": 1.0}],
}
CASES = [(name, options) for name in LOSSES for options in ({}, *OPTIONS.get(name, ()))]
every_loss = pytest.mark.parametrize(("name", "options"), CASES, ids=str)

BELOW_ZERO = {"boundary"}
"""The losses whose best value is not zero."""

HAS_DIRECTIONS = {"semeda"}
"""The losses whose kernels distinguish left and right."""


def test_every_loss_has_its_formula_and_its_options_here():
    assert set(LOOPS) == set(LOSSES) == set(OPTIONS)


@every_loss
def test_a_loss_of_single_pixels_does_not_see_where_they_lie(name, options):
    """The pixels of each image in another order, in a single column."""
    if getattr(LOSSES[name], "needs_neighbors", False):
        pytest.skip("it says that it needs more than single pixels")
    torch.manual_seed(0)
    target = torch.zeros(2, 6, 6, dtype=torch.uint8)
    target[:, 1:3, 2:5] = 1
    case = case_of(target, Task(names=("class 0", "class 1", "class 2"), background=0))
    order = torch.randperm(36)
    turned = case.changed(lambda values: values.flatten(-2)[..., order].unsqueeze(-1))
    loss = case.loss(name, **options)
    torch.testing.assert_close(turned.value(loss), case.value(loss), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", [found.name for found in pkgutil.iter_modules(losses.__path__)])
def test_the_examples_in_the_documentation_are_right(module):
    assert doctest.testmod(importlib.import_module(f"segline.losses.{module}")).failed == 0


SHAPES = {
    "plain": {},
    "no-background": {"background": None},
    "one-image": {"images": 1},
    "one-pixel": {"images": 1, "side": 1, "ignored": 0},
    "none-ignored": {"ignored": 0},
    "all-ignored": {"ignored": 1},
    "image-ignored": {"side": 2, "ignored": 0.8, "seed": 4},
    "class-absent": {"absent": 1},
    "first-absent": {"absent": 0},
    "one-class": {"classes": 1},
    "two-classes": {"classes": 2},
    "150-classes": {"classes": 150, "side": 4},
}
# An option meets the shapes in which a class or an image counts for nothing; with all others it is a slow test.
SHAPES_OF_OPTIONS = ("plain", "image-ignored", "class-absent", "first-absent")


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        pytest.param(
            name,
            options,
            shape,
            id=f"{name}-{options}-{shape_name}",
            marks=[pytest.mark.slow] if options and shape_name not in SHAPES_OF_OPTIONS else [],
        )
        for name, options in CASES
        for shape_name, shape in SHAPES.items()
    ],
)
def test_value_is_that_of_the_formula(make_case, name, options, shape):
    case = make_case(**shape)
    loss = case.loss(name, **options)
    expected = pytest.approx(LOOPS[name](case, **options), rel=1e-5, abs=1e-6)
    for kind in (torch.int64, torch.uint8):
        assert float(replace(case, target=case.target.to(kind)).value(loss)) == expected


@every_loss
def test_gradient_is_the_slope_of_the_value(make_case, name, options):
    case = make_case(images=2, classes=3, side=2).double()
    loss = case.loss(name, **options).double()
    value = case.value(loss)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(LOOPS[name](case, **options), rel=1e-6)
    assert torch.autograd.gradcheck(lambda logits: case.value(loss, logits), case.logits.requires_grad_())


@every_loss
def test_gradient_is_the_slope_of_the_formula(make_case, name, options):
    case = make_case(2, images=2, classes=3, side=2, seed=5)
    _, gradient = case.value_and_gradient(case.loss(name, **options))
    for place in np.ndindex(*case.logits.shape):
        nudge = torch.zeros_like(case.logits, dtype=torch.float64)
        nudge[place] = 1e-5
        higher, lower = (LOOPS[name](replace(case, logits=case.logits + sign * nudge), **options) for sign in (1, -1))
        assert float(gradient[place]) == pytest.approx((higher - lower) / 2e-5, rel=1e-4, abs=2e-6)


@every_loss
def test_ignored_pixels_change_nothing(make_case, name, options):
    case = make_case()
    ignored = (case.target == IGNORED).unsqueeze(1)
    wild = replace(
        case,
        logits=torch.where(ignored, 1e4 * make_case(seed=9).logits, case.logits),
        maps={kind: torch.where(ignored, -777, values) for kind, values in case.maps.items()},
    )
    loss = case.loss(name, **options)
    value, gradient = case.value_and_gradient(loss)
    value_of_wild, gradient_of_wild = wild.value_and_gradient(loss)
    assert torch.equal(value, value_of_wild)
    assert torch.equal(gradient, gradient_of_wild)
    assert not gradient.masked_select(ignored).any()


@every_loss
def test_all_ignored_is_zero(make_case, name, options):
    case = make_case(ignored=1)
    value, gradient = case.value_and_gradient(case.loss(name, **options))
    assert float(value) == 0
    assert torch.equal(gradient, torch.zeros_like(case.logits))


@every_loss
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_whole_answer(make_case, name, options, kind):
    case = make_case()
    loss, logits = case.loss(name, **options), (100 * case.logits).to(kind)
    value, gradient = case.value_and_gradient(loss, logits)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert torch.equal(value, case.value(loss, logits.float()))


@every_loss
def test_nothing_is_better_than_the_truth(make_case, name, options):
    """Neither guesses, nor the truth with one pixel wrong, nor a less certain truth."""
    case = make_case(None, absent=2)
    loss, truth = case.loss(name, **options), truth_logits(case)
    best = float(case.value(loss, truth))
    if name not in BELOW_ZERO:
        assert 0 <= best < 1e-6
    generator = torch.Generator().manual_seed(0)
    for i, y, x in case.target.ne(IGNORED).nonzero()[::12].tolist():
        stray = truth.clone()
        stray[i, :, y, x] = stray[i, :, y, x].roll(1)
        guess = torch.randn(truth.shape, generator=generator)
        unsure = 0.05 * truth + guess
        for other in (stray, guess, 3 * guess, unsure):
            assert float(case.value(loss, other)) > best + 1e-4
    assert min(float(case.value(loss, far)) for far in (-truth, case.logits)) > best + 0.1


@every_loss
def test_training_on_one_batch_finds_the_truth(make_case, name, options):
    """Steps of one length against the gradient's sign, on the logits alone."""
    case = make_case(images=2, side=4)
    loss, logits = case.loss(name, **options), torch.zeros_like(case.logits)
    for _ in range(40):
        logits -= 0.1 * case.value_and_gradient(loss, logits)[1].sign()
    counts = case.target != IGNORED
    right = (logits.argmax(1) == case.target)[counts]
    assert right.float().mean() > 0.9


@every_loss
def test_the_order_of_images_and_pixels_does_not_matter(make_case, name, options):
    case = make_case()
    loss = case.loss(name, **options)
    mirrored = () if name in HAS_DIRECTIONS else (lambda x: x.flip(-1), lambda x: x.transpose(-1, -2))
    for change in (lambda x: x.flip(0), *mirrored):
        torch.testing.assert_close(case.changed(change).value(loss), case.value(loss))


@every_loss
def test_a_second_batch_of_another_size_is_not_touched_by_the_first(make_case, name, options):
    case, other = make_case(), make_case(images=1, side=5, seed=3)
    loss = case.loss(name, **options)
    before = other.value(loss)
    case.value_and_gradient(loss)
    assert torch.equal(other.value(loss), before)
    assert torch.equal(case.target, random_target())


@every_loss
def test_a_loss_has_nothing_to_train(make_case, name, options):
    case = make_case()
    assert not any(parameter.requires_grad for parameter in case.loss(name, **options).parameters())


@every_loss
def test_the_maps_are_the_further_arguments(make_case, name, options):
    case = make_case()
    loss = case.loss(name, **options)
    maps = {kind: case.maps[kind] for kind in required_distances(loss)}
    assert torch.equal(loss(logits=case.logits, target=case.target, **maps), case.value(loss))


@every_loss
def test_validation_and_the_layout_of_memory_change_nothing(make_case, name, options):
    """Models hand out logits with the channels last; validation wants no gradients."""
    case = make_case()
    loss = case.loss(name, **options)
    value, gradient = case.value_and_gradient(loss)
    with torch.inference_mode():
        torch.testing.assert_close(case.value(loss), value, rtol=1e-6, atol=0)
    last = case.logits.contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    value_of_last, gradient_of_last = case.value_and_gradient(loss, last)
    torch.testing.assert_close(value_of_last, value)
    torch.testing.assert_close(gradient_of_last, gradient)
