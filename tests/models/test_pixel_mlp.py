"""The perceptron on frozen features: what stays, what is learnt, how several heads learn and vote."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segline.errors import TrainingError
from segline.models import MODELS
from segline.models.pixel_mlp import PixelHead

LITE = "tf_efficientnet_lite0"


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**options):
    torch.manual_seed(0)
    return MODELS["pixel_mlp"](3, **options)


def test_the_encoder_keeps_its_weights_and_statistics_and_has_no_gradient():
    model = make(pretrained="shipped").train()
    before = {name: value.clone() for name, value in model.features.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(noise(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    assert all(value.grad is None for value in model.features.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.features.state_dict().items())
    assert all(value.grad is not None and value.grad.any() for value in model.head.parameters())
    assert not any(module.training for module in model.features.modules())


def test_features_of_all_scales_are_those_of_the_encoder_resized_and_joined():
    model = make().eval()
    images = noise(1, 3, 64, 96)
    with torch.no_grad():
        expected = [
            F.interpolate(features, size=(16, 24), mode="bilinear", align_corners=False)
            for features in model.features.encoder(images)
        ]
        assert [features.shape[1] for features in expected] == [16, 24, 40, 112, 320]
        torch.testing.assert_close(model.features(images), torch.cat(expected, dim=1))


@pytest.mark.parametrize(
    ("options", "channels"),
    [({"finest_stride": 4, "coarsest_stride": 16}, 24 + 40 + 112), ({"coarsest_stride": 2}, 16), ({"stride": 8}, 512)],
)
def test_chosen_scales(options, channels):
    model = make(**options).eval()
    assert model.features.channels == channels
    with torch.inference_mode():
        assert model(noise(1, 3, 50, 70)).shape == (1, 3, 50, 70)


def test_an_encoder_without_features_of_these_strides_is_refused():
    with pytest.raises(TrainingError, match="the strides 2, 4, 8, 16, 32, got finest_stride 32 and coarsest_stride 4"):
        make(finest_stride=32, coarsest_stride=4)


@pytest.mark.parametrize("size", [(64, 96), (70, 100), (20, 33)])
def test_the_features_at_a_pixel_are_those_that_its_logits_are_made_of(size):
    """A linear head: upsampling its logits equals applying it to upsampled features."""
    model = make(layers=1).eval()
    images, pixels = noise(1, 3, *size), torch.randperm(size[0] * size[1])[:50]
    with torch.no_grad():
        logits = model(images)[0].flatten(1)[:, pixels]
        at = model.features.at(images, pixels)
        assert at.shape == (50, 512)
        torch.testing.assert_close(model.head(at.T[None, :, :, None])[0, :, :, 0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layers", "convolutions"), [(1, 1), (2, 2), (3, 3)])
def test_layers_are_the_convolutions_of_a_perceptron(layers, convolutions):
    head = PixelHead(8, 3, layers=layers, hidden=5, heads=1, vote="mean")
    assert sum(isinstance(module, nn.Conv2d) for module in head.modules()) == convolutions
    assert head(noise(2, 8, 4, 4)).shape == (2, 3, 4, 4)


def test_heads_start_apart_and_are_stacked_in_training():
    torch.manual_seed(0)
    head = PixelHead(8, 3, layers=2, hidden=5, heads=3, vote="majority").train()
    features = noise(2, 8, 4, 4)
    stacked = head(features)
    assert stacked.shape == (6, 3, 4, 4)
    standard = (features - features.mean((0, 2, 3), keepdim=True)) / (
        features.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    for number, perceptron in enumerate(head.perceptrons):
        torch.testing.assert_close(stacked[2 * number : 2 * number + 2], perceptron(standard))
    assert not torch.allclose(stacked[:2], stacked[2:4])


def logits_of(*heads):
    """Logits (heads, classes, 1, 1) of one pixel from probabilities."""
    return torch.tensor(heads).log()[..., None, None]


@pytest.mark.parametrize(
    ("vote", "heads", "winner"),
    [
        ("majority", ([0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.0, 1.0, 0.0]), 0),
        ("mean", ([0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.0, 1.0, 0.0]), 1),
        ("majority", ([0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6]), 1),
    ],
)
def test_heads_vote(vote, heads, winner):
    """Two of three prefer class 0 by a little, the third is sure of class 1; then a tie, which the mean breaks."""
    head = PixelHead(1, 3, layers=1, hidden=1, heads=3, vote=vote).eval()
    agreed = head.vote(logits_of(*heads))
    assert agreed.argmax(1).item() == winner
    assert agreed.isfinite().all()
    torch.testing.assert_close(agreed.exp().sum(1), torch.ones(1, 1, 1))
    if vote == "mean":
        torch.testing.assert_close(agreed.exp().flatten(), torch.tensor(heads).mean(0))


def test_a_majority_of_many_heads_is_counted():
    """Against a loop over pixels."""
    head = PixelHead(1, 4, layers=1, hidden=1, heads=5, vote="majority").eval()
    logits = 3 * noise(5 * 2, 4, 6, 7)
    agreed = head.vote(logits).argmax(1)
    for image, row, column in ((image, row, column) for image in range(2) for row in range(6) for column in range(7)):
        own = logits.view(5, 2, 4, 6, 7)[:, image, :, row, column]
        votes = own.argmax(1).bincount(minlength=4)
        best = votes.double() + own.softmax(1).mean(0)
        assert agreed[image, row, column] == best.argmax()
        assert votes[agreed[image, row, column]] == votes.max()
