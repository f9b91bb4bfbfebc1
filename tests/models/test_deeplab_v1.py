"""DeepLab-LargeFOV against the rates, sizes and counts of its paper."""

from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from segline.models import deeplab_v1
from segline.models.deeplab_v1 import DeepLabV1, decimate

CHANNELS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepLabV1(3).eval()


def test_it_has_the_parameters_of_the_paper():
    """20.5 M in table 1 for 3x3 kernels, rate 12 and 1024 channels, with the 21 classes of VOC."""
    vgg = sum(9 * into * out + out for into, out in pairwise(CHANNELS))
    wanted = vgg + 9 * 512 * 1024 + 1024 + 1024 * 1024 + 1024 + 21 * 1024 + 21
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in DeepLabV1(21).parameters())
    assert count == wanted
    assert round(count / 1e6, 1) == 20.5


def test_321_pixels_have_41_places():
    with torch.device("meta"):
        assert DeepLabV1(21).coarse(torch.zeros(1, 3, 321, 321)).shape == (1, 21, 41, 41)


def view(layers):
    """Return the receptive field of one output position, from (kernel, stride, dilation) of each layer."""
    seen, jump = 1, 1
    for kernel, stride, dilation in layers:
        seen += (kernel - 1) * dilation * jump
        jump *= stride
    return seen


def test_the_view_of_fc6_is_measured(model):
    """By the gradient along one line; all weights positive and means in place of maxima let every path through."""
    pairs, triples = [(3, 1, 1)] * 2, [(3, 1, 1)] * 3
    halve, keep, dilated = [(3, 2, 1)], [(3, 1, 1)], [(3, 1, 2)] * 3
    before = pairs + halve + pairs + halve + triples + halve + triples + keep + dilated + keep
    wanted = view([*before, (3, 1, 12)])
    assert wanted == 419
    layers = [
        nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding) if isinstance(layer, nn.MaxPool2d) else layer
        for layer in model.features
    ]

    def positive(line):
        for layer in [*layers, model.fc6]:
            if isinstance(layer, nn.Conv2d):
                kernel = torch.ones_like(layer.weight[:1, :1]) / 9
                line = F.conv2d(line, kernel, None, layer.stride, layer.padding, layer.dilation)
            else:
                line = layer(line)
        return line

    for shape, axis in (((1, 1, 1, 641), 3), ((1, 1, 641, 1), 2)):
        line = torch.ones(shape, requires_grad=True)
        places = positive(line).flatten()
        assert len(places) == 81
        places[40].backward()
        reached = line.grad.squeeze().nonzero().flatten()
        assert line.grad.shape[axis] == 641
        assert (int(reached[0]), int(reached[-1])) == (320 - wanted // 2, 320 + wanted // 2)


def test_fc6_spans_what_vggs_does_at_rate_4(model):
    """Table 1 of the paper: 3x3 at rate 12 has the view of 7x7 at rate 4."""
    assert view([(3, 1, model.fc6.dilation[0])]) == view([(7, 1, 4)]) == 25


@pytest.mark.parametrize(("height", "width"), [(65, 49), (17, 9), (1, 1)])
def test_every_eighth_logit_is_one_of_the_grid_and_lines_join_them(model, height, width):
    images = noise(1, 3, height, width)
    with torch.inference_mode():
        coarse, logits = model.coarse(images), model(images)
    torch.testing.assert_close(logits[..., ::8, ::8], coarse)
    share = torch.arange(height) % 8 / 8
    above, below = coarse[..., :-1, :], coarse[..., 1:, :]
    for row in range(height - 1):
        line = above[..., row // 8, :] * (1 - share[row]) + below[..., row // 8, :] * share[row]
        torch.testing.assert_close(logits[..., row, ::8], line)


def test_it_is_the_network_written_out(model):
    """Deep convolutions at the rate of their grid, the poolings as maxima over shifted copies."""
    values = list(model.state_dict().values())

    def convolve(features, rate):
        kernel, bias = values.pop(0), values.pop(0)
        reach = rate * (kernel.shape[-1] // 2)
        return F.conv2d(features, kernel, bias, padding=reach, dilation=rate)

    def pool(features, stride):
        height, width = features.shape[-2:]
        padded = F.pad(features, (1, 1, 1, 1), value=-torch.inf)
        shifted = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
        return torch.stack(shifted).amax(0)[..., ::stride, ::stride]

    images = noise(1, 3, 65, 41)
    with torch.inference_mode():
        features = images
        for convolutions, rate, stride in ((2, 1, 2), (2, 1, 2), (3, 1, 2), (3, 1, 1), (3, 2, 1)):
            for _ in range(convolutions):
                features = F.relu(convolve(features, rate))
            features = pool(features, stride)
        wanted = convolve(F.relu(convolve(F.relu(convolve(features, 12)), 1)), 1)
        assert not values
        torch.testing.assert_close(model.coarse(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))


def test_dropout_is_for_training_only(model):
    images = noise(1, 3, 33, 33)
    with torch.inference_mode():
        assert torch.equal(model(images), model(images))
        model.train()
        assert not torch.equal(model(images), model(images))
        model.eval()


def test_decimation_takes_every_fourth_channel_and_every_third_tap():
    large, small = nn.Conv2d(5, 16, kernel_size=7), nn.Conv2d(5, 4, kernel_size=3)
    decimate(large, small)
    for out in range(4):
        assert small.bias[out] == large.bias[4 * out]
        for row in range(3):
            for column in range(3):
                assert torch.equal(small.weight[out, :, row, column], large.weight[4 * out, :, 3 * row, 3 * column])
    wide, narrow = nn.Conv2d(16, 16, kernel_size=1), nn.Conv2d(4, 4, kernel_size=1)
    decimate(wide, narrow)
    assert all(torch.equal(narrow.weight[out, :, 0, 0], wide.weight[4 * out, ::4, 0, 0]) for out in range(4))


def test_pretrained_it_starts_from_all_of_vgg_16(monkeypatch):
    vgg = timm.create_model("vgg16", num_classes=0)
    monkeypatch.setattr(deeplab_v1, "backbone", lambda name, *, pretrained: vgg)
    model = DeepLabV1(2, pretrained=True)
    assert torch.equal(model.features[28].weight, vgg.features[28].weight)
    assert torch.equal(model.fc6.weight, vgg.pre_logits.fc1.weight[::4, :, [0, 3, 6]][..., [0, 3, 6]])
    assert torch.equal(model.fc7.weight, vgg.pre_logits.fc2.weight[::4, ::4])
