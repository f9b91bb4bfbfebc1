"""DeepLab v3+: the rates of the paper, the decoder written out, both encoders."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segline.models.deeplab_v3plus import DeepLabV3Plus


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def rates_of(model, *groups):
    """Rates of the 3x3 convolutions by group, where any is above one."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    assert all(layer.dilation == (1, 1) for layer in layers.values() if layer.kernel_size != (3, 3))
    assert sum(layer.dilation[0] > 1 for layer in layers.values()) == sum(
        layer.dilation[0] > 1 for name, layer in layers.items() if name.startswith(groups)
    )
    return [
        [layer.dilation[0] for name, layer in layers.items() if name.startswith(group) and layer.kernel_size == (3, 3)]
        for group in groups
    ]


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [(16, [[1] * 23, [2, 4, 8], [6, 12, 18]]), (8, [[1] + [2] * 22, [4, 8, 16], [12, 24, 36]])],
)
def test_rates_with_resnet101(output_stride, expected):
    with torch.device("meta"):
        model = DeepLabV3Plus(5, output_stride=output_stride)
    assert rates_of(model, "encoder.layer3.", "encoder.layer4.", "aspp.") == expected


@pytest.mark.parametrize(
    ("output_stride", "middle", "last_but_one", "last", "aspp"),
    [(16, 1, 1, 2, [6, 12, 18]), (8, 2, 2, 4, [12, 24, 36])],
)
def test_rates_with_xception71(output_stride, middle, last_but_one, last, aspp):
    """Five entry blocks, sixteen of the middle flow, two of the exit flow, three convolutions each."""
    with torch.device("meta"):
        model = DeepLabV3Plus(5, encoder="xception71", output_stride=output_stride)
    groups = [f"encoder.1.blocks.{index}." for index in (4, *range(5, 21), 21, 22)]
    expected = [[1] * 3, *[[middle] * 3] * 16, [last_but_one] * 3, [last] * 3]
    assert rates_of(model, *groups, "aspp.") == [*expected, aspp]


@pytest.mark.parametrize("encoder", ["resnet101", "xception71"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_low_level_features_have_stride_four(encoder, output_stride):
    with torch.device("meta"):
        model = DeepLabV3Plus(5, encoder=encoder, output_stride=output_stride)
        _, low, *_, deep = model.encoder(torch.empty(1, 3, 64, 96))
        assert low.shape == (1, 256, 16, 24)
        assert deep.shape == (1, 2048, 64 // output_stride, 96 // output_stride)
        assert model(torch.empty(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def unit_written_out(values, features, name, groups=1):
    """Convolution, batch normalisation and ReLU from a state dict, padded to keep the size."""
    weight = values[f"{name}.0.weight"]
    norm = [values[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    convolved = F.conv2d(features, weight, padding=weight.shape[-1] // 2, groups=groups)
    return F.relu(F.batch_norm(convolved, *norm))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_decoder_is_that_of_the_paper(output_stride):
    """Section 3.1 and figure 2, from the features on."""
    torch.manual_seed(0)
    model = DeepLabV3Plus(5, output_stride=output_stride, dropout=0.0)
    with torch.no_grad():
        model.train()(noise(2, 3, 64, 64))
    values, images = model.eval().state_dict(), noise(1, 3, 65, 97)
    with torch.inference_mode():
        _, low, _, _, deep = model.encoder(images)
        upsampled = nn.Upsample((17, 25), mode="bilinear", align_corners=True)(model.aspp(deep))
        refined = torch.cat([upsampled, unit_written_out(values, low, "reduce")], dim=1)
        for index in (0, 1):
            refined = unit_written_out(values, refined, f"refine.{index}", groups=refined.shape[1])
            refined = unit_written_out(values, refined, f"refine.{index}.3")
        logits = F.conv2d(refined, values["head.weight"], values["head.bias"])
        expected = nn.Upsample((65, 97), mode="bilinear", align_corners=True)(logits)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_those_of_the_paper():
    """The encoder's, ASPP of separable convolutions, 256 to 48, two separable convolutions of 256, the head."""

    def separable(channels_in, channels_out):
        return 9 * channels_in + 2 * channels_in + channels_in * channels_out + 2 * channels_out

    def point(channels_in, channels_out):
        return channels_in * channels_out + 2 * channels_out

    aspp = 2 * point(2048, 256) + 3 * separable(2048, 256) + point(5 * 256, 256)
    decoder = point(256, 48) + separable(304, 256) + separable(256, 256) + 257 * 19
    with torch.device("meta"):
        actual = sum(parameter.numel() for parameter in DeepLabV3Plus(19).parameters())
    assert actual == 42_500_160 + aspp + decoder
