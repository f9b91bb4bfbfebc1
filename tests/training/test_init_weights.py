"""The start from another model: whatever the order of the classes, each keeps the logits that it had."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from grids import TINY, write_noise
from safetensors.torch import save_file
from torch import nn

from segline.artifacts.bundle import ENCODER_LICENCE, Bundle, Member, bundle_hash, read_bundle, write_description
from segline.artifacts.candidates import read_history, read_trial_params
from segline.artifacts.dataset import read_dataset_info
from segline.classes import LabelClass
from segline.config.loader import load
from segline.errors import TrainingError
from segline.inference.bundle import make_model
from segline.models import MODELS
from segline.training import engine
from segline.training.checkpoints import CheckpointStore
from segline.training.init_source import find_init, share_init
from segline.training.init_weights import class_axes, describe_start, make_started_model, map_weights
from segline.training.preflight import check_init, try_passes
from segline.training.run_trial import train_trial
from segline.training.search.grid import grid_configs
from segline.training.trial import Init, Trial, TrialInputs

UNET = {"width": 2, "depth": 1}
SMALL = {
    "downup": {"width": 8},
    "unet": {"width": 2, "depth": 2},
    "unet_valid": {"width": 2, "depth": 2},
    "smp/dpt": {"encoder": "tu-vit_tiny_patch16_224"},
} | {name: {"encoder": "resnet18"} for name in MODELS if name.startswith("smp/") and name != "smp/dpt"}
OLD, OWN = ("road", "car", "person", "truck"), ("person", "bicycle", "road", "car", "sky")
# The same classes in both: their positions among the old and among their own.
SAME = [(2, 0), (0, 2), (1, 3)]
FAST = ("unet", "drn_a_18", "smp/fpn")


def classes(names):
    return tuple(LabelClass(name, (number, 0, 0)) for number, name in enumerate(names))


def member_of(name, options=None, candidate="first"):
    options = SMALL.get(name, {}) if options is None else options
    return Member(candidate, name, options, f"{candidate}.safetensors")


def write_bundle(folder, members, names=OLD):
    """A bundle whose weights are drawn, statistics and layers that begin at zero as well."""
    folder.mkdir()
    models = []
    for number, member in enumerate(members):
        torch.manual_seed(number)
        model = make_model(member, len(names)).eval()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.normal_(std=0.1).abs_() if "running_var" in name else value.normal_(std=0.1)
        save_file(model.state_dict(), folder / member.weights)
        models.append(model)
    write_description(folder, Bundle(classes(names), 0, tuple(members)))
    return models


def init_of(folder):
    return Init(
        address="models:/streets@champion", source="models:/streets/3", sha256=bundle_hash(folder), folder=folder
    )


@pytest.fixture
def info(tmp_path):
    return replace(read_dataset_info(write_noise(tmp_path)), classes=classes(OWN))


def config_of(model, **train):
    settings = load(json.dumps({"train": {"models": [model], "losses": ["dice"], "init": "given", **train}})).train
    return grid_configs(settings, 7)[0]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_every_architecture_keeps_the_logits_of_the_classes_it_knew(name, tmp_path, info):
    member = member_of(name)
    [old] = write_bundle(tmp_path / "bundle", [member])
    model = make_started_model(config_of({name: member.options}), info, init_of(tmp_path / "bundle")).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before, now = old(images), model(images)
    assert now.shape[1] == len(OWN)
    assert before.std() > 0
    for then, here in SAME:
        torch.testing.assert_close(now[:, here], before[:, then], rtol=1e-4, atol=1e-4 * float(before.std()))


def test_new_classes_are_as_fresh_as_without_a_start(tmp_path, info):
    write_bundle(tmp_path / "bundle", [member_of("unet", UNET)])
    config = config_of({"unet": UNET})
    torch.manual_seed(3)
    fresh = make_model(member_of("unet", UNET), len(OWN)).state_dict()
    torch.manual_seed(3)
    started = make_started_model(config, info, init_of(tmp_path / "bundle")).state_dict()
    for name in class_axes(member_of("unet", UNET), len(OWN)):
        assert torch.equal(started[name][[1, 4]], fresh[name][[1, 4]])
        assert not torch.equal(started[name], fresh[name])


def test_a_tensor_that_counts_classes_twice_is_mapped_on_both_axes():
    weights, fresh = torch.arange(32.0).view(4, 2, 4), -torch.arange(50.0).view(5, 2, 5)
    mapped = map_weights({"up": fresh}, {"up": weights}, {"up": (0, 2)}, OLD, OWN)["up"]
    expected = fresh.clone()
    for then, here in SAME:
        for other_then, other_here in SAME:
            expected[here, :, other_here] = weights[then, :, other_then]
    assert torch.equal(mapped, expected)


def test_without_a_class_in_common_the_head_is_fresh():
    fresh = torch.ones(2, 3)
    assert torch.equal(map_weights({"a": fresh}, {"a": torch.zeros(1, 3)}, {"a": (0,)}, ["x"], ["y", "z"])["a"], fresh)


def test_a_line_tells_what_was_mapped(tmp_path, info, capsys):
    write_bundle(tmp_path / "bundle", [member_of("unet", UNET, "unet-dice")])
    init, config = init_of(tmp_path / "bundle"), config_of({"unet": UNET})
    check_init([config, config], info, init)
    assert capsys.readouterr().out.splitlines() == [
        "train: init: models:/streets@champion = version 3, member unet-dice: 3 of 5 classes by name, bicycle, sky are "
        "new, truck is dropped"
    ]
    line = describe_start(config, replace(info, classes=classes(OLD)), init)
    assert line.endswith("member unet-dice: all 4 classes by name")


def test_of_an_ensemble_the_first_of_the_architecture_starts_and_before_it_the_one_of_the_same_name(tmp_path, info):
    members = [
        member_of("unet", {"width": 3, "depth": 1}, "a"),
        member_of("unet", UNET, "b"),
        member_of("unet", UNET, "unet-dice"),
        member_of("smp/fpn", {"encoder": "resnet18", "pretrained": True}, "fpn"),
    ]
    write_bundle(tmp_path / "bundle", members)
    init = init_of(tmp_path / "bundle")
    assert "member unet-dice:" in describe_start(config_of({"unet": UNET}), info, init)
    assert "member b:" in describe_start(config_of({"unet": UNET}, losses=["focal"]), info, init)
    # Its weights replace those of the hub, which are not asked for: the tests have no network.
    assert "member fpn:" in describe_start(
        config_of({"smp/fpn": {"encoder": "resnet18", "pretrained": "nowhere"}}), info, init
    )


def test_what_no_member_fits_is_told_with_what_there_is_before_anything_is_trained(tmp_path, info):
    write_bundle(tmp_path / "bundle", [member_of("unet", UNET, "a"), member_of("smp/fpn", candidate="b")])
    configs = [config_of({"unet": UNET}), config_of({"unet": {"width": 4, "depth": 1}}), config_of("segnet")]
    with pytest.raises(TrainingError) as caught:
        check_init(configs, info, init_of(tmp_path / "bundle"))
    assert str(caught.value) == (
        "train.init: models:/streets@champion holds no unet(width=4, depth=1) for unet-dice (a is unet with width 2 in "
        "place of 4; b is smp/fpn); change train.models to what it holds, or train.init; "
        "train.init: models:/streets@champion holds no segnet for segnet-dice (a is unet; b is smp/fpn); change "
        "train.models to what it holds, or train.init"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop(next(iter(weights))), "is missing, expected"),
        (lambda weights: weights.update({next(iter(weights)): torch.zeros(1)}), r"has the shape \[1\], expected"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, info, change, said):
    [model] = write_bundle(tmp_path / "bundle", [member_of("unet", UNET)])
    weights = dict(model.state_dict())
    change(weights)
    save_file(weights, tmp_path / "bundle" / "first.safetensors")
    with pytest.raises(TrainingError, match=said):
        check_init([config_of({"unet": UNET})], info, init_of(tmp_path / "bundle"))


def test_broken_weights_are_refused(tmp_path, info):
    write_bundle(tmp_path / "bundle", [member_of("unet", UNET)])
    (tmp_path / "bundle" / "first.safetensors").write_bytes(b"1")
    with pytest.raises(TrainingError, match="the weights of first are missing or broken"):
        check_init([config_of({"unet": UNET})], info, init_of(tmp_path / "bundle"))


def test_a_network_whose_classes_cannot_be_told_apart_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "unet", lambda classes, **_: nn.Conv2d(3, 2 * classes, 1))
    with pytest.raises(TrainingError, match=r"weight of unet has the shape \[10, 3, 1, 1\] for 5 classes"):
        class_axes(member_of("unet"), 5)


def trial_in(folder, dataset_dir, start=None, **train):
    settings = load(json.dumps({"train": TINY | train})).train
    [config] = grid_configs(settings, 7)
    inputs = TrialInputs(dataset_dir=dataset_dir, prepared_dir=folder / "prepared", init=start)
    store = CheckpointStore("", keeps_last=settings.keep_checkpoints)
    return Trial(config=config, inputs=inputs, folder=folder / config.name, until=settings.epochs, store=store)


def weights_of(trial):
    return (trial.folder / "weights.safetensors").read_bytes()


CONSTANT = {"schedule": "constant", "warmup_fraction": 0.0, "ema_decay": 0.9}


def found(address, folder, out):
    """What the parameter stands for, where the trials find it."""
    init = find_init(str(address), None, "key", out, folder / "copied")
    return share_init(init, out / "prepared", CheckpointStore(""))


def test_two_epochs_and_two_more_are_four(tmp_path):
    """With a rate that does not depend on the length: the optimizer, the averages and the best epoch go on as well."""
    dataset_dir = write_noise(tmp_path)
    whole = trial_in(tmp_path / "whole", dataset_dir, epochs=4, **CONSTANT)
    assert len(list(train_trial(whole))) == 4
    assert not (whole.folder / "last.pt").exists()
    first = trial_in(tmp_path / "first", dataset_dir, epochs=2, keep_checkpoints=True, **CONSTANT)
    assert len(list(train_trial(first))) == 2
    assert (first.folder / "last.pt").is_file()
    init = found(tmp_path / "first", tmp_path, tmp_path / "more")
    more = trial_in(
        tmp_path / "more", dataset_dir, init, epochs=4, resume=True, init=str(tmp_path / "first"), **CONSTANT
    )
    check_init([more.config], read_dataset_info(dataset_dir), init)
    assert try_passes([more]) == {}
    assert [record["epoch"] for record in train_trial(more)] == [1, 2, 3, 4]
    assert weights_of(more) == weights_of(whole)
    assert read_history(more.folder) == read_history(whole.folder)
    [member] = read_bundle(more.folder).members
    assert member.init == {"source": str(tmp_path / "first"), "candidate": "unet-dice", "sha256": init.sha256}
    assert not (more.folder / "last.pt").exists()


def test_a_cut_training_that_goes_on_begins_with_its_own_checkpoint(tmp_path, monkeypatch):
    dataset_dir = write_noise(tmp_path)
    list(train_trial(trial_in(tmp_path / "first", dataset_dir, epochs=1, keep_checkpoints=True)))
    init = found(tmp_path / "first" / "unet-dice", tmp_path, tmp_path / "more")
    settings = {"epochs": 3, "resume": True, "init": "given", "losses": ["focal"]}
    more = trial_in(tmp_path / "more", dataset_dir, init, **settings)
    records = train_trial(more)
    assert [next(records)["epoch"] for _ in range(2)] == [1, 2]
    records.close()
    trained, steps = [], engine.train_step
    monkeypatch.setattr(engine, "train_step", lambda *given: trained.append(given[2]) or steps(*given))
    assert [record["epoch"] for record in train_trial(more)] == [1, 2, 3]
    assert len(trained) == 1
    assert (more.config.name, read_bundle(more.folder).members[0].init["candidate"]) == ("unet-focal", "unet-dice")


def test_a_cut_training_from_a_bundle_ends_with_the_same_bits(tmp_path):
    dataset_dir = write_noise(tmp_path)
    write_bundle(tmp_path / "bundle", [member_of("unet", UNET)], ("light", "dark"))
    ends = []
    for name, cut in (("whole", False), ("cut", True)):
        init = found(tmp_path / "bundle", tmp_path / name, tmp_path / name / "out")
        trial = trial_in(tmp_path / name, dataset_dir, init, init="given", epochs=2)
        if cut:
            records = train_trial(trial)
            next(records)
            records.close()
            (trial.folder / "last.pt").write_bytes(b"1")
        list(train_trial(trial))
        ends.append(weights_of(trial))
    assert ends[0] == ends[1]
    told = read_trial_params(trial.folder)
    assert (told["init.candidate"], told["init.sha256"]) == ("first", init.sha256)


def test_what_a_start_from_a_bundle_knew_is_there_before_the_first_step(tmp_path):
    """At a rate of nearly nothing, a champion's score does not change by training it again."""
    dataset_dir = write_noise(tmp_path)
    good = trial_in(tmp_path / "good", dataset_dir, epochs=20, learning_rate=0.02)
    best = max(record["val_miou"] for record in train_trial(good))
    init = found(tmp_path / "good", tmp_path, tmp_path / "again")
    still = {"learning_rate": 1e-8, "fine_tuning": {"batch_norm": "fixed"}, "precision": "fp32"}
    [record] = train_trial(trial_in(tmp_path / "again", dataset_dir, init, epochs=1, init="given", **still))
    assert record["val_miou"] == pytest.approx(best, abs=0.01)
    [fresh] = train_trial(trial_in(tmp_path / "fresh", dataset_dir, epochs=1, **still))
    assert fresh["val_miou"] < best - 0.1


@pytest.mark.parametrize(
    ("change", "train", "said"),
    [
        (lambda folder: None, {"epochs": 1}, "train.epochs: got 1, expected more than the 1 that unet-dice in"),
        (
            lambda folder: (folder / "last.pt").unlink(),
            {"epochs": 2},
            "has no whole last.pt; only what was trained with",
        ),
        (lambda folder: (folder / "last.pt").write_bytes(b"1"), {"epochs": 2}, "has no whole last.pt"),
        (lambda folder: None, {"epochs": 2, "models": ["segnet"]}, "holds no segnet for segnet-dice"),
    ],
)
def test_what_cannot_go_on_is_told_before_it_begins(tmp_path, change, train, said):
    dataset_dir = write_noise(tmp_path)
    first = trial_in(tmp_path / "first", dataset_dir, epochs=1, keep_checkpoints=True)
    list(train_trial(first))
    change(first.folder)
    init = found(first.folder, tmp_path, tmp_path / "more")
    more = trial_in(tmp_path / "more", dataset_dir, init, resume=True, init="given", **train)
    with pytest.raises(TrainingError, match=said):
        check_init([more.config], read_dataset_info(dataset_dir), init)


def test_other_classes_do_not_go_on(tmp_path, info):
    dataset_dir = tmp_path / "label"
    list(train_trial(trial_in(tmp_path / "first", dataset_dir, epochs=1, keep_checkpoints=True)))
    init = found(tmp_path / "first", tmp_path, tmp_path / "more")
    more = trial_in(tmp_path / "more", dataset_dir, init, resume=True, init="given", epochs=2)
    with pytest.raises(TrainingError, match="trained with the classes dark, light, and the data have person, bicycle"):
        check_init([more.config], info, init)


def test_a_licence_goes_along(tmp_path):
    dataset_dir = write_noise(tmp_path)
    write_bundle(tmp_path / "bundle", [member_of("unet", UNET)], ("light", "dark"))
    (tmp_path / "bundle" / ENCODER_LICENCE).write_text("free", encoding="utf-8")
    init = found(tmp_path / "bundle", tmp_path, tmp_path / "out")
    trial = trial_in(tmp_path / "out", dataset_dir, init, init="given", epochs=1)
    list(train_trial(trial))
    assert (trial.folder / ENCODER_LICENCE).read_text(encoding="utf-8") == "free"
    assert np.isfinite(trial.best_score)
