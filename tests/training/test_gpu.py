"""On a GPU: no operation is refused as not repeatable, the same seed gives the same bits, and so does a resumed run."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from test_engine import CLASSES, SETTINGS, edge_network, new_run, same_weights, splits

from segline.losses import LOSSES
from segline.models import MODELS
from segline.training.determinism import set_deterministic
from segline.training.engine import fit

__all__ = ["edge_network", "splits"]  # fixtures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)
TWO_EPOCHS = replace(SETTINGS, epochs=2, ema_decay=0.9, max_grad_norm=1.0, gradient_accumulation_steps=2)


@pytest.fixture(autouse=True)
def repeatable():
    set_deterministic(7)
    yield
    torch.use_deterministic_algorithms(False)


def candidates_dir(run, folder, epochs=TWO_EPOCHS.epochs):
    """History and weights after some epochs."""
    history = list(islice(fit(run, folder), epochs))
    assert all(weight.device == GPU for weight in run.model.parameters())
    return history, run.model.state_dict()


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("smp/")])
def test_every_architecture_repeats_itself(splits, tmp_path, name):
    def train(folder):
        torch.manual_seed(7)
        run = new_run(splits, settings=replace(SETTINGS, epochs=1), model=MODELS[name](CLASSES), device=GPU)
        return candidates_dir(run, tmp_path / folder, epochs=1)

    history, weights = train("first")
    again, same = train("second")
    assert history == again
    assert same_weights(weights, same)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_repeats_itself(splits, tmp_path, edge_network, loss):
    def train(folder):
        run = new_run(splits, settings=TWO_EPOCHS, loss=loss, edge_network=edge_network, device=GPU)
        return candidates_dir(run, tmp_path / folder)

    history, weights = train("first")
    again, same = train("second")
    assert history == again
    assert same_weights(weights, same)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_resumed_run_ends_with_the_same_bits(splits, tmp_path, precision):
    settings = replace(TWO_EPOCHS, epochs=4, precision=precision)
    history, weights = candidates_dir(new_run(splits, settings=settings, device=GPU), tmp_path / "whole", epochs=4)
    candidates_dir(new_run(splits, settings=settings, device=GPU), tmp_path / "cut", epochs=2)
    resumed, same = candidates_dir(new_run(splits, settings=settings, device=GPU), tmp_path / "cut", epochs=4)
    assert resumed == history
    assert same_weights(weights, same)


def test_a_gpu_computes_what_a_cpu_does(splits, tmp_path):
    settings = replace(SETTINGS, epochs=1, precision="fp32", learning_rate=1e-4)
    losses = {}
    for device in (torch.device("cpu"), GPU):
        (epoch,) = fit(new_run(splits, settings=settings, device=device), tmp_path / device.type)
        losses[device.type] = epoch.train_loss
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)
