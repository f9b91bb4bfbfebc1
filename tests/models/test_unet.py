"""The padded U-Net against the figure of its paper."""

import pytest
import torch
import torch.nn.functional as F

from segline.errors import TrainingError
from segline.models.unet import UNet


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def unet_parameters(width, depth, classes):
    """From figure 1 of Ronneberger et al.; batch normalisation has two per channel and spares the bias before it."""

    def unit(channels_in, channels_out):
        return 9 * channels_in * channels_out + 2 * channels_out

    def block(channels_in, channels_out):
        return unit(channels_in, channels_out) + unit(channels_out, channels_out)

    total = block(3, width) + width * classes + classes
    for level in range(1, depth + 1):
        deep, shallow = width * 2**level, width * 2 ** (level - 1)
        up = 4 * deep * shallow + shallow
        total += block(shallow, deep) + up + block(2 * shallow, shallow)
    return total


@pytest.mark.parametrize(
    ("width", "depth", "classes"), [(64, 4, 2), (64, 4, 21), (16, 4, 8), (8, 2, 3), (1, 1, 1), (2, 6, 5)]
)
def test_unet_has_the_layers_of_the_paper(width, depth, classes):
    with torch.device("meta"):
        assert parameter_count(UNet(classes, width=width, depth=depth)) == unet_parameters(width, depth, classes)


def test_unet_is_that_of_the_paper_unless_told():
    with torch.device("meta"):
        assert parameter_count(UNet(2)) == unet_parameters(64, 4, 2)


def test_unet_computes_what_the_paper_draws():
    """Figure 1 of Ronneberger et al. written out for two poolings, in double precision."""
    model = UNet(3, width=4, depth=2)
    model.train()(noise(4, 3, 16, 16))
    model.eval().double()
    values = list(model.state_dict().items())

    def take(count):
        return [values.pop(0)[1] for _ in range(count)]

    def unit():
        kernel, scale, offset, mean, variance, _ = take(6)
        scale = scale / (variance + 1e-5).sqrt()
        folded = kernel * scale[:, None, None, None]
        return lambda features: F.relu(F.conv2d(features, folded, offset - mean * scale, padding=1))

    first, second, third, fourth, fifth, sixth = (unit() for _ in range(6))
    up_kernel, up_bias, up_kernel_2, up_bias_2 = take(4)
    seventh, eighth, ninth, tenth = (unit() for _ in range(4))
    head, head_bias = take(2)

    images = noise(2, 3, 24, 32).double()
    full = second(first(images))
    half = fourth(third(F.max_pool2d(full, 2)))
    quarter = sixth(fifth(F.max_pool2d(half, 2)))
    half = eighth(seventh(torch.cat([F.conv_transpose2d(quarter, up_kernel, up_bias, stride=2), half], 1)))
    full = tenth(ninth(torch.cat([F.conv_transpose2d(half, up_kernel_2, up_bias_2, stride=2), full], 1)))
    torch.testing.assert_close(model(images), F.conv2d(full, head, head_bias))


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize(
    ("encoder", "strides"),
    [("resnet10t", [2, 4, 8, 16, 32]), ("convnext_atto", [4, 8, 16, 32]), ("tf_efficientnet_lite0", [2, 4, 8, 16, 32])],
)
def test_on_an_encoder_every_stride_is_decoded_once(encoder, strides, upsampling):
    model = UNet(3, encoder=encoder, upsampling=upsampling).eval()
    seen = {}
    for layer in model.decoder:
        layer.register_forward_hook(lambda _, inputs, out: seen.update({out.shape[-1]: (inputs[0], out)}))
    with torch.inference_mode():
        assert model(noise(1, 3, 33, 70)).shape == (1, 3, 33, 70)
        seen.clear()
        assert model(noise(2, 3, 64, 64)).shape == (2, 3, 64, 64)
    outputs = {64 // side: out.shape[1] for side, (_, out) in seen.items()}
    assert outputs == {16: 256, 8: 128, 4: 64, 2: 32, 1: 16}
    skips = [64 // side for side, (inputs, out) in seen.items() if inputs.shape[1] > out.shape[1]]
    assert sorted(skips) == strides[:-1]


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("resnet3", "unknown model 'resnet3' of timm; did you mean 'resnet"),
        ("vit_tiny_patch16_224", "features of the strides"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(encoder, words):
    with pytest.raises(TrainingError, match=words):
        UNet(3, encoder=encoder)
