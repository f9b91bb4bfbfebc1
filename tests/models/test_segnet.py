"""SegNet against PyTorch's unpooling, the paper's layers and the network written out."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from segline.models.segnet import SegNet, max_pool, max_unpool

ENCODER = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 1, 2, 2), (1, 4, 2, 6)])
def test_unpooling_is_that_of_pytorch(shape, levels):
    """Also where values of a window are equal, and in the gradient."""
    features = noise(*shape) if levels is None else (levels * noise(*shape)).round()
    features.requires_grad_()
    other = features.detach().clone().requires_grad_()
    maxima, index = F.max_pool2d(other, 2, return_indices=True)
    wanted = F.max_unpool2d(maxima.square(), index, 2)
    ours, index_in_window = max_pool(features)
    actual = max_unpool(ours.square(), index_in_window)
    assert torch.equal(actual, wanted)
    weights = noise(*shape)
    (actual * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.equal(features.grad, other.grad)


@pytest.mark.parametrize("classes", [1, 12])
def test_it_has_the_layers_of_the_paper(classes):
    """Figure 2: VGG-16's 13 convolutions and their mirror image; 14.7 M in the encoder and 29.4 M in all.

    The encoder has a bias before batch normalisation, as its weights from ImageNet do; the decoder spares it.
    """
    mirrored = [classes, *ENCODER[1:]][::-1]
    kernels = sum(9 * into * out for into, out in pairwise(ENCODER))
    encoder = kernels + sum(3 * out for out in ENCODER[1:])
    decoder = sum(9 * into * out for into, out in pairwise(mirrored))
    decoder += sum(2 * out for out in mirrored[1:-1]) + classes
    with torch.device("meta"):
        model = SegNet(classes)
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == encoder
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder
    assert round(kernels / 1e6, 1) == 14.7
    assert round((encoder + decoder) / 1e6, 1) in (29.4, 29.5)


def test_it_computes_what_the_paper_draws():
    """Written out with PyTorch's unpooling, in double precision."""
    torch.manual_seed(0)
    model = SegNet(3)
    with torch.no_grad():
        model.train()(noise(2, 3, 64, 64))
    values = list(model.eval().double().state_dict().values())

    def take(count):
        return [values.pop(0) for _ in range(count)]

    def unit(features, *, bias):
        kernel, *offset = take(2 if bias else 1)
        scale, shift, mean, variance, _ = take(5)
        features = F.conv2d(features, kernel, *offset, padding=1)
        return F.relu(F.batch_norm(features, mean, variance, scale, shift))

    images = noise(1, 3, 64, 96).double()
    features, indices = images, []
    with torch.inference_mode():
        for convolutions in (2, 2, 3, 3, 3):
            for _ in range(convolutions):
                features = unit(features, bias=True)
            features, index = F.max_pool2d(features, 2, return_indices=True)
            indices.append(index)
        for convolutions in (3, 3, 3, 2, 1):
            features = F.max_unpool2d(features, indices.pop(), 2)
            for _ in range(convolutions):
                features = unit(features, bias=False)
        wanted = F.conv2d(features, *take(2), padding=1)
        assert not values
        torch.testing.assert_close(model(images), wanted)
