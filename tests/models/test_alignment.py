"""Where an architecture looks: the centre of the pixels that a logit depends on, and the pixel of the logit.

Features of strided layers lie at s * i. Every kernel is reduced to its centre here and all weights are positive, so
that a logit depends on the image linearly, at the positions of the features that it is interpolated from.
"""

import pytest
import torch
from torch import nn

from segline.models import MODELS

CASES = [
    ("deeplab_v2", {}, 8),
    ("deeplab_v3", {}, 16),
    pytest.param("deeplab_v3", {"output_stride": 8}, 8, marks=pytest.mark.slow),
    ("spp", {}, 8),
    pytest.param("spp", {"output_stride": 32}, 32, marks=pytest.mark.slow),
    ("drn_a_18", {}, 8),
]
STRIDE = 32
"""The number of pixels that are averaged: a multiple of every stride."""
POOLED = ("aspp.image", "pool.units")


@torch.no_grad()
def reduce_to_centres(network):
    """Make the network linear and local: centres of kernels alone, no statistics, no pooled image."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            row, column = (side // 2 for side in layer.kernel_size)
            layer.weight.zero_()
            if not name.startswith(POOLED):
                layer.weight[:, :, row, column] = 1 / layer.weight.shape[1]
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.MaxPool2d):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, nn.AvgPool2d(3, stride=2, padding=1))
    return network.eval()


def offset(network, places, size=97):
    """Return the mean (row, column) of the centre of what the logits at some places depend on, relative to these."""
    images = torch.ones(1, 3, size, size, requires_grad=True)
    logits = network(images)[0, 0]
    (gradient,) = torch.autograd.grad(sum(logits[place, place] for place in places), images)
    weights, axis = gradient[0, 0].double(), torch.arange(size, dtype=torch.float64)
    weights /= weights.sum()
    return torch.stack([weights.sum(1) @ axis, weights.sum(0) @ axis]) - sum(places) / len(places)


def around_the_middle(count):
    return range(48 - count // 2, 48 - count // 2 + count)


@pytest.mark.usefixtures("not_drawn")
@pytest.mark.parametrize(("name", "options", "stride"), CASES)
def test_an_aligned_network_is_centred_and_the_other_looks_half_a_stride_to_one_side(name, options, stride):
    aligned, other = (reduce_to_centres(MODELS[name](2, align_corners=value, **options)) for value in (True, False))
    for places in (around_the_middle(STRIDE), [45]):
        torch.testing.assert_close(offset(aligned, places), torch.zeros(2).double(), rtol=0, atol=1e-2)
    shift = torch.full((2,), -(stride - 1) / 2).double()
    torch.testing.assert_close(offset(other, around_the_middle(STRIDE)), shift, rtol=0, atol=1e-2)


@pytest.mark.usefixtures("not_drawn")
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"output_stride": 8}, marks=pytest.mark.slow), {"encoder": "xception71"}]
)
def test_deeplab_v3plus_is_centred_where_it_is_aligned(options):
    """Otherwise it looks to one side by 1.5 px in its features of stride 4, and by more in the coarse ones."""
    aligned, other = (
        reduce_to_centres(MODELS["deeplab_v3plus"](2, align_corners=value, **options)) for value in (True, False)
    )
    for places in (around_the_middle(STRIDE), [45]):
        torch.testing.assert_close(offset(aligned, places), torch.zeros(2).double(), rtol=0, atol=1e-2)
    stride = options.get("output_stride", 16)
    shift = offset(other, around_the_middle(STRIDE))
    assert (shift < -1.5).all()
    assert (shift >= -(stride - 1) / 2 - 1e-2).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (65, 33)])
@pytest.mark.parametrize("name", ["deeplab_v2", "deeplab_v3", "deeplab_v3plus", "drn_a_18", "spp"])
def test_an_aligned_network_takes_images_of_any_size(name, size):
    with torch.device("meta"):
        assert MODELS[name](3, align_corners=True)(torch.empty(1, 3, *size)).shape == (1, 3, *size)
