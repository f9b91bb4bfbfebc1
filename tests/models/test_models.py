"""The contract of every architecture, and what each is against its paper or another library."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from segline.models import MODELS
from segline.models.unet import UNet
from segline.models.unet_resnet34 import UNetResNet34

SMALL = {"unet": {"width": 4, "depth": 3}, "unet_resnet34": {}}


def build(name, classes=5):
    torch.manual_seed(0)
    return MODELS[name](classes, **SMALL[name])


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_architecture_is_tried():
    assert list(SMALL) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("images", "height", "width"), [(1, 37, 53), (2, 64, 96), (1, 1, 1), (3, 31, 100)])
def test_logits_have_the_size_of_the_images(name, images, height, width):
    model = build(name).eval()
    with torch.inference_mode():
        assert model(noise(images, 3, height, width)).shape == (images, 5, height, width)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [1, 2, 35])
def test_any_number_of_classes(name, classes):
    with torch.inference_mode():
        assert build(name, classes).eval()(noise(1, 3, 20, 20)).shape == (1, classes, 20, 20)


@pytest.mark.parametrize("name", MODELS)
def test_one_small_image_trains_every_parameter(name):
    """Within two steps: a residual branch may start at zero, and its inside learns only from the second on."""
    model = build(name).train()
    start = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=1)
    for _ in range(2):
        optimiser.zero_grad()
        model(noise(1, 3, 33, 17)).square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimiser.step()
    assert [key for key, parameter in model.named_parameters() if torch.equal(parameter, start[key])] == []


@pytest.mark.parametrize("name", MODELS)
def test_an_odd_size_is_padded_with_zeros_below_and_right(name):
    model, images = build(name).eval(), noise(2, 3, 90, 93)
    padded = torch.zeros(2, 3, 96, 96)
    padded[..., :90, :93] = images
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(padded)[..., :90, :93])


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_it_predicts_the_same(name, tmp_path):
    model, images = build(name), noise(2, 3, 40, 24)
    model.train()(images)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(5)
    loaded = MODELS[name](5, **SMALL[name])
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", MODELS)
def test_precision_and_memory_format_hardly_matter(name):
    model, images = build(name).eval(), noise(2, 3, 64, 64)
    with torch.inference_mode():
        plain = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images).float()
        last = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4 * float(plain.std()))
    assert (half - plain).abs().mean() < 0.03 * plain.std()


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


def as_in_segline(name):
    """``decoder.blocks.2.conv1.0.weight`` to ``decoder.2.0.0.weight``, ``segmentation_head.0`` to ``head``."""
    for theirs, ours in (("decoder.blocks.", "decoder."), (".conv1.", ".0."), (".conv2.", ".1.")):
        name = name if name.startswith("encoder.") else name.replace(theirs, ours)
    return name.replace("segmentation_head.0", "head")


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


@pytest.mark.parametrize("classes", [1, 8])
def test_unet_resnet34_is_that_of_smp(classes):
    torch.manual_seed(3)
    theirs = smp.Unet("resnet34", encoder_weights=None, classes=classes)
    theirs.train()(noise(2, 3, 64, 64))
    ours = UNetResNet34(classes)
    ours.load_state_dict({as_in_segline(name): value for name, value in theirs.state_dict().items()})
    assert parameter_count(ours) == parameter_count(theirs)
    images = noise(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)
