"""Fine-tuning: what stays is compared bit by bit, what moves with AdamW's first step written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shard_files import write_split
from torch import nn

from segline.config.sections import Augment, FineTuning, Train
from segline.data.shards import Crops
from segline.errors import StoppedError, TrainingError
from segline.losses import LOSSES, WeightedSum
from segline.losses.task import Task
from segline.models import MODELS
from segline.training.engine import fit
from segline.training.run import Run

STILL = Augment(flip=0.0, scale=0.0, translate=0.0, rotate=0.0, brightness_contrast=0.0)
SETTINGS = Train(epochs=1, batch_size=2, learning_rate=1e-3, precision="fp32", augment=STILL)
ONE_STEP = replace(SETTINGS, max_steps=1)
UNET = ("unet", {"encoder": "resnet10t"})
LITE = ("unet", {"encoder": "tf_efficientnet_lite0"})
CONVNEXT = ("unet", {"encoder": "convnext_atto"})
SMP = ("smp/fpn", {"encoder": "resnet18"})
SMP_TIMM = ("smp/fpn", {"encoder": "tu-tf_efficientnet_lite0"})
# The layers of the first two stages, by the definition of each network.
TWO_STAGES = [
    (UNET, ("encoder.conv1.", "encoder.bn1.", "encoder.layer1.")),
    (LITE, ("encoder.1.conv_stem.", "encoder.1.bn1.", "encoder.1.blocks.0.", "encoder.1.blocks.1.")),
    (CONVNEXT, ("encoder.stem_", "encoder.stages_0.", "encoder.stages_1.")),
    (SMP_TIMM, tuple(f"network.1.encoder.model.{part}." for part in ("conv_stem", "bn1", "blocks.0", "blocks.1"))),
]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("split"), np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    write_split(folder, images, generator.integers(0, 3, (4, 64, 64), dtype=np.uint8), size=4)
    return Crops(folder)


def make_run(split, model, settings=SETTINGS, **tuning):
    torch.manual_seed(0)
    name, options = model
    return Run(
        model=MODELS[name](3, **options),
        loss=WeightedSum([(1.0, LOSSES["cross_entropy"](Task(names=("a", "b", "c"))))]),
        train=split,
        val=split,
        classes=3,
        settings=replace(settings, fine_tuning=FineTuning(**tuning)),
        seed=1,
        device=torch.device("cpu"),
    )


def state_of(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def changed_names(run, folder):
    before = state_of(run)
    list(fit(run, folder))
    return {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("model", "layers"), TWO_STAGES, ids=str)
def test_frozen_stages_stay_as_they_are_and_all_else_learns(split, tmp_path, model, layers):
    run = make_run(split, model, frozen_stages=2)
    frozen = {name for name in run.model.state_dict() if name.startswith(layers)}
    assert len(frozen) > 10
    counters = {name for name in run.model.state_dict() if name.endswith("num_batches_tracked")}
    changed = changed_names(run, tmp_path)
    assert not changed & frozen
    assert changed >= counters - frozen
    assert changed >= {name for name, value in run.model.named_parameters() if value.ndim > 1} - frozen


def test_fixed_normalisation_keeps_statistics_and_parameters(split, tmp_path):
    run = make_run(split, UNET, batch_norm="fixed")
    own = [name for name, module in run.model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    kept = {f"{name}.{key}" for name in own for key in ("weight", "bias", "running_mean", "running_var")}
    changed = changed_names(run, tmp_path)
    assert not changed & kept
    assert "encoder.conv1.0.weight" in changed


def test_the_encoder_has_a_rate_of_its_own(split, tmp_path):
    """AdamW's first step has the size of the rate wherever a gradient is not tiny."""
    run = make_run(split, UNET, replace(ONE_STEP, weight_decay=0.0), encoder_learning_rate=0.1)
    before = state_of(run)
    (epoch,) = fit(run, tmp_path)
    steps = {name: (value - before[name]).abs().max().item() for name, value in run.model.named_parameters()}
    for name, step in steps.items():
        wanted = epoch.learning_rate * (0.1 if name.startswith("encoder.") else 1.0)
        assert step <= wanted * 1.01, name
    assert steps["encoder.conv1.0.weight"] == pytest.approx(0.1 * epoch.learning_rate, rel=1e-2)
    assert steps["head.weight"] == pytest.approx(epoch.learning_rate, rel=1e-2)


def test_norms_and_biases_do_not_decay_where_weights_alone_do(split, tmp_path):
    """With and without decay a first step differs by rate x decay x the parameter."""
    after = {}
    for decay in (0.0, 0.5):
        run = make_run(split, UNET, replace(ONE_STEP, weight_decay=decay), decay="weights")
        before = state_of(run)
        (epoch,) = fit(run, tmp_path / str(decay))
        after[decay] = dict(run.model.named_parameters())
    for name, value in after[0.5].items():
        share = 0.5 if value.ndim > 1 else 0.0
        expected = after[0.0][name] - epoch.learning_rate * share * before[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(split, tmp_path):
    tuning = {"frozen_stages": 1, "encoder_learning_rate": 0.5, "decay": "weights"}
    settings = replace(SETTINGS, epochs=2)
    whole = make_run(split, UNET, settings, **tuning)
    list(fit(whole, tmp_path / "whole"))
    cut = make_run(split, UNET, settings, **tuning)
    asked = iter([False, True])
    cut.stop = lambda: next(asked)
    with pytest.raises(StoppedError):
        list(fit(cut, tmp_path / "cut"))
    resumed = make_run(split, UNET, settings, **tuning)
    list(fit(resumed, tmp_path / "cut"))
    wanted = whole.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.model.state_dict().items())
    assert [group["factor"] for group in resumed.optimizer.param_groups] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("model", "tuning", "words"),
    [
        (
            ("unet", {"width": 4, "depth": 2}),
            {"frozen_stages": 1},
            "frozen_stages: got 1, but the encoder has no 1 stages",
        ),
        (UNET, {"frozen_stages": 6}, "frozen_stages: got 6"),
        (SMP, {"frozen_stages": 1}, "no 1 stages that are known; take fewer, or an encoder of timm"),
        (("downup", {}), {"encoder_learning_rate": 0.1}, "has no encoder"),
    ],
)
def test_what_a_network_does_not_have_is_refused_before_training(split, model, tuning, words):
    with pytest.raises(TrainingError, match=words):
        make_run(split, model, **tuning)
