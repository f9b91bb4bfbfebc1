"""Xception-71 as DeepLab's authors build it: no tensor of its weights is lost, and the low-level tap is theirs."""

import pytest
import timm
import torch
from golden_bundles import fill
from safetensors.torch import save_file

from segline.models.deeplab_v3plus import DeepLabV3Plus
from segline.models.xception import Xception


@pytest.fixture(scope="module")
def whole():
    """The network of timm with weights that keep the scale of the features."""
    torch.manual_seed(0)
    network = timm.create_model("xception71", num_classes=10)
    network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def file(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "xception71.safetensors"
    save_file(whole.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_every_tensor_of_the_file_is_in_the_encoder(whole, file, output_stride):
    ours = Xception("xception71", pretrained=file, output_stride=output_stride).state_dict()
    theirs = {key: value for key, value in whole.state_dict().items() if not key.startswith("head.")}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilated_features_are_the_plain_ones_and_those_between(whole, file, output_stride):
    """At every position of the grid of stride 32 the dilated network computes what the plain one does."""
    encoder = Xception("xception71", pretrained=file, output_stride=output_stride).eval()
    images = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        deep = encoder(images)[-1]
        step = 32 // output_stride
        assert deep.shape == (1, 2048, 3 * step, 2 * step)
        plain = whole.forward_features(images)
    torch.testing.assert_close(deep[..., ::step, ::step], plain, rtol=1e-3, atol=1e-4)


def test_the_low_level_features_are_taken_before_the_relu(whole, file):
    seen = []
    # A clone: the ReLU behind it works in place.
    handle = whole.blocks[2].stack.conv2.register_forward_hook(lambda *call: seen.append(call[2].clone()))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole.forward_features(images)
        low = Xception("xception71", pretrained=file, output_stride=8).eval()(images)[1]
    handle.remove()
    torch.testing.assert_close(low, seen[0], rtol=1e-4, atol=1e-5)
    assert (low < 0).any()


def test_the_shortcut_of_the_fifth_block_is_there_at_stride_eight():
    with torch.device("meta"):
        official, timms = (
            DeepLabV3Plus(5, encoder="xception71", output_stride=8, xception=name) for name in ("official", "timm")
        )
    difference = sum(value.numel() for value in official.parameters()) - sum(
        value.numel() for value in timms.parameters()
    )
    assert difference == 531_440 == 728 * 728 + 2 * 728


def test_the_bundles_of_0_1_keep_the_low_level_features_of_timm():
    encoder = fill(DeepLabV3Plus(5, encoder="xception71", xception="timm").encoder)
    with torch.inference_mode():
        assert encoder(torch.randn(1, 3, 64, 64))[1].min() == 0
