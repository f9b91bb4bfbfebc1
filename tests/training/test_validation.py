"""What is not finite in a validation ends the trial, and nothing of that epoch is kept."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixed_split import random_split
from test_engine import CLASSES, SETTINGS, new_run, splits
from torch import nn
from torch.nn import functional as F

from segline.artifacts.candidates import CHECKPOINT, WEIGHTS
from segline.data.augment import normalize, to_unit
from segline.errors import TrainingError
from segline.losses import WeightedSum
from segline.metrics.confusion import confusion_matrix, mean_iou
from segline.metrics.finite import first_nonfinite
from segline.training import validation
from segline.training.broken_batch import BROKEN_BATCH
from segline.training.engine import estimate_epoch_seconds, fit, try_step
from segline.training.search.schedulers import best
from segline.training.trial import Trial, TrialConfig

__all__ = ["splits"]


class BrokenInValidation(nn.Module):
    """A network that gives one logit of the third validation crop this value, from the given epoch on."""

    def __init__(self, value, epoch=1):
        super().__init__()
        self.layer = nn.Conv2d(3, CLASSES, 1)
        self.value, self.epoch, self.epochs = value, epoch, 0

    def eval(self):
        self.epochs, self.seen = self.epochs + 1, 0
        return super().eval()

    def forward(self, images):
        logits = self.layer(images)
        if not self.training:
            first, self.seen = self.seen, self.seen + len(images)
            if first <= 2 < self.seen and self.epochs >= self.epoch:
                logits[2 - first, 1, 5, 7] = self.value
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_logit_that_is_not_finite_names_epoch_and_image_and_keeps_the_batch(splits, tmp_path, value, batch_size):
    settings = SETTINGS.__class__(**vars(SETTINGS) | {"batch_size": batch_size})
    run = new_run(splits, settings=settings, model=BrokenInValidation(value))
    said = r"^(a logit|the loss \(.*\)) of the image crop2 is not finite in the validation of epoch 1, see .*; lower"
    with pytest.raises(TrainingError, match=said):
        list(fit(run, tmp_path))
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / WEIGHTS).exists()
    with np.load(tmp_path / BROKEN_BATCH) as kept:
        images, labels = splits[1].take(kept["positions"])
        np.testing.assert_allclose(kept["images"] * 255, images, atol=1e-3)
        assert (kept["labels"] == labels).all()
        assert kept["keys"][-1] == "crop2"


def test_what_an_earlier_epoch_left_stays(splits, tmp_path):
    run = new_run(splits, model=BrokenInValidation(math.nan, epoch=3))
    with pytest.raises(TrainingError, match=r"validation of epoch 3"):
        list(fit(run, tmp_path))
    assert len(torch.load(tmp_path / CHECKPOINT, weights_only=True)["history"]) == 2


def test_a_loss_that_is_not_finite_names_the_image_whose_loss_it_is(splits, tmp_path):
    """The logits are finite; the loss of crop1 is not."""

    class Breaking(nn.Module):
        def forward(self, logits, target):
            expected = torch.from_numpy(splits[1].take([1])[1])
            broken = not torch.is_grad_enabled() and bool((target == expected).flatten(1).all(1).any())
            return logits.square().mean() * (math.inf if broken else 1)

    run = new_run(splits, model=nn.Conv2d(3, CLASSES, 1))
    run.loss = WeightedSum([(1.0, Breaking())])
    with pytest.raises(
        TrainingError, match=r"^the loss \(inf\) of the image crop1 is not finite in the validation of ep"
    ):
        list(fit(run, tmp_path))


def test_weights_that_are_not_finite_are_not_kept(splits, tmp_path):
    """A statistic may be infinite while the logits are finite."""

    class Unused(nn.Conv2d):
        def __init__(self):
            super().__init__(3, CLASSES, 1)
            self.register_buffer("statistic", torch.tensor([1.0, math.inf]))

    with pytest.raises(TrainingError, match=r"^statistic of the model is not finite in epoch 1; lower"):
        list(fit(new_run(splits, model=Unused()), tmp_path))
    assert not (tmp_path / WEIGHTS).exists()


def test_the_first_image_with_such_a_logit_is_found():
    logits = torch.zeros(4, 2, 3, 3)
    assert first_nonfinite(logits) is None
    logits[3, 0, 0, 0], logits[2, 1, 2, 2] = math.nan, -math.inf
    assert first_nonfinite(logits) == 2


@pytest.mark.parametrize("scores", [["nan", "0.25"], ["0.25", "nan"]])
def test_no_number_is_worse_than_any(tmp_path, scores):
    """A history that another version wrote may have such a score."""
    lines = ["epoch,val_miou", *(f"{epoch},{score}" for epoch, score in enumerate(scores, 1))]
    (tmp_path / "history.csv").write_text("\n".join(lines) + "\n")
    trial = Trial(config=TrialConfig, inputs=None, folder=tmp_path, until=2, store=None)
    assert trial.best_score == 0.25
    assert trial.last_score == (-1.0 if scores[1] == "nan" else 0.25)
    assert best({"a": trial.last_score, "b": 0.0}, 2) == (["a", "b"] if trial.last_score > 0 else ["b", "a"])


EXACT = replace(SETTINGS, precision="fp32")


def logits_of(model, image):
    with torch.inference_mode():
        return model(normalize(to_unit(image[None], torch.device("cpu"))))


def test_frames_of_several_shapes_are_judged_as_each_alone_would_be(splits, tmp_path):
    """Every pixel is labelled: the loss of a batch is then the mean of its images'."""
    val = random_split(tmp_path, [(16, 16)] * 3 + [(16, 24), (24, 16), (24, 16)], CLASSES, ignored=0.0)
    run = new_run((splits[0], val), settings=EXACT)
    scores = validation.validate(run, 1, tmp_path)
    losses, counts = [], np.zeros((CLASSES, CLASSES), int)
    for image, label in zip(val.images, val.labels, strict=True):
        logits = logits_of(run.ema_model, image)
        losses.append(float(F.cross_entropy(logits, torch.from_numpy(label[None]).long())))
        counts += confusion_matrix(label[None], logits.argmax(1).numpy(), CLASSES)[0]
    assert scores.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert scores.miou == pytest.approx(float(mean_iou(counts)), rel=1e-5)


def test_a_frame_above_the_limit_is_judged_by_tiles(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "MAX_PIXELS", 2**14)
    val = random_split(tmp_path, [(300, 250)], CLASSES, ignored=0.0)
    run = new_run((splits[0], val), settings=EXACT, model=nn.Conv2d(3, CLASSES, 1))
    step = validation.eval_step(run, range(1))
    logits = logits_of(run.ema_model, val.images[0])
    assert step.loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(val.labels[0][None]).long())))
    assert np.array_equal(step.counts, confusion_matrix(val.labels[0][None], logits.argmax(1).numpy(), CLASSES)[0])
    val.images[0][280:] = 0
    run.ema_model.weight.data[:] = math.inf
    assert validation.eval_step(run, range(1)).fault.images.shape == (1, 300, 250, 3)


@pytest.mark.parametrize("attempt", [try_step, estimate_epoch_seconds])
def test_the_largest_frame_is_tried_before_the_first_trial(splits, tmp_path, attempt):
    class Watching(nn.Conv2d):
        def forward(self, images):
            seen.append(tuple(images.shape[2:]))
            return super().forward(images)

    seen = []
    val = random_split(tmp_path, [(16, 16), (16, 16), (20, 40), (16, 24)], CLASSES)
    attempt(new_run((splits[0], val), model=Watching(3, CLASSES, 1)))
    assert seen[-1] == (20, 40)
