"""The ResNet-50 U-Net: what is frozen stays frozen; the decoder against smp's and a written-out one."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn

from segline.models.unet_resnet50 import UNetResNet50

FROZEN = ("encoder.conv1.", "encoder.bn1.", "encoder.layer1.", "encoder.layer2.", "encoder.layer3.")


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def train(model):
    """Two steps with everything that could move a frozen weight: momentum and weight decay over all."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(2):
        model.train(step == 0).train()
        nn.Sequential(model).train()
        optimiser.zero_grad()
        model(noise(1, 3, 64, 64)).square().mean().backward()
        optimiser.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}


def test_the_first_three_stages_stay_as_they_are():
    """Bit for bit, batch statistics and their counters included; all else learns."""
    torch.manual_seed(0)
    model = UNetResNet50(4)
    names = set(model.state_dict())
    assert train(model) == {name for name in names if not name.startswith(FROZEN)}
    without_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without_gradient == {name for name, _ in model.named_parameters() if name.startswith(FROZEN)}


def test_modified_trains_everything():
    torch.manual_seed(0)
    model = UNetResNet50(4, modified=True)
    assert train(model) == set(model.state_dict())


def test_no_graph_is_built_for_frozen_stages_yet_the_image_has_a_gradient():
    """The first for speed, the second for saliency maps."""
    model = UNetResNet50(4)
    *shallow, deepest = model.encoder(noise(1, 3, 64, 64))
    assert [features.requires_grad for features in shallow] == [False] * 4
    assert deepest.requires_grad
    images = noise(1, 3, 64, 64).requires_grad_()
    model.eval()(images).sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("modified", [False, True])
def test_it_predicts_the_same_in_a_frozen_stage_in_training_and_evaluation(modified):
    model, images = UNetResNet50(4, modified=modified), noise(2, 3, 64, 64)
    with torch.no_grad():
        training, evaluation = (model.train(mode).encoder(images)[3] for mode in (True, False))
    assert torch.equal(training, evaluation) != modified


def as_in_segline(name):
    for theirs, ours in (("decoder.blocks.", "decoder."), (".conv1.", ".0."), (".conv2.", ".1.")):
        name = name if name.startswith("encoder.") else name.replace(theirs, ours)
    return name.replace("segmentation_head.0", "head")


def test_concatenated_it_is_the_unet_of_smp():
    torch.manual_seed(3)
    theirs = smp.Unet(
        "resnet50",
        encoder_weights=None,
        classes=7,
        decoder_channels=(512, 256, 64, 64, 32),
        decoder_interpolation="bilinear",
    )
    theirs.segmentation_head[0] = nn.Conv2d(32, 7, kernel_size=1)
    with torch.no_grad():
        theirs.train()(noise(2, 3, 64, 64))
    ours = UNetResNet50(7, skips="concat")
    ours.load_state_dict({as_in_segline(name): value for name, value in theirs.state_dict().items()})
    images = noise(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)


def test_summed_it_adds_the_features_of_the_same_size():
    torch.manual_seed(3)
    model = UNetResNet50(7, modified=True)
    with torch.no_grad():
        model.train()(noise(2, 3, 64, 64))
    model.eval().double()
    values = model.state_dict()

    def unit(features, name):
        mean, variance = values[f"{name}.1.running_mean"], values[f"{name}.1.running_var"]
        features = F.conv2d(features, values[f"{name}.0.weight"], padding=1)
        return F.relu(F.batch_norm(features, mean, variance, values[f"{name}.1.weight"], values[f"{name}.1.bias"]))

    def step(features, skip, index):
        doubled = nn.Upsample(scale_factor=2, mode="bilinear")(features) + skip
        return unit(unit(doubled, f"decoder.{index}.0"), f"decoder.{index}.1")

    images = noise(1, 3, 64, 96).double()
    with torch.inference_mode():
        half, quarter, eighth, sixteenth, deepest = model.encoder(images)
        features = F.conv2d(deepest, values["bridge.weight"], values["bridge.bias"])
        for index, skip in enumerate((sixteenth, eighth, quarter, half, 0)):
            features = step(features, skip, index)
        expected = F.conv2d(features, values["head.weight"], values["head.bias"])
        torch.testing.assert_close(model(images), expected)
