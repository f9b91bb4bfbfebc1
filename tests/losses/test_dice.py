import pytest
import segmentation_models_pytorch as smp
import torch

from segline.classes import IGNORED
from segline.losses.dice import Dice
from segline.losses.task import Task

TASK = Task(names=("sky", "car"))


@pytest.mark.parametrize("smooth", [1e-3, 1.0])
def test_it_is_that_of_smp_where_no_class_is_absent(make_case, smooth):
    """smp drops the cost of classes that the truth does not hold; its numerator is half of ours, so its smooth too."""
    case = make_case(side=12)
    theirs = smp.losses.DiceLoss("multiclass", smooth=smooth / 2, ignore_index=IGNORED)
    torch.testing.assert_close(
        Dice(case.task, smooth=smooth)(case.logits, case.target), theirs(case.logits, case.target)
    )


@pytest.mark.parametrize("squared", [False, True])
def test_it_is_that_of_monai_where_no_pixel_is_ignored(make_case, squared):
    """MONAI knows no ignored pixels; absent classes cost there as here."""
    import monai  # for seconds, in one process of the tests

    case = make_case(ignored=0, absent=1)
    theirs = monai.losses.DiceLoss(
        softmax=True, to_onehot_y=True, batch=True, squared_pred=squared, smooth_nr=1.0, smooth_dr=1.0
    )
    ours = Dice(case.task, squared=squared)(case.logits, case.target)
    torch.testing.assert_close(ours, theirs(case.logits, case.target.unsqueeze(1)))


def test_the_prediction_of_an_absent_class_costs():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    good = torch.stack([torch.full((1, 8, 8), 20.0), torch.zeros(1, 8, 8)], 1)
    stray = good.clone()
    stray[:, 1, 0, :] = 40
    assert float(Dice(TASK)(good, target)) == pytest.approx(0, abs=1e-6)
    assert float(Dice(TASK)(stray, target)) == pytest.approx(1 - (113 / 121 + 1 / 9) / 2, abs=1e-5)


def test_a_large_batch_loses_no_digits():
    """One running sum of a million values in single precision would."""
    target = torch.zeros(8, 384, 384, dtype=torch.long)
    logits = torch.zeros(8, 2, 384, 384)
    logits[:, 0] = 1.1
    expected = Dice(TASK)(logits.double(), target)
    assert float(Dice(TASK)(logits, target)) == pytest.approx(float(expected), rel=1e-5)
