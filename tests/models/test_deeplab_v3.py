"""DeepLab v3 against torchvision's, and the rates of the paper."""

import pytest
import torch
import torchvision

from segline.models.deeplab_v3 import DeepLabV3


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def as_in_torchvision(name):
    """``aspp.image.0`` to ``classifier.0.convs.4.1``, the other branches likewise."""
    if name.startswith("encoder."):
        return name.replace("encoder.", "backbone.")
    if name.startswith("aspp.image."):
        index = int(name.split(".")[2]) + 1
        return f"classifier.0.convs.4.{index}." + name.split(".", 3)[3]
    return name.replace("aspp.branches.", "classifier.0.convs.").replace("aspp.fuse.", "classifier.0.project.")


def test_backbone_and_aspp_are_those_of_torchvision():
    """At output stride 8 without multi-grid; torchvision then has a 3x3 convolution that the paper has not."""
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3_resnet101(
        weights=None, weights_backbone=None, aux_loss=False, num_classes=5
    )
    with torch.no_grad():
        theirs.train()(noise(2, 3, 64, 64))
    values = theirs.eval().state_dict()
    ours = DeepLabV3(5, output_stride=8, multi_grid=False).eval()
    head = {"head.weight": torch.zeros(5, 256, 1, 1), "head.bias": torch.zeros(5)}
    ours.load_state_dict({name: head.get(name, values.get(as_in_torchvision(name))) for name in ours.state_dict()})
    images = noise(1, 3, 72, 96)
    with torch.inference_mode():
        expected, actual = theirs.backbone(images)["out"], ours.encoder(images)[-1]
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.aspp(actual), theirs.classifier[0](expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("output_stride", "multi_grid", "third", "fourth", "aspp"),
    [
        (16, True, [1] * 23, [2, 4, 8], [6, 12, 18]),
        (8, True, [1] + [2] * 22, [4, 8, 16], [12, 24, 36]),
        (16, False, [1] * 23, [1, 2, 2], [6, 12, 18]),
        (8, False, [1] + [2] * 22, [2, 4, 4], [12, 24, 36]),
    ],
)
def test_every_3x3_convolution_has_the_rate_of_the_paper(output_stride, multi_grid, third, fourth, aspp):
    """Section 3.2: the last stage's 2 (1, 2, 4) at output stride 16; section 3.3: ASPP's rates, doubled at 8."""
    with torch.device("meta"):
        model = DeepLabV3(5, output_stride=output_stride, multi_grid=multi_grid)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d)}
    rates = {name: layer.dilation[0] for name, layer in layers.items() if layer.kernel_size == (3, 3)}
    assert all(layer.padding == layer.dilation for name, layer in layers.items() if name in rates)
    assert all(layer.dilation == (1, 1) for name, layer in layers.items() if name not in rates)
    groups = ("encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4", "aspp")
    actual = [[rate for name, rate in rates.items() if name.startswith(group)] for group in groups]
    assert actual == [[1] * 3, [1] * 4, third, fourth, aspp]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_encoder_has_the_stride_asked_for(output_stride):
    with torch.device("meta"):
        features = DeepLabV3(5, output_stride=output_stride).encoder(torch.empty(1, 3, 64, 96))[-1]
    assert features.shape == (1, 2048, 64 // output_stride, 96 // output_stride)


def test_parameters_are_resnet101_aspp_and_a_classifier():
    with torch.device("meta"):
        actual = sum(parameter.numel() for parameter in DeepLabV3(21).parameters())
    aspp = 2 * 2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 256 * 256 + 6 * 2 * 256
    assert actual == 42_500_160 + aspp + 257 * 21
