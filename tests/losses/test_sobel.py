import kornia
import numpy as np
import pytest
import torch
from scipy import ndimage

from segline.classes import IGNORED
from segline.losses.sobel import sobel


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (2, 5, 1), (3, 7, 9)])
def test_the_filter_is_that_of_scipy(shape):
    planes = np.random.default_rng(0).normal(size=shape)
    for axis in (1, 2):
        expected = np.stack([ndimage.sobel(plane, axis - 1, mode="constant") for plane in planes])
        np.testing.assert_allclose(sobel(torch.from_numpy(planes), axis).numpy(), expected, atol=1e-12)


def test_it_is_made_of_kornias_gradients(make_case):
    """kornia repeats the rim of an image; a frame of zeros around it makes that zero padding."""
    case = make_case(side=10)
    counts = case.target != IGNORED
    truth = torch.nn.functional.one_hot(case.target.where(counts, 0), 4).movedim(-1, 1).float()
    framed = [
        torch.nn.functional.pad(planes * counts.unsqueeze(1), (1, 1, 1, 1))
        for planes in (case.logits.softmax(1), truth)
    ]
    actual, wanted = (kornia.filters.spatial_gradient(planes, normalized=False)[..., 1:-1, 1:-1] for planes in framed)
    plain = torch.nn.functional.cross_entropy(case.logits, case.target, ignore_index=IGNORED)
    expected = plain + 4 / 8 * (actual - wanted).abs().sum() / counts.sum()
    torch.testing.assert_close(case.value(case.loss("sobel")), expected)


def test_a_prediction_without_error_in_its_gradients_costs_no_more_than_cross_entropy(make_case):
    case = make_case(ignored=0)
    plain, with_edges = (case.loss("sobel", lambda_1=weight) for weight in (0.0, 4.0))
    truth = 8 * torch.nn.functional.one_hot(case.target, 4).movedim(-1, 1).float()
    assert float(case.value(with_edges, truth)) == pytest.approx(float(case.value(plain, truth)), abs=0.1)
    assert float(case.value(with_edges)) > 2 * float(case.value(plain))
