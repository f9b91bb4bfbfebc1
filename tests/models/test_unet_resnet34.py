"""The U-Net on ResNet-34 against segmentation_models_pytorch's."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from segline.models.unet_resnet34 import UNetResNet34, convolve_upsampled


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def as_in_segline(name):
    """``decoder.blocks.2.conv1.0.weight`` to ``decoder.2.0.0.weight``, ``segmentation_head.0`` to ``head``."""
    for theirs, ours in (("decoder.blocks.", "decoder."), (".conv1.", ".0."), (".conv2.", ".1.")):
        name = name if name.startswith("encoder.") else name.replace(theirs, ours)
    return name.replace("segmentation_head.0", "head")


@pytest.mark.parametrize("classes", [1, 8])
def test_unet_resnet34_is_that_of_smp(classes):
    torch.manual_seed(3)
    theirs = smp.Unet("resnet34", encoder_weights=None, classes=classes)
    theirs.train()(noise(2, 3, 64, 64))
    ours = UNetResNet34(classes)
    ours.load_state_dict({as_in_segline(name): value for name, value in theirs.state_dict().items()})
    assert parameter_count(ours) == parameter_count(theirs)
    images = noise(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("skipped", [0, 3])
def test_a_convolution_of_doubled_features_is_that_of_the_features_made(skipped):
    """Values and gradients, at the border too."""
    torch.manual_seed(0)
    deep = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, skipped, 10, 6, dtype=torch.float64) if skipped else None
    kernel = torch.randn(6, 4 + skipped, 3, 3, dtype=torch.float64, requires_grad=True)
    doubled = deep.repeat_interleave(2, 2).repeat_interleave(2, 3)
    made = F.conv2d(doubled if skip is None else torch.cat([doubled, skip], 1), kernel, padding=1)
    upstream = torch.randn_like(made)
    expected = torch.autograd.grad(made, (deep, kernel), upstream)
    actual = convolve_upsampled(deep, skip, kernel)
    torch.testing.assert_close(actual, made)
    torch.testing.assert_close(torch.autograd.grad(actual, (deep, kernel), upstream), expected)
