"""The losses of Seed S0: class weights that follow the batch, and the box around the foreground."""

import math

import numpy as np
import pytest
import torch

from segline.losses import LOSSES
from segline.losses.bounding_box import inside_box
from segline.losses.task import Task

TASK = Task(names=("sky", "car"), background=0)


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
    value = LOSSES["class_weight_schedule"](TASK)(logits, target)
    assert float(value) == pytest.approx(math.log(2) * (3 * 0.5 * 3 / 4 + 4 / 2) / 4)
    boxed = LOSSES["bounding_box"](TASK, beta_bg=0.1)(logits, target)
    assert float(boxed) == pytest.approx(math.log(2) * (3 * 0.1 * 0.5 * 3 / 4 + 4 / 2) / 4)


def test_without_a_background_the_box_holds_all_that_is_labelled(make_case):
    case = make_case(None, images=2, ignored=0.8)
    boxed, unboxed = (case.value(case.loss(name)) for name in ("bounding_box", "class_weight_schedule"))
    assert torch.equal(boxed, unboxed)
