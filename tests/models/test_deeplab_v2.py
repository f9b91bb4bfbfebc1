"""DeepLab v2: rates of the paper, the field of view of its branches measured, the sum written out."""

import pytest
import torch
import torch.nn.functional as F

from segline.models.deeplab_v2 import DeepLabV2


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepLabV2(3).eval()


def test_the_last_two_stages_are_dilated_and_every_other_layer_is_not(model):
    """Section 3.1: rates 2 and 4; the first 3x3 of each stage keeps the rate it would have after its stride."""
    rates = {}
    for name, layer in model.encoder.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            rates.setdefault(name.split(".")[0], []).append(layer.dilation[0] if layer.kernel_size[0] == 3 else 1)
            assert layer.kernel_size[0] == 3 or layer.dilation == (1, 1)
    actual = {stage: [rate for rate in each if rate > 1] for stage, each in rates.items()}
    assert actual == {"conv1": [], "layer1": [], "layer2": [], "layer3": [2] * 22, "layer4": [2, 4, 4]}


def test_each_classifier_sees_nine_positions_at_its_rate(model):
    for classify, rate in zip(model.aspp, (6, 12, 18, 24), strict=True):
        features = torch.zeros(1, 2048, 53, 53).requires_grad_()
        gradient = torch.autograd.grad(classify(features)[0, :, 26, 26].sum(), features)[0]
        offsets = gradient[0].abs().sum(0).nonzero() - 26
        expected = [[row, column] for row in (-rate, 0, rate) for column in (-rate, 0, rate)]
        assert offsets.tolist() == expected


def test_the_logits_are_the_sum_of_four_upsampled_by_eight(model):
    images = noise(1, 3, 57, 65)
    with torch.inference_mode():
        features = model.encoder(images)[-1]
        assert features.shape == (1, 2048, 8, 9)
        total = torch.zeros(1, 3, 8, 9)
        for classify, rate in zip(model.aspp, (6, 12, 18, 24), strict=True):
            wide = F.pad(features, (rate,) * 4)
            for row in range(3):
                for column in range(3):
                    tap = wide[..., row * rate : row * rate + 8, column * rate : column * rate + 9]
                    total += torch.einsum("oc,bchw->bohw", classify.weight[:, :, row, column], tap)
            total += classify.bias[:, None, None]
        expected = torch.nn.Upsample((57, 65), mode="bilinear", align_corners=True)(total)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_resnet101_and_four_classifiers():
    with torch.device("meta"):
        actual = sum(parameter.numel() for parameter in DeepLabV2(21).parameters())
    assert actual == 42_500_160 + 4 * (9 * 2048 * 21 + 21)
