"""Blocks that several architectures share."""

import pytest
import torch
from torch import nn

from segline.models.blocks import BatchNorm, pad_to_stride


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_an_odd_size_is_padded_with_zeros_below_and_right():
    images, padded = noise(2, 3, 90, 93), torch.zeros(2, 3, 96, 96)
    padded[..., :90, :93] = images
    seen = []

    def network(given):
        seen.append(given)
        return 2 * given

    torch.testing.assert_close(pad_to_stride(network, images, 32), 2 * images)
    torch.testing.assert_close(seen[0], padded)


@pytest.mark.parametrize(
    ("side", "stride", "expected"), [(1, 32, 64), (64, 32, 64), (65, 32, 96), (5, 1, 5), (1, 1, 2)]
)
def test_a_side_is_padded_to_a_whole_number_of_strides_and_at_least_two(side, stride, expected):
    shapes = []
    pad_to_stride(lambda given: shapes.append(given.shape) or given, noise(1, 3, side, 2 * stride), stride)
    assert shapes == [(1, 3, expected, 2 * stride)]


def test_batch_norm_is_the_usual_one_wherever_that_works():
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    for shape in ((2, 4, 1, 1), (1, 4, 3, 1), (3, 4, 5, 6)):
        torch.testing.assert_close(ours.train()(noise(*shape)), theirs.train()(noise(*shape)))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(noise(1, 4, 1, 1)), theirs.eval()(noise(1, 4, 1, 1)))


def test_batch_norm_takes_a_single_value_by_its_running_statistics():
    ours = BatchNorm(4)
    ours.train()(noise(2, 4, 3, 3))
    statistics = ours.running_mean.clone(), ours.running_var.clone()
    single = noise(1, 4, 1, 1)
    expected = (single - statistics[0].view(1, 4, 1, 1)) / (statistics[1].view(1, 4, 1, 1) + ours.eps).sqrt()
    torch.testing.assert_close(ours(single), expected)
    assert torch.equal(ours.running_mean, statistics[0])
    assert torch.equal(ours.running_var, statistics[1])
