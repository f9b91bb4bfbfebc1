"""Fixed class weights against torch, and what is refused."""

import pytest
import torch

from segline.classes import IGNORED
from segline.errors import TrainingError
from segline.losses.cross_entropy import CrossEntropy
from segline.losses.task import Task

TASK = Task(names=("sky", "road", "car"))


@pytest.mark.parametrize("weights", [{}, {"road": 3.0}, {"sky": 0.0, "road": 0.5, "car": 12.0}])
def test_it_is_that_of_torch(make_case, weights):
    case = make_case(classes=3, side=9)
    theirs = torch.nn.CrossEntropyLoss(
        torch.tensor([weights.get(name, 1.0) for name in TASK.names]), ignore_index=IGNORED
    )
    ours = CrossEntropy(TASK, class_weights=weights)
    torch.testing.assert_close(ours(case.logits, case.target), theirs(case.logits, case.target))


def test_only_classes_of_weight_zero_cost_nothing():
    """torch divides zero by zero here."""
    loss = CrossEntropy(TASK, class_weights={"sky": 0.0})
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.zeros(1, 4, 4, dtype=torch.long))
    value.backward()
    assert float(value.detach()) == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"raod": 2.0}, "cross_entropy: class_weights has the unknown class 'raod'; did you mean 'road'?"),
        ({"x": 2.0}, "cross_entropy: class_weights has the unknown class 'x'; known are car, road, sky"),
        ({"sky": -1.0}, "cross_entropy: class_weights gives 'sky' -1.0, expected at least 0"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(TrainingError) as caught:
        CrossEntropy(TASK, class_weights=weights)
    assert str(caught.value) == message


def test_the_weights_are_no_part_of_the_weights_file():
    assert not CrossEntropy(TASK, class_weights={"sky": 2.0}).state_dict()


def test_balanced_weights_are_the_inverse_roots_with_the_mean_1():
    """Of 4, 16 and 64 pixels: in the ratio 4 to 2 to 1, and a class without pixels weighs as the rarest."""
    task = Task(names=("a", "b", "c", "none"), pixels=(4, 16, 64, 0))
    mean = (4 + 2 + 1) / 3
    expected = torch.tensor([4 / mean, 2 / mean, 1 / mean, 4 / mean])
    torch.testing.assert_close(CrossEntropy(task, balance="root_inverse").weights, expected)
    doubled = CrossEntropy(task, balance="root_inverse", class_weights={"b": 2.0}).weights
    torch.testing.assert_close(doubled, expected * torch.tensor([1.0, 2.0, 1.0, 1.0]))


def test_balanced_it_is_the_weighted_mean_of_pytorch(make_case):
    case = make_case()
    classes = case.logits.shape[1]
    task = Task(names=tuple(map(str, range(classes))), pixels=tuple(10**k for k in range(classes)))
    ours = CrossEntropy(task, balance="root_inverse")
    theirs = torch.nn.CrossEntropyLoss(weight=ours.weights.to(case.logits), ignore_index=255)
    torch.testing.assert_close(ours(case.logits, case.target), theirs(case.logits, case.target))


def test_without_labelled_pixels_there_is_nothing_to_balance():
    with pytest.raises(TrainingError, match=r"cross_entropy\.balance: the training split has no labelled pixel"):
        CrossEntropy(Task(names=("a", "b"), pixels=(0, 0)), balance="root_inverse")
