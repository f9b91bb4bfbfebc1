import kornia
import pytest
import torch

from segline.classes import IGNORED
from segline.losses.cross_entropy import CrossEntropy
from segline.losses.focal import Focal


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_it_is_that_of_kornia(make_case, gamma):
    """kornia's mean divides by all pixels, the ignored too: here its sum is divided by those that count."""
    case = make_case()
    theirs = kornia.losses.focal_loss(
        case.logits, case.target, alpha=None, gamma=gamma, reduction="sum", ignore_index=IGNORED
    )
    ours = Focal(case.task, gamma=gamma)(case.logits, case.target)
    torch.testing.assert_close(ours, theirs / (case.target != IGNORED).sum())


def test_without_focus_it_is_cross_entropy(make_case):
    case = make_case()
    ours = Focal(case.task, gamma=0.0)(case.logits, case.target)
    torch.testing.assert_close(ours, CrossEntropy(case.task)(case.logits, case.target))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.9, 1.0, 2.0])
def test_a_pixel_that_is_certain_has_a_finite_slope(make_case, gamma):
    case = make_case()
    loss = case.loss("focal", gamma=gamma)
    for scale in (30, 60, 1e4):
        logits = scale * torch.nn.functional.one_hot(case.target.where(case.target != IGNORED, 0), 4).movedim(-1, 1)
        value, gradient = case.value_and_gradient(loss, logits.float())
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-6
