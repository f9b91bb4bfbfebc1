"""Atrous spatial pyramid pooling: which positions it sees, measured by their gradients."""

import pytest
import torch
import torch.nn.functional as F

from segline.models.aspp import ASPP, AtrousConvBNReLU, AtrousDepthwiseConv, SeparableConvBNReLU
from segline.models.blocks import BatchNorm

BLOCKS = pytest.mark.parametrize("unit", [AtrousConvBNReLU, SeparableConvBNReLU])


def seen_from_the_centre(network, side):
    """Return the offsets of the positions on which one output in the centre depends."""
    features = torch.rand(1, 4, side, side, generator=torch.Generator().manual_seed(1)).requires_grad_()
    network.eval()(features)[0, :, side // 2, side // 2].sum().backward()
    return {tuple(offset) for offset in (features.grad[0].abs().sum(0).nonzero() - side // 2).tolist()}


def square(rate):
    return {(row, column) for row in (-rate, 0, rate) for column in (-rate, 0, rate)}


@pytest.fixture(autouse=True)
def _positive_weights(monkeypatch):
    """Keep every ReLU active, so that each position's influence is measurable."""
    initialise = torch.nn.Conv2d.reset_parameters

    def positive(layer):
        initialise(layer)
        with torch.no_grad():
            layer.weight.abs_()

    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", positive)


@BLOCKS
@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
def test_each_branch_sees_nine_positions_at_its_rate(unit, output_stride, rates):
    aspp, side = ASPP(4, unit=unit, output_stride=output_stride, dropout=0.0), 2 * max(rates) + 5
    actual = [seen_from_the_centre(branch, side) for branch in aspp.branches]
    assert actual == [{(0, 0)}, *map(square, rates)]


@BLOCKS
def test_without_the_image_it_sees_the_branches_and_with_it_everything(unit):
    aspp = ASPP(4, unit=unit, output_stride=16, dropout=0.0)
    assert len(seen_from_the_centre(aspp, 41)) == 41 * 41
    with torch.no_grad():
        aspp.image[0].weight.zero_()
    assert seen_from_the_centre(aspp, 41) == square(6) | square(12) | square(18)


def test_one_image_trains_and_leaves_the_statistics_of_the_pooled_branch():
    aspp = ASPP(4, unit=AtrousConvBNReLU, output_stride=16, dropout=0.0).train()
    assert isinstance(aspp.image[1], BatchNorm)
    out = aspp(torch.rand(1, 4, 5, 5))
    out.sum().backward()
    assert out.isfinite().all()
    assert torch.equal(aspp.image[1].running_mean, torch.zeros(256))
    aspp(torch.rand(2, 4, 5, 5))
    assert not torch.equal(aspp.image[1].running_mean, torch.zeros(256))


def test_a_separable_unit_normalises_between_its_halves():
    torch.manual_seed(0)
    unit = SeparableConvBNReLU(4, 6, rate=2)
    features = torch.randn(3, 4, 9, 8)
    each = F.conv2d(features, unit[0].weight, padding=2, dilation=2, groups=4)
    each = F.relu(
        (each - each.mean((0, 2, 3), keepdim=True)) / (each.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt()
    )
    mixed = torch.einsum("oc,bchw->bohw", unit[3][0].weight[:, :, 0, 0], each)
    mixed = (mixed - mixed.mean((0, 2, 3), keepdim=True)) / (mixed.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(unit.train()(features), F.relu(mixed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rate", "side"), [(1, 5), (2, 5), (2, 9), (3, 12), (5, 5), (5, 6), (7, 5), (6, 25)])
def test_a_rate_is_that_of_a_convolution_whichever_way_it_is_computed(rate, side):
    """By the centre alone, on sub-grids, or plainly: values and gradients."""
    torch.manual_seed(0)
    layer = AtrousDepthwiseConv(4, rate).double()
    features = torch.randn(2, 4, side, side + 1, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(features, layer.weight, padding=rate, dilation=rate, groups=4)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (features, layer.weight), upstream)
    actual = layer(features)
    torch.testing.assert_close(actual, plain)
    torch.testing.assert_close(torch.autograd.grad(actual, (features, layer.weight), upstream), expected)
