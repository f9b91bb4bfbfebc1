"""The options of a component that MLflow shows with a run."""

import pytest

from segline.config.components import ComponentSpec
from segline.losses import LOSSES
from segline.models import MODELS
from segline.training.components import all_options


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("unet_resnet34", {}, {"pretrained": False}),
        ("unet_resnet34", {"pretrained": "s3://w/r34.pth"}, {"pretrained": "s3://w/r34.pth"}),
        ("smp/fpn", {"encoder": "resnet18"}, {"encoder": "resnet18", "pretrained": False}),
        ("unet_valid", {"width": 8}, {"width": 8, "depth": 4, "tile": 388}),
    ],
)
def test_a_run_has_every_option_of_its_model_also_those_left_at_their_default(name, given, told):
    """So it says that an encoder started from random weights."""
    assert all_options(MODELS[name], ComponentSpec(name=name, options=given)) == told


def test_a_run_has_every_option_of_its_losses():
    told = all_options(LOSSES["semeda"], ComponentSpec(name="semeda", options={"lambda_2": 1.0}))
    assert told == {
        "lambda_1": 2.0,
        "lambda_2": 1.0,
        "lambda_3": 0.0,
        "edge_steps": 1000,
        "edge_batch_size": 8,
        "edge_learning_rate": 0.01,
        "edge_min_accuracy": 0.999,
    }
