import kornia
import pytest
import segmentation_models_pytorch as smp
import torch

from segline.classes import IGNORED
from segline.losses.lovasz_softmax import LovaszSoftmax


@pytest.mark.parametrize("per_image", [False, True])
def test_it_is_that_of_smp(make_case, per_image):
    """smp takes the classes present; per image it is the same while every image has a pixel that counts."""
    case = make_case(side=12, absent=1)
    theirs = smp.losses.LovaszLoss("multiclass", per_image=per_image, ignore_index=IGNORED)
    ours = LovaszSoftmax(case.task, per_image=per_image)
    torch.testing.assert_close(ours(case.logits, case.target), theirs(case.logits, case.target))


def test_it_is_that_of_kornia_where_no_pixel_is_ignored(make_case):
    """kornia's is per image over all classes, and knows no ignored pixels."""
    case = make_case(side=12, ignored=0, absent=1)
    theirs = kornia.losses.lovasz_softmax_loss(case.logits, case.target)
    ours = LovaszSoftmax(case.task, per_image=True, classes="all")
    torch.testing.assert_close(ours(case.logits, case.target), theirs)


@pytest.mark.parametrize("seed", range(5))
def test_a_crisp_prediction_costs_its_jaccard_loss(make_case, seed):
    """Where the Lovász extension meets the set function that it extends: one minus mIoU."""
    case = make_case(seed=seed, classes=3)
    guess = torch.randint(3, case.target.shape, generator=torch.Generator().manual_seed(seed))
    logits = 200 * torch.nn.functional.one_hot(guess, 3).movedim(-1, 1).float()
    counts = case.target != IGNORED
    scores = []
    for k in range(3):
        truth, actual = (case.target == k)[counts], (guess == k)[counts]
        scores.append((truth & actual).sum() / (truth | actual).sum())
    ours = LovaszSoftmax(case.task)(logits, case.target)
    torch.testing.assert_close(ours, 1 - torch.stack(scores).mean())


def test_an_image_without_pixels_that_count_does_not_dilute_the_mean(make_case):
    case = make_case(images=2)
    loss = LovaszSoftmax(case.task, per_image=True)
    target = case.target.clone()
    target[1] = IGNORED
    torch.testing.assert_close(loss(case.logits, target), loss(case.logits[:1], target[:1]))
