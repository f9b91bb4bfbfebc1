"""Pyramid pooling against PyTorch's own pooling and smp's module, and the network around it."""

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule

from segline.models.blocks import PyramidPooling, adaptive_avg_pool
from segline.models.spp import Spp


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cells", [1, 2, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (6, 6), (7, 13), (48, 48), (97, 31)])
def test_cell_means_are_adaptive_average_pooling(cells, height, width):
    features = noise(2, 3, height, width).double().requires_grad_()
    weights = noise(2, 3, cells, cells).double()
    actual, expected = adaptive_avg_pool(features, cells), F.adaptive_avg_pool2d(features, cells)
    torch.testing.assert_close(actual, expected)
    gradients = (torch.autograd.grad((means * weights).sum(), features)[0] for means in (actual, expected))
    torch.testing.assert_close(*gradients)


def test_cell_means_of_half_precision_do_not_drift():
    """Ones average to exactly one, however many there are."""
    assert torch.equal(adaptive_avg_pool(torch.ones(1, 2, 97, 97).bfloat16(), 3), torch.ones(1, 2, 3, 3).bfloat16())


def test_pyramid_pooling_has_the_branches_of_smp():
    """Up to the upsampling, which smp aligns to the corners; and smp leaves batch normalisation out of grid 1."""
    torch.manual_seed(0)
    theirs, ours = PSPModule(32), PyramidPooling(32)
    features = noise(4, 32, 11, 8)
    for block, unit in zip(list(theirs.blocks)[1:], list(ours.units.values())[1:], strict=True):
        unit[0].weight = block.pool[1][0].weight
        block.train().pool(features)
        unit[1].load_state_dict(block.pool[1][1].state_dict())
    theirs.eval(), ours.eval()
    with torch.inference_mode():
        actual = ours(features).split([32, 8, 8, 8, 8], dim=1)
        assert torch.equal(actual[0], features)
        for block, upsampled in zip(list(theirs.blocks)[1:], actual[2:], strict=True):
            expected = F.interpolate(block.pool(features), (11, 8), mode="bilinear", align_corners=False)
            torch.testing.assert_close(upsampled, expected, rtol=1e-5, atol=1e-5)


def test_the_coarsest_grid_is_the_mean_of_the_image():
    ours, features = PyramidPooling(8).eval(), noise(2, 8, 5, 9)
    with torch.inference_mode():
        weight = ours.units["1"][0].weight[:, :, 0, 0]
        expected = F.relu(features.mean((2, 3)) @ weight.T / (1 + 1e-5) ** 0.5)
        torch.testing.assert_close(ours(features)[:, 8:10], expected[:, :, None, None].expand(2, 2, 5, 9))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_one_upsampling_step_brings_the_logits_to_the_image(output_stride):
    torch.manual_seed(0)
    model, images = Spp(3, output_stride=output_stride).eval(), noise(1, 3, 65, 97)
    seen = {}
    model.head.register_forward_hook(lambda _, __, logits: seen.update(logits=logits))
    with torch.inference_mode():
        actual = model(images)
        assert seen["logits"].shape == (1, 3, 64 // output_stride + 1, 96 // output_stride + 1)
        upsample = torch.nn.Upsample((65, 97), mode="bilinear", align_corners=True)
        torch.testing.assert_close(actual, upsample(seen["logits"]))


def test_spp_has_the_layers_of_pspnet():
    """ResNet-101 without its classifier (42.5 M), four reductions of 2048 to 512, 3x3 from 4096 to 512, the head."""
    with torch.device("meta"):
        actual = sum(parameter.numel() for parameter in Spp(21).parameters())
    assert actual == 42_500_160 + 4 * (2048 * 512 + 2 * 512) + 9 * 4096 * 512 + 2 * 512 + 513 * 21
