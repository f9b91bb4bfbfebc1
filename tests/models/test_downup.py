"""DownUp against Seed S0 4.4.1."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segline.models.downup import DownUp


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_bottom_of_384_pixels_is_212_by_48_by_48():
    with torch.device("meta"):
        model, images = DownUp(35), torch.zeros(2, 3, 384, 384)
        assert model.down(images).shape == (2, 212, 48, 48)
        assert model(images).shape == (2, 35, 384, 384)


def test_the_layers_are_those_of_the_seed():
    """2 x [conv, ReLU], 3 x [pool, 3 x (conv, ReLU)]; the inverse, its last layer without ReLU."""
    with torch.device("meta"):
        model = DownUp(35)
    kinds = [[type(layer).__name__ for layer in half] for half in (model.down, model.up)]
    assert kinds[0] == ["Conv2d", "ReLU"] * 2 + (["MaxPool2d"] + ["Conv2d", "ReLU"] * 3) * 3
    names = {"Conv2d": "ConvTranspose2d", "MaxPool2d": "Upsample", "ReLU": "ReLU"}
    inverse = [names[kind] for kind in kinds[0] if kind != "ReLU"][::-1]
    assert [kind for kind in kinds[1] if kind != "ReLU"] == inverse
    assert kinds[1].count("ReLU") == 10
    assert kinds[1][-1] == "ConvTranspose2d"


@pytest.mark.parametrize(("width", "classes"), [(212, 35), (8, 1), (32, 4)])
def test_the_inverse_takes_the_same_way_back(width, classes):
    with torch.device("meta"):
        model = DownUp(classes, width=width)
    down = [(layer.in_channels, layer.out_channels) for layer in model.down if isinstance(layer, nn.Conv2d)]
    up = [(layer.out_channels, layer.in_channels) for layer in model.up if isinstance(layer, nn.ConvTranspose2d)]
    assert up[::-1] == [(classes, down[0][1]), *down[1:]]
    assert down[0][0] == 3
    assert down[-1][1] == width
    if width == 212:
        assert [out for _, out in down] == [26, 26, 53, 53, 53, 106, 106, 106, 212, 212, 212]


def test_it_computes_what_the_seed_writes():
    """A transposed convolution of stride 1 is a convolution with the turned kernel; upsampling repeats pixels."""
    torch.manual_seed(0)
    model = DownUp(3, width=16).eval()
    values = list(model.double().state_dict().values())
    images = noise(2, 3, 24, 32).double()
    features = images
    for stage, convolutions in enumerate((2, 3, 3, 3)):
        if stage:
            features = F.max_pool2d(features, 2)
        for _ in range(convolutions):
            features = F.relu(F.conv2d(features, values.pop(0), values.pop(0), padding=1))
    for stage, convolutions in enumerate((3, 3, 3, 2)):
        if stage:
            features = features.repeat_interleave(2, -1).repeat_interleave(2, -2)
        for _ in range(convolutions):
            kernel, bias = values.pop(0), values.pop(0)
            features = F.conv2d(features, kernel.flip(-1, -2).transpose(0, 1), bias, padding=1)
            features = F.relu(features) if values else features
    torch.testing.assert_close(model(images), features)


def test_the_signal_neither_fades_nor_grows():
    """What He's rule is for: logits of the order of the image after 22 layers."""
    torch.manual_seed(0)
    model = DownUp(8).eval()
    with torch.inference_mode():
        logits = model(noise(1, 3, 64, 64))
    assert 0.1 < float(logits.std()) < 10
