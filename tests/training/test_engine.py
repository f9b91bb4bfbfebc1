"""The engine on a tiny split: it repeats itself bit for bit, survives interruption, and learns."""

import contextlib
import math
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shard_files import write_split
from torch import nn

from segline.artifacts.candidates import CHECKPOINT, WEIGHTS
from segline.classes import IGNORED
from segline.config.sections import Augment, Train
from segline.data.augment import MEAN, STD
from segline.data.distances import DISTANCES, Truth
from segline.data.shards import Crops
from segline.errors import StoppedError, TrainingError
from segline.losses import LOSSES, WeightedSum
from segline.losses.semeda import Semeda
from segline.losses.task import LabelBatches, Task
from segline.models import MODELS
from segline.training.broken_batch import BROKEN_BATCH
from segline.training.engine import estimate_epoch_seconds, fit
from segline.training.run import Run
from segline.training.schedules import learning_rate
from segline.training.validation import ValidationScores

CLASSES = 3
STILL = Augment(flip=0.0, scale=0.0, translate=0.0, rotate=0.0, brightness_contrast=0.0)
MOVING = Augment(brightness_contrast=0.0)
SETTINGS = Train(epochs=4, batch_size=4, learning_rate=3e-3)
CPU = torch.device("cpu")


def write_crops(folder, crops, seed):
    """Crops whose class is told by the brightness of the pixel; two shards, a few ignored pixels."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, CLASSES, (crops, 4, 4)).repeat(8, 1).repeat(8, 2)
    images = (60 + 60 * blocks[..., None] + generator.integers(-15, 15, (crops, 32, 32, 3))).astype(np.uint8)
    labels = blocks.astype(np.uint8)
    labels[:, 0, :4] = IGNORED
    maps = {
        name: np.stack([measure(Truth(label, label, CLASSES, None)) for label in labels])
        for name, measure in DISTANCES.items()
    }
    write_split(folder, images, labels, size=4, distances=maps)


@pytest.fixture(scope="module")
def edge_network(splits, tmp_path_factory):
    """The folder of the network that semeda needs, hardly trained."""
    folder, (train, val) = tmp_path_factory.mktemp("edges"), splits
    generator = np.random.default_rng(1)

    def random_batches(size, count):
        for _ in range(count):
            yield torch.from_numpy(train.take(generator.choice(len(train), size, replace=False))[1])

    batches = LabelBatches(
        classes=CLASSES,
        device=CPU,
        train=random_batches,
        val=lambda size: (torch.from_numpy(labels) for _, labels in val.batches(size)),
    )
    torch.manual_seed(1)
    Semeda.prepare(batches, folder, edge_steps=100, edge_batch_size=4, edge_learning_rate=1e-2, edge_min_accuracy=1.0)
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    write_crops(folder / "train", 6, seed=0)
    write_crops(folder / "val", 3, seed=1)
    return Crops(folder / "train"), Crops(folder / "val")


def new_run(splits, *, settings=SETTINGS, seed=7, loss="cross_entropy", model=None, edge_network=None, device=CPU):
    torch.manual_seed(seed)
    return Run(
        model=model or MODELS["unet"](CLASSES, width=4, depth=2),
        loss=WeightedSum([(1.0, LOSSES[loss](Task(names=("dark", "grey", "light"), prepared=edge_network)))]),
        train=splits[0],
        val=splits[1],
        classes=CLASSES,
        settings=settings,
        seed=seed,
        device=device,
    )


def same_weights(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(splits, tmp_path_factory):
    """History, last weights and best weights of a run that was left alone."""
    folder, run = tmp_path_factory.mktemp("undisturbed"), new_run(splits)
    return list(fit(run, folder)), run.model.state_dict(), load_file(folder / WEIGHTS)


def test_the_same_seed_gives_the_same_bits(splits, tmp_path, undisturbed):
    run = new_run(splits)
    assert list(fit(run, tmp_path)) == undisturbed[0]
    assert same_weights(run.model.state_dict(), undisturbed[1])
    assert same_weights(load_file(tmp_path / WEIGHTS), undisturbed[2])


def test_another_seed_gives_others(splits, tmp_path, undisturbed):
    assert list(fit(new_run(splits, seed=8), tmp_path)) != undisturbed[0]


@pytest.mark.parametrize("epochs", range(1, 5))
def test_a_run_cut_after_any_epoch_ends_with_the_same_bits(splits, tmp_path, undisturbed, epochs):
    cut = fit(new_run(splits), tmp_path)
    assert list(islice(cut, epochs)) == undisturbed[0][:epochs]
    cut.close()
    (tmp_path / f".{CHECKPOINT}.123.tmp").write_bytes(b"torn")
    resumed = new_run(splits, model=MODELS["unet"](CLASSES, width=4, depth=2))
    assert list(fit(resumed, tmp_path)) == undisturbed[0]
    assert same_weights(resumed.model.state_dict(), undisturbed[1])
    assert same_weights(load_file(tmp_path / WEIGHTS), undisturbed[2])


def test_a_run_cut_after_every_epoch_ends_with_the_same_bits(splits, tmp_path, undisturbed):
    for epochs in range(1, 6):
        run = new_run(splits, model=MODELS["unet"](CLASSES, width=4, depth=2))
        history = list(islice(fit(run, tmp_path), epochs))
    assert history == undisturbed[0]
    assert same_weights(run.model.state_dict(), undisturbed[1])


def test_a_run_killed_before_the_checkpoint_repeats_the_epoch(splits, tmp_path, undisturbed, monkeypatch):
    """The best weights of the epoch are written already, its checkpoint is not."""
    run = new_run(splits)
    epochs = fit(run, tmp_path)
    next(epochs)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda content, path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(epochs)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    resumed = new_run(splits, model=MODELS["unet"](CLASSES, width=4, depth=2))
    assert list(fit(resumed, tmp_path)) == undisturbed[0]
    assert same_weights(load_file(tmp_path / WEIGHTS), undisturbed[2])


def test_an_heir_goes_on_with_its_own_settings(splits, tmp_path):
    parent = new_run(splits, settings=replace(SETTINGS, ema_decay=0.0))
    assert len(list(fit(parent, tmp_path, until=2))) == 2
    heir = new_run(splits, settings=replace(SETTINGS, ema_decay=0.9, weight_decay=0.3, epsilon=1e-4))
    epochs = fit(heir, tmp_path)
    assert list(islice(epochs, 2)) == parent.history
    assert same_weights(heir.ema_model.state_dict(), parent.model.state_dict())
    assert same_weights(heir.model.state_dict(), parent.model.state_dict())
    [group] = heir.optimizer.param_groups
    assert (group["weight_decay"], group["eps"]) == (0.3, 1e-4)
    assert len(list(epochs)) == SETTINGS.epochs - 2


def test_every_step_has_the_rate_of_the_schedule(splits, tmp_path):
    settings = replace(SETTINGS, epochs=5, warmup_fraction=0.3, learning_rate=0.02, schedule="poly", precision="fp32")
    run = new_run(splits, settings=settings, model=nn.Conv2d(3, CLASSES, 1))
    rates = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    history = list(fit(run, tmp_path))
    expected = [learning_rate(settings, step, 10) for step in range(10)]
    assert rates == pytest.approx(expected)
    assert [record.learning_rate for record in history] == pytest.approx(expected[1::2])


def plain_training(splits, settings, seed):
    """The same training without channels_last, fused steps, autocast or augmentation: weights and mean losses."""
    torch.manual_seed(seed)
    model = MODELS["unet"](CLASSES, width=4, depth=2)
    images, labels = splits[0].take(range(6))
    inputs = torch.from_numpy(((images / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    target = torch.from_numpy(labels).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=settings.weight_decay)
    rising, steps = 1, 2 * settings.epochs
    rates = [1.0] + [0.5 * (1 + math.cos(math.pi * done / (steps - rising))) for done in range(steps - rising)]
    losses = []
    for epoch in range(settings.epochs):
        order = np.random.default_rng([seed, epoch + 1]).permutation(6)
        losses.append(0.0)
        for batch, chosen in enumerate((order[:4], order[4:])):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * rates[2 * epoch + batch]
            loss = nn.functional.cross_entropy(model(inputs[chosen]), target[chosen], ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() * len(chosen) / 6
    return model.state_dict(), losses


def test_training_is_that_of_a_plain_loop(splits, tmp_path):
    settings = replace(SETTINGS, epochs=3, precision="fp32", augment=STILL, warmup_fraction=0.1)
    run = new_run(splits, settings=settings)
    history = list(fit(run, tmp_path))
    weights, losses = plain_training(splits, settings, seed=7)
    assert [record.train_loss for record in history] == pytest.approx(losses, rel=1e-3)
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=1e-3, check_stride=False)


def test_validation_is_that_of_a_loop_over_the_whole_split(splits, tmp_path):
    run = new_run(splits, settings=replace(SETTINGS, epochs=1, batch_size=2, precision="fp32"))
    (record,) = fit(run, tmp_path)
    images, labels = splits[1].take(range(3))
    inputs = torch.from_numpy(((images / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = run.model.eval()(inputs)
        losses = [float(run.loss(logits[rows], torch.from_numpy(labels[rows]))) for rows in (slice(0, 2), slice(2, 3))]
    predicted, there = logits.argmax(1).numpy(), labels != IGNORED
    ious = [
        ((predicted == k) & (labels == k)).sum() / (((predicted == k) & there) | (labels == k)).sum()
        for k in range(CLASSES)
    ]
    assert record.val_loss == pytest.approx((2 * losses[0] + losses[1]) / 3, rel=1e-5)
    assert record.val_miou == pytest.approx(np.mean(ious))
    assert record.val_pixel_accuracy == pytest.approx((predicted == labels)[there].mean())


def test_the_best_weights_are_those_of_the_first_best_epoch(splits, tmp_path, monkeypatch):
    """Validation is told what to say, so that the best epoch is neither the first nor the last."""
    mious = iter([0.2, 0.5, 0.5, 0.4])
    monkeypatch.setattr(
        "segline.training.engine.validate", lambda run, epoch, folder: ValidationScores(1.0, next(mious), 0.5)
    )
    run = new_run(splits)
    after = [{name: value.clone() for name, value in run.model.state_dict().items()} for _ in fit(run, tmp_path)]
    best = load_file(tmp_path / WEIGHTS)
    assert [same_weights(best, weights) for weights in after] == [False, True, False, False]


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_batch(splits, tmp_path):
    class Breaking(nn.Module):
        calls = 0

        def forward(self, logits, target):
            self.calls += 1
            return logits.mean() * (math.nan if self.calls == 2 else 1)

    run = new_run(splits)
    run.loss = WeightedSum([(1.0, Breaking())])
    with pytest.raises(TrainingError, match=r"the loss became nan at step 1, see .*; lower train\.learning_rate"):
        list(fit(run, tmp_path))
    assert not (tmp_path / CHECKPOINT).exists()
    with np.load(tmp_path / BROKEN_BATCH) as kept:
        images, labels = splits[0].take(kept["positions"])
        np.testing.assert_allclose(kept["images"] * 255, images, atol=1e-3)
        assert (kept["labels"] == labels).all()
        assert len(labels) == 2


EVERYTHING = replace(
    SETTINGS,
    batch_size=2,
    gradient_accumulation_steps=2,
    ema_decay=0.9,
    max_grad_norm=0.5,
    epochs=3,
    augment=Augment(elastic=2.0),
)


class Dropping(nn.Module):
    """A network with dropout, whose randomness has to be resumed too."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout2d(0.5))
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images):
        return self.head(self.layers(images))


def dropping_run(splits):
    torch.manual_seed(1)
    return new_run(splits, settings=EVERYTHING, model=Dropping())


def fit_with_stops(splits, folder, steps):
    """Train in runs that are stopped after so many steps; returns the last run, its history and the number of runs."""
    for number in range(1, 100):
        run, asked = dropping_run(splits), iter(range(1, 1000))
        run.stop = lambda asked=asked: next(asked) == steps
        with contextlib.suppress(StoppedError):
            return run, list(fit(run, folder)), number
    raise AssertionError("it never ends")


@pytest.mark.parametrize("steps", range(1, 6))
def test_stopped_after_any_step_it_saves_itself_and_ends_with_the_same_bits(splits, tmp_path, steps):
    whole = dropping_run(splits)
    expected = list(fit(whole, tmp_path / "whole"))
    run, history, runs = fit_with_stops(splits, tmp_path / "cut", steps)
    assert history == expected
    assert runs == 1 + 6 // steps
    assert same_weights(run.model.state_dict(), whole.model.state_dict())
    assert same_weights(load_file(tmp_path / "cut" / WEIGHTS), load_file(tmp_path / "whole" / WEIGHTS))


def rare_run(splits, folder):
    """A run in which one crop of six holds the last class, so that it is repeated sqrt(6) times, and sees windows."""
    images, labels = splits[0].take(range(6))
    labels[1:][labels[1:] == 2] = IGNORED
    write_split(folder / "train", images, labels, size=4)
    augmentation = Augment(crop=[24, 16])
    settings = replace(SETTINGS, epochs=3, batch_size=2, repeat_threshold=1.0, augment=augmentation)
    return new_run((Crops(folder / "train"), splits[1]), settings=settings)


def test_with_repeats_and_windows_a_stopped_run_ends_with_the_same_bits(splits, tmp_path):
    whole = rare_run(splits, tmp_path)
    assert whole.steps_per_epoch == 4  # 5 + sqrt(6) = 7.4 crops, 2 at a time
    assert whole.steps == 12
    seen = []
    whole.model.register_forward_pre_hook(
        lambda model, inputs: seen.append(inputs[0].shape) if model.training else None
    )
    expected = list(fit(whole, tmp_path / "whole"))
    assert seen == 3 * [(2, 3, 24, 16), (2, 3, 24, 16), (2, 3, 24, 16), (1, 3, 24, 16)]
    for _ in range(10):
        run, asked = rare_run(splits, tmp_path), iter(range(1, 1000))
        run.stop = lambda asked=asked: next(asked) == 3
        with contextlib.suppress(StoppedError):
            history = list(fit(run, tmp_path / "cut"))
            break
    assert history == expected
    assert same_weights(run.model.state_dict(), whole.model.state_dict())


def test_the_time_of_an_epoch_counts_repeated_crops(splits, tmp_path):
    assert estimate_epoch_seconds(rare_run(splits, tmp_path), steps=5) > 0


def test_a_checkpoint_is_written_amid_an_epoch_when_it_is_due(splits, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "segline.training.engine.save_run", lambda run, folder, is_best=False: saved.append(run.epoch_state.step)
    )
    list(fit(new_run(splits, settings=replace(SETTINGS, epochs=1, batch_size=2, checkpoint_minutes=1e-9)), tmp_path))
    assert saved == [1, 2, 3, 0]


def test_accumulated_batches_are_one_large_batch(splits, tmp_path):
    """For a network without batch normalisation, a mean over equally many pixels, and amounts of augmentation at 0."""
    settings = replace(SETTINGS, epochs=2, precision="fp32", augment=STILL)
    weights = []
    for name, size, accumulate in (("one", 4, 1), ("two", 2, 2)):
        torch.manual_seed(0)
        run = new_run(
            splits,
            settings=replace(settings, batch_size=size, gradient_accumulation_steps=accumulate),
            model=nn.Conv2d(3, CLASSES, 3),
        )
        run.model.padding = (1, 1)
        history = list(fit(run, tmp_path / name))
        weights.append((run.model.state_dict(), history[-1].train_loss))
    assert weights[0][1] == pytest.approx(weights[1][1], rel=1e-5)
    for name, value in weights[0][0].items():
        torch.testing.assert_close(value, weights[1][0][name], rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_to_its_norm(splits, tmp_path):
    run = new_run(splits, settings=replace(SETTINGS, epochs=1, max_grad_norm=1e-3))
    norms = []
    run.optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            math.sqrt(sum(float(p.grad.square().sum()) for p in optimizer.param_groups[0]["params"]))
        )
    )
    list(fit(run, tmp_path))
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_averaged_weights_are_a_moving_average_and_are_what_is_judged_and_kept(splits, tmp_path):
    run = new_run(splits, settings=replace(SETTINGS, epochs=1, ema_decay=0.5), model=nn.Conv2d(3, CLASSES, 1))
    expected, steps = {name: value.clone() for name, value in run.model.state_dict().items()}, iter(range(10))

    def average(*_):
        decay = min(0.5, (1 + (step := next(steps))) / (10 + step))
        for name, value in run.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value

    run.optimizer.register_step_post_hook(average)
    list(fit(run, tmp_path))
    kept = load_file(tmp_path / WEIGHTS)
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value)
        assert not torch.equal(kept[name], run.model.state_dict()[name])


def test_steps_end_a_run_amid_an_epoch(splits, tmp_path):
    run = new_run(splits, settings=replace(SETTINGS, epochs=4, batch_size=2, max_steps=4))
    taken = []
    run.optimizer.register_step_pre_hook(lambda *_: taken.append(1))
    history = list(fit(run, tmp_path))
    assert (len(taken), len(history)) == (4, 2)
    assert history[-1].learning_rate == pytest.approx(learning_rate(run.settings, 3, 4))


def test_patience_ends_a_run(splits, tmp_path, monkeypatch):
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.9, 0.9])
    monkeypatch.setattr(
        "segline.training.engine.validate", lambda run, epoch, folder: ValidationScores(1.0, next(scores), 0.5)
    )
    run = new_run(splits, settings=replace(SETTINGS, epochs=6, early_stopping_patience=2))
    assert [record.val_miou for record in fit(run, tmp_path)] == [0.2, 0.5, 0.4, 0.5]


def test_minutes_end_a_run_amid_its_epoch(splits, tmp_path):
    run, taken = new_run(splits, settings=replace(SETTINGS, max_minutes=1e-6, epochs=9)), []
    run.optimizer.register_step_pre_hook(lambda *_: taken.append(1))
    [record] = fit(run, tmp_path)
    assert len(taken) == 1 < run.steps_per_epoch
    whole = new_run(splits, settings=replace(SETTINGS, max_steps=1))
    [expected] = fit(whole, tmp_path / "whole")
    assert record.train_loss == pytest.approx(expected.train_loss, rel=1e-6)


def test_it_ends_at_a_rung_and_goes_on_from_there(splits, tmp_path, undisturbed):
    assert list(fit(new_run(splits), tmp_path, until=2)) == undisturbed[0][:2]
    assert list(fit(new_run(splits), tmp_path, until=2)) == undisturbed[0][:2]
    assert list(fit(new_run(splits), tmp_path, until=4)) == undisturbed[0]


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(splits, tmp_path, fresh_compiler):
    settings = replace(SETTINGS, epochs=2, precision="fp32")
    plain = list(fit(new_run(splits, settings=settings), tmp_path / "plain"))
    compiled = list(fit(new_run(splits, settings=replace(settings, compile=True)), tmp_path / "compiled"))
    for one, other in zip(plain, compiled, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)


@pytest.mark.parametrize(("model", "options"), [("unet", {"width": 4}), ("unet_resnet34", {})])
def test_a_last_batch_of_one_trains(splits, tmp_path, model, options):
    settings = replace(SETTINGS, epochs=1, batch_size=5)
    run = new_run(splits, settings=settings, model=MODELS[model](CLASSES, **options))
    assert run.steps_per_epoch == 2
    (record,) = fit(run, tmp_path)
    assert math.isfinite(record.train_loss)


LEARNING = [(loss, "fp32") for loss in LOSSES]
LEARNING += [
    pytest.param(loss, "bf16", marks=() if loss in ("cross_entropy", "dice") else pytest.mark.slow) for loss in LOSSES
]


@pytest.mark.parametrize(("loss", "precision"), LEARNING)
def test_it_learns_an_easy_problem(splits, edge_network, tmp_path, loss, precision):
    # The boundary loss alone, without the term it is added to, depends on luck when images move.
    augment = STILL if loss == "boundary" else MOVING
    settings = replace(SETTINGS, epochs=20, batch_size=2, learning_rate=0.02, precision=precision, augment=augment)
    history = list(fit(new_run(splits, settings=settings, loss=loss, edge_network=edge_network), tmp_path))
    first, last = history[0].train_loss, history[-1].train_loss
    assert last < first - 0.1 * abs(first), "it falls; boundary goes below zero"
    assert history[-1].val_miou > (0.85 if loss == "boundary" else 0.9)


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx2": True}, False), ({"avx512_bf16": True}, True)])
def test_auto_is_bf16_where_the_processor_computes_in_it(splits, monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert new_run(splits, settings=replace(SETTINGS, precision="auto")).bf16 is expected
    assert new_run(splits, settings=replace(SETTINGS, precision="bf16")).bf16
    assert not new_run(splits, settings=replace(SETTINGS, precision="fp32")).bf16


def test_epochs_are_numbered_from_one(undisturbed):
    assert [record.epoch for record in undisturbed[0]] == [1, 2, 3, 4]
    assert all(later.train_loss != earlier.train_loss for earlier, later in pairwise(undisturbed[0]))
