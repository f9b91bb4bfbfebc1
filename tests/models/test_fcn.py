"""FCN against VGG-16 as a classifier, bilinear interpolation and the network written out."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
import torchvision

from segline.models.fcn import FCN8s, FCN16s, FCN32s, upsample_layer

MODELS = {"fcn32s": FCN32s, "fcn16s": FCN16s, "fcn8s": FCN8s}
CLASSES = 3


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def fcn8s():
    """FCN-8s whose scores rate something, as after training."""
    torch.manual_seed(0)
    model = FCN8s(CLASSES).eval()
    for layer in (model.score_fc7, model.score_pool4, model.score_pool3):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias)
    for layer in (model.from_32, model.from_16, model.from_8):
        layer.weight.data += 0.1 * noise(*layer.weight.shape)
    return model


def test_the_middle_of_fc7_is_vgg_16s_classifier(fcn8s):
    """Random weights of torchvision's VGG-16; a 224 px image has a 7x7 grid, and its middle sees just that."""
    torch.manual_seed(2)
    theirs = torchvision.models.vgg16(weights=None).eval()
    ours = fcn8s.encoder
    values = [value.clone() for value in ours.state_dict().values()]
    given = list(theirs.state_dict().values())
    with torch.inference_mode():
        for name, value in zip(ours.state_dict(), given[:-2], strict=True):
            ours.state_dict()[name].copy_(value.view_as(ours.state_dict()[name]))
        images = noise(2, 3, 224, 224)
        fc7 = ours(images)[2]
        assert fc7.shape == (2, 4096, 7, 7)
        kernel, bias = given[-2:]
        logits = F.conv2d(fc7, kernel[:, :, None, None], bias)[..., 3, 3]
        wanted = theirs(images)
        for value, back in zip(ours.state_dict().values(), values, strict=True):
            value.copy_(back)
    assert (logits - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_upsampling_starts_as_bilinear_interpolation(factor):
    """But for the border, where interpolation repeats the outermost values and the transposed convolution has none."""
    scores = noise(2, CLASSES, 4, 5)
    enlarged = upsample_layer(CLASSES, factor=factor)(scores)
    wanted = F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
    assert enlarged.shape == wanted.shape
    rim = factor // 2
    torch.testing.assert_close(enlarged[..., rim:-rim, rim:-rim], wanted[..., rim:-rim, rim:-rim], rtol=1e-5, atol=1e-5)


def written_out(state, images):
    """FCN-8s in plain functions, from its tensors in the order of VGG's layers."""
    values = list(state.values())

    def take():
        return values.pop(0)

    def convolve(features, padding):
        return F.relu(F.conv2d(features, take(), take(), padding=padding))

    pools = []
    features = images
    for convolutions in (2, 2, 3, 3, 3):
        for _ in range(convolutions):
            features = convolve(features, 1)
        features = F.max_pool2d(features, 2)
        pools.append(features)
    fc7 = convolve(convolve(features, 3), 0)
    scores = [F.conv2d(source, take(), take()) for source in (fc7, pools[3], pools[2])]
    kernels = [take() for _ in range(3)]
    assert not values

    def enlarge(coarse, kernel, factor):
        """Every class alone: each value adds its share of the kernel to the square around it."""
        b, k, h, w = coarse.shape
        out = torch.zeros(b, k, (h + 1) * factor, (w + 1) * factor)
        for row in range(h):
            for column in range(w):
                square = out[..., row * factor : (row + 2) * factor, column * factor : (column + 2) * factor]
                square += coarse[..., row, column][..., None, None] * kernel[:, 0]
        half = factor // 2
        return out[..., half:-half, half:-half]

    sixteenth = enlarge(scores[0], kernels[0], 2) + scores[1]
    eighth = enlarge(sixteenth, kernels[1], 2) + scores[2]
    return enlarge(eighth, kernels[2], 8)


def test_fcn8s_is_the_network_written_out(fcn8s):
    images = noise(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = written_out(fcn8s.state_dict(), images)
        torch.testing.assert_close(fcn8s(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))


@pytest.mark.parametrize(
    ("name", "scored", "kernels"),
    [("fcn32s", [4096], [64]), ("fcn16s", [4096, 512], [4, 32]), ("fcn8s", [4096, 512, 256], [4, 4, 16])],
)
@pytest.mark.parametrize("classes", [1, 21])
def test_parameters_are_vgg_16s_scores_and_one_kernel_per_class(name, scored, kernels, classes):
    """134 M for VGG-16 in table 1 of the paper."""
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    vgg = sum(9 * into * out + out for into, out in pairwise(channels))
    vgg += 49 * 512 * 4096 + 4096 + 4096 * 4096 + 4096
    assert round(vgg / 1e6) == 134
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in MODELS[name](classes).parameters())
    assert count == vgg + sum(classes * (into + 1) for into in scored) + sum(classes * side**2 for side in kernels)


def test_scores_are_zero_at_first_and_everything_learns_from_the_second_step_on():
    torch.manual_seed(0)
    model = FCN8s(CLASSES)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = torch.arange(40 * 33).view(1, 40, 33) % CLASSES
    logits = model(noise(1, 3, 40, 33))
    assert not logits.any()
    for step in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(noise(1, 3, 40, 33)), truth).backward()
        still = {name.split(".")[0] for name, value in model.named_parameters() if not value.grad.any()}
        assert still == ({"encoder", "from_32", "from_16", "from_8"} if step == 0 else set())
        optimiser.step()


def test_dropout_follows_both_large_layers(fcn8s):
    """Half of each is zero in training, on top of what ReLU makes zero in evaluation."""
    fed, given = [], []
    hooks = [
        fcn8s.encoder.fc7.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0])),
        fcn8s.encoder.register_forward_hook(lambda _, inputs, features: given.append(features[2])),
    ]
    with torch.inference_mode():
        fcn8s(noise(1, 3, 64, 64))
        fcn8s.train()(noise(1, 3, 64, 64))
    fcn8s.eval()
    for hook in hooks:
        hook.remove()
    for kept, dropped in (fed, given):
        assert float((kept > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
        assert float((dropped > 0).float().mean()) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("name", [pytest.param("fcn16s", marks=pytest.mark.slow), "fcn8s"])
def test_scaled_skips_are_those_of_the_released_networks(name):
    """Scoring pool4 times 0.01 and pool3 times 0.0001 is scoring the same features by kernels of that size."""
    torch.manual_seed(3)
    model = MODELS[name](CLASSES, scale_skips=True).eval()
    skips = {key: factor for key, factor in (("score_pool4", 0.01), ("score_pool3", 0.0001)) if hasattr(model, key)}
    for key in ("score_fc7", *skips):
        torch.nn.init.normal_(model.get_submodule(key).weight)
    images = noise(1, 3, 64, 64)
    with torch.inference_mode():
        scaled = model(images)
        for key, factor in skips.items():
            model.get_submodule(key).weight.mul_(factor)
        with torch.device("meta"):
            plain = MODELS[name](CLASSES)
        plain.load_state_dict(model.state_dict(), assign=True)
        torch.testing.assert_close(scaled, plain.eval()(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(scaled, model(images))
