"""The losses that weigh pixels by distance, against torch's cross-entropy and against single values."""

import math

import pytest
import torch

from segline.losses.distance_map import DistanceMap
from segline.losses.task import Task
from segline.losses.touching_border import TouchingBorder

TASK = Task(names=("sky", "cell"))


def maps(*values):
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_a_pixel_at_a_contour_weighs_most():
    """Distances 0.5 and 5 px with sigma 5 px: bells of 0.995 and 0.607."""
    logits, target = torch.zeros(1, 2, 1, 3), torch.zeros(1, 1, 3, dtype=torch.long)
    value = DistanceMap(TASK)(logits, target, maps(0.5, 5.0, 1000.0))
    assert float(value) == pytest.approx(math.log(2) * (1 + 10 * (0.995012 + 0.606531) / 3), rel=1e-5)


def test_the_gap_between_two_cells_weighs_most():
    """U-Net, equation 2, with one pixel of three in class 1: class weights 3 / 4 and 3 / 2."""
    logits, target = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 0]]])
    value = TouchingBorder(TASK)(logits, target, maps(2.0, 1000.0, 10.0))
    weights = 2 * 3 / 4 + 3 / 2 + 10 * (math.exp(-4 / 50) + math.exp(-100 / 50))
    assert float(value) == pytest.approx(math.log(2) * weights / 3, rel=1e-5)


@pytest.mark.parametrize("name", ["distance_map", "touching_border"])
def test_far_from_everything_only_the_class_weights_are_left(make_case, name):
    case = make_case(None)
    loss = case.loss(name)
    value = loss(case.logits, case.target, torch.full_like(case.maps["border"], 1000.0))
    plain = {"distance_map": "cross_entropy", "touching_border": "class_weight_schedule"}[name]
    torch.testing.assert_close(value, case.value(case.loss(plain)))
