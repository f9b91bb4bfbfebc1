"""DRN-A-18 against ResNet-18: the same weights, the same features at every fourth position."""

import pytest
import torch
import torchvision

from segline.models.drn_a_18 import DrnA18


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def strided():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        network.train()(noise(4, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def dilated(strided):
    model = DrnA18(5).eval()
    weights = {key: value for key, value in strided.state_dict().items() if not key.startswith("fc.")}
    model.encoder.load_state_dict(weights)
    return model.encoder


def stages(network, images):
    """The features of the four groups of a torchvision ResNet."""
    features = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    actual = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        features = stage(features)
        actual.append(features)
    return actual


@pytest.mark.parametrize(("height", "width"), [(64, 96), (72, 88), (75, 61), (33, 200)])
def test_dilation_keeps_the_features_of_the_strided_network(strided, dilated, height, width):
    """Exactly, up to the border: zeros lie beyond it in both, at positions that are equally far apart."""
    images = noise(2, 3, height, width)
    with torch.inference_mode():
        expected, actual = stages(strided, images), dilated(images)[1:]
    for theirs, ours, factor in zip(expected, actual, (1, 1, 2, 4), strict=True):
        torch.testing.assert_close(ours[..., ::factor, ::factor], theirs, rtol=1e-4, atol=1e-4)


def test_only_the_last_two_groups_are_dilated(dilated):
    rates = {name: layer.dilation[0] for name, layer in dilated.named_modules() if name.endswith(("conv1", "conv2"))}
    actual = {
        group: [rates[f"{group}.{block}.conv{layer}"] for block in (0, 1) for layer in (1, 2)]
        for group in ("layer1", "layer2", "layer3", "layer4")
    }
    assert actual == {"layer1": [1] * 4, "layer2": [1] * 4, "layer3": [1, 2, 2, 2], "layer4": [2, 4, 4, 4]}


def test_moving_the_image_by_the_stride_moves_the_features_by_one(dilated):
    images = noise(1, 3, 64, 320)
    with torch.inference_mode():
        whole, moved = dilated(images)[-1], dilated(images[..., 8:])[-1]
    assert whole.shape[-1] == 40
    middle = slice(18, 20)
    near = (whole[..., 19:21] - moved[..., middle]).abs().mean()
    assert near < 0.02 * (whole[..., 18:20] - moved[..., middle]).abs().mean()


@pytest.mark.parametrize("classes", [1, 35])
def test_it_has_no_more_parameters_than_resnet18_and_a_classifier(strided, classes):
    count = sum(parameter.numel() for parameter in strided.parameters()) - (512 * 1000 + 1000)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DrnA18(classes).parameters()) == count + 513 * classes
