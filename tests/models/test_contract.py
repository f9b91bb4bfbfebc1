"""The contract of every architecture: sizes, training, weights, precision, compilation, export."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from segline.models import MODELS

# Options that make a model small, where it has any.
OPTIONS = {
    "downup": {"width": 32},
    "unet": {"width": 4, "depth": 3},
    "unet_valid": {"width": 4, "depth": 3},
    "smp/dpt": {"encoder": "tu-vit_tiny_patch16_224"},
} | {name: {"encoder": "resnet18"} for name in MODELS if name.startswith("smp/") and name != "smp/dpt"}
SMALL = ("downup", "drn_a_18", "pixel_mlp", "unet", "unet_resnet34", "unet_valid")
# The library's architectures that the wrapper treats in their own way (an encoder of timm, sides of 64) stand for all.
FAST = tuple(name for name in MODELS if not name.startswith("smp/") or name in ("smp/dpt", "smp/pan"))
# FCN-8s has all layers of the other two, and each holds 134 million parameters.
LEARNING = tuple(name for name in FAST if name not in ("fcn16s", "fcn32s"))
CLASSES = 5
# Parameters that the library's architectures do not use, or whose bias batch normalisation cancels.
UNUSED = {
    "smp/dpt": ("network.1.encoder.model.norm.", "network.1.encoder.model.head."),
    "smp/pan": ("network.decoder.fpa.down3.2.conv.bias",),
    "smp/pspnet": ("network.encoder.layer3.", "network.encoder.layer4."),
}


def build(name, classes=CLASSES):
    torch.manual_seed(0)
    return MODELS[name](classes, **OPTIONS.get(name, {}))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def slow_unless(fast, values):
    """Return the parameters of a test, marked as slow where they are not among the fast ones."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module", params=slow_unless(FAST, MODELS))
def name(request):
    return request.param


@torch.no_grad()
def fill_zeros(model):
    """Draw parameters that start at zero: logits that are zero everywhere are equal however they are computed."""
    model.at_zero = [key for key, value in model.named_parameters() if not value.any()]
    for key in model.at_zero:
        model.get_parameter(key).normal_(std=0.05)
    return model


@torch.no_grad()
def as_built(model):
    """A copy whose parameters that start at zero are there again: to build a large model takes seconds."""
    copied = copy.deepcopy(model)
    for key in model.at_zero:
        copied.get_parameter(key).zero_()
    return copied


@pytest.fixture(scope="module")
def model(name):
    """One model for all tests that do not change it, as some are large."""
    return fill_zeros(build(name)).eval()


@pytest.mark.parametrize(
    "size", slow_unless([(1, 1, 1), (3, 31, 100)], [(1, 37, 53), (2, 64, 96), (1, 1, 1), (3, 31, 100)])
)
def test_logits_have_the_size_of_the_images(model, size):
    images, height, width = size
    with torch.inference_mode():
        assert model(noise(images, 3, height, width)).shape == (images, CLASSES, height, width)


@pytest.mark.parametrize("classes", slow_unless([1], [1, 2, 150]))
def test_any_number_of_classes(name, classes):
    """On a device that computes shapes alone."""
    with torch.device("meta"):
        model = build(name, classes).eval()
        assert model(torch.empty(1, 3, 20, 20)).shape == (1, classes, 20, 20)


@pytest.mark.parametrize("name", slow_unless(LEARNING, MODELS), indirect=True)
def test_one_image_trains_and_then_three_reach_every_parameter(name, model):
    """The second step reaches them all: a layer may start at zero, and those below it learn only from then on.

    It takes three images: features pooled from one are constant, which the next batch normalisation cancels; and the
    gradients of two cancel before it, on some processors to the last bit.
    """
    model = as_built(model).train()
    frozen = {key: value.detach().clone() for key, value in model.named_parameters() if not value.requires_grad}
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for images in (1, 3):
        optimiser.zero_grad()
        (model(noise(images, 3, 33, 17)) - 3 * noise(images, CLASSES, 33, 17)).square().mean().backward()
        assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
        optimiser.step()
    gradients = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
    unreached = [key for key, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert [key for key in unreached if not key.startswith(UNUSED.get(name, ()))] == []
    assert [
        key for key, value in model.named_parameters() if key in frozen and not torch.equal(value, frozen[key])
    ] == []


@pytest.mark.parametrize("name", slow_unless(LEARNING, MODELS), indirect=True)
def test_saved_and_loaded_it_predicts_the_same(name, model, tmp_path, not_drawn):
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = MODELS[name](CLASSES, **OPTIONS.get(name, {}))
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.eval()(noise(2, 3, 40, 24)), model(noise(2, 3, 40, 24)), rtol=1e-6, atol=1e-6)


def test_memory_format_does_not_matter(model):
    images = noise(1, 3, 64, 64)
    with torch.inference_mode():
        plain = model(images)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        turned = last(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-4 * float(plain.std()) + 1e-7)


@pytest.mark.parametrize("name", slow_unless(SMALL, MODELS), indirect=True)
def test_half_precision_hardly_matters(model):
    """Slow for the large ones: not every processor computes in bf16."""
    images = noise(1, 3, 48, 48)
    with torch.inference_mode():
        plain = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images).float()
    assert (half - plain).abs().mean() <= 0.05 * plain.std()


@pytest.mark.parametrize("name", slow_unless((*SMALL, "smp/pan"), MODELS), indirect=True)
def test_it_is_compiled_as_a_whole(model, fresh_compiler):
    """The graph is captured without a break; what inductor makes of it is tried in the slow test.

    Slow for the large ones: that no value decides about their graph is seen on the device that computes shapes alone.
    """
    images = noise(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(images), model(images))


@pytest.mark.slow
def test_compiled_it_trains_the_same(name, fresh_compiler):
    """A step of the compiled network and of the plain one from the same weights: the same loss and gradient."""
    model = fill_zeros(build(name)).train().double()  # in fp32 a ReLU whose input is nearly 0 falls on either side
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0
    twin = copy.deepcopy(model)
    images, wanted = noise(2, 3, 64, 64).double(), 3 * noise(2, CLASSES, 64, 64).double()
    losses = []
    for network, run in ((model, model), (twin, torch.compile(twin))):
        network.zero_grad()
        loss = (run(images) - wanted).square().mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    for (key, plain), (_, compiled) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if plain.grad is not None:
            difference, size = (plain.grad - compiled.grad).norm(), plain.grad.norm()
            assert difference <= 1e-6 * size + 1e-9, key


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_exported_to_onnx_it_predicts_the_same(model, tmp_path):
    images, path = noise(1, 3, 64, 96), tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        expected = model(images).numpy()
    assert np.abs(actual - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
