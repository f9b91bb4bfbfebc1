"""The published U-Net against figure 1 of its paper, mirrored images of NumPy and one untiled pass."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segline.models.unet_valid import UNetValid, ValidNetwork, reflect_pad


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def small(classes=3, depth=2, tile=68):
    torch.manual_seed(0)
    return UNetValid(classes, width=4, depth=depth, tile=tile).eval()


def test_572_pixels_give_388():
    with torch.device("meta"):
        assert UNetValid(2).network(torch.zeros(1, 3, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
def test_the_margin_is_what_the_convolutions_take(depth):
    """Two pixels a side at every step of the way, counted in those of the input."""
    taken = 0
    for level in range(depth):
        taken += 2 * 2**level + 2 * 2**level
    taken += 2 * 2**depth
    with torch.device("meta"):
        model = UNetValid(2, width=1, depth=depth)
        side = 4 + 2 * 2**depth
        assert model.margin == taken
        assert model.network(torch.zeros(1, 3, side + 2 * taken, side + 2 * taken)).shape == (1, 2, side, side)


@pytest.mark.parametrize(("width", "depth", "classes"), [(64, 4, 2), (8, 2, 5), (3, 1, 1)])
def test_it_has_the_layers_of_the_paper(width, depth, classes):
    def two(into, out):
        return 9 * into * out + out + 9 * out * out + out

    count = two(3, width) + width * classes + classes
    for level in range(depth):
        shallow, deep = width * 2**level, width * 2 ** (level + 1)
        count += two(shallow, deep) + 4 * deep * shallow + shallow + two(deep, shallow)
    with torch.device("meta"):
        assert (
            sum(parameter.numel() for parameter in UNetValid(classes, width=width, depth=depth).parameters()) == count
        )
    if (width, depth) == (64, 4):
        assert round(count / 1e6, 1) == 31.0


def test_it_computes_what_the_paper_draws():
    """Figure 1 written out for two poolings."""
    model = small().double()
    values = list(model.network.state_dict().values())
    down = [values[at : at + 4] for at in (0, 4, 8)]
    up, rest = [values[12:14], values[14:16]], values[16:]

    def two(features, kernel, bias, kernel_2, bias_2):
        return F.relu(F.conv2d(F.relu(F.conv2d(features, kernel, bias)), kernel_2, bias_2))

    def cropped(skip, rim):
        return skip[..., rim:-rim, rim:-rim]

    images = noise(2, 3, 60, 52).double()
    full = two(images, *down[0])
    half = two(F.max_pool2d(full, 2), *down[1])
    quarter = two(F.max_pool2d(half, 2), *down[2])
    half = two(torch.cat([F.conv_transpose2d(quarter, *up[0], stride=2), cropped(half, 4)], 1), *rest[:4])
    full = two(torch.cat([F.conv_transpose2d(half, *up[1], stride=2), cropped(full, 16)], 1), *rest[4:8])
    torch.testing.assert_close(model.network(images), F.conv2d(full, *rest[8:]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (5, 1), (17, 40)])
def test_the_mirror_is_that_of_numpy(height, width):
    images = noise(2, 3, height, width)
    wanted = np.pad(images.numpy(), ((0, 0), (0, 0), (20, 33), (20, 31)), mode="reflect")
    actual = reflect_pad(images, 20, height + 53, width + 51)
    assert np.array_equal(actual.numpy(), wanted)


def test_the_gradient_comes_back_through_the_mirror():
    """Every pixel has that of all its images."""
    images = noise(1, 3, 3, 2).requires_grad_()
    reflect_pad(images, 2, 7, 6).sum().backward()
    counts = np.zeros((3, 2))
    for place in np.pad(np.arange(6).reshape(3, 2), 2, mode="reflect").ravel():
        counts.flat[place] += 1
    assert np.array_equal(images.grad[0, 0].numpy(), counts)


@pytest.mark.parametrize(("height", "width"), [(150, 71), (68, 68), (69, 200), (30, 132), (1, 133)])
def test_tiles_give_what_one_pass_gives(height, width):
    images = noise(1, 3, height, width)
    with torch.inference_mode():
        tiled, whole = small()(images), small(tile=16384)(images)
    assert tiled.shape == (1, 3, height, width)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tile", "depth", "largest"), [(68, 2, 68), (71, 2, 68), (100, 3, 100), (103, 3, 100)])
def test_no_tile_is_larger_than_told(tile, depth, largest):
    model = small(depth=depth, tile=tile)
    sides = []
    model.network.register_forward_hook(lambda network, seen, logits: sides.extend(logits.shape[-2:]))
    with torch.inference_mode():
        model(noise(1, 3, 250, 130))
    assert max(sides) == largest


def test_it_trains_in_one_pass():
    model, passes = small().train(), []
    model.network.register_forward_hook(lambda *_: passes.append(1))
    model(noise(1, 3, 150, 150))
    assert len(passes) == 1


def test_each_logit_belongs_to_its_pixel():
    """Mirror-symmetric weights give the mirror image of the logits for that of the image, where no padding is added."""
    model = small().double()
    for layer in model.network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data += layer.weight.data.flip(-1, -2)
    images = noise(1, 3, 72, 60).double()
    with torch.inference_mode():
        torch.testing.assert_close(model(images.flip(-1, -2)), model(images).flip(-1, -2))


def test_the_bottom_and_the_block_above_it_drop_out():
    kinds = [[type(layer) for layer in encode] for encode in ValidNetwork(2, 2, 3).encoder]
    assert [nn.Dropout in kind for kind in kinds] == [False, False, True, True]


def test_weights_start_as_in_the_paper():
    """Variance 2 / N, N the values that reach one output: 9 per channel, 1 for the up-convolution and the head."""
    torch.manual_seed(0)
    for layer in UNetValid(16, width=32, depth=2).network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            touched = (F.conv2d, F.conv_transpose2d)[isinstance(layer, nn.ConvTranspose2d)]
            kernel, ones = layer.weight.detach(), torch.ones(1, layer.in_channels, 7, 7)
            incoming = touched(ones, torch.ones_like(kernel), stride=layer.stride)[0, 0, 3, 3]
            assert float(kernel.square().mean() * incoming / 2) == pytest.approx(1, rel=0.12)
            assert not layer.bias.any()
