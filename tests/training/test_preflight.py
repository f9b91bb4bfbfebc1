"""One pass of every kind of model and loss before the first trial: real faults of real libraries, each in one line."""

import json

import pytest
from grids import write_noise

from segline.artifacts.dataset import read_dataset_info
from segline.config.loader import load
from segline.errors import TrainingError
from segline.training import engine, preflight
from segline.training.checkpoints import CheckpointStore
from segline.training.preflight import check_components, try_passes
from segline.training.search import check
from segline.training.search.decisions import Decisions
from segline.training.search.grid import grid_configs
from segline.training.trial import Trial, TrialInputs

UNET = {"unet": {"width": 2, "depth": 1}}
SWIN = {"smp/upernet": {"encoder": "tu-swin_tiny_patch4_window7_224"}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return TrialInputs(dataset_dir=write_noise(folder), prepared_dir=folder / "prepared")


def settings(**train):
    return load(json.dumps({"train": train})).train


def trials(inputs, **train):
    configs = check.kinds(grid_configs(settings(**train), 7))
    return [Trial(config=config, inputs=inputs, folder="", until=1, store=CheckpointStore("")) for config in configs]


def test_what_can_be_trained_passes(inputs):
    losses = ["dice", "semeda", {"lovasz_softmax": {}, "cross_entropy": {"weight": 0.5}}]
    assert try_passes(trials(inputs, models=[UNET, "drn_a_18"], losses=losses)) == {}
    assert not inputs.prepared_dir.exists()


def test_an_encoder_of_one_size_is_named_with_the_size_and_the_others_are_tried(inputs):
    faults = try_passes(trials(inputs, models=[SWIN, UNET], losses=["dice"]))
    assert list(faults) == ["smp_upernet-dice"]
    assert "(224)" in faults["smp_upernet-dice"]
    assert "label.crop" in faults["smp_upernet-dice"]
    assert "\n" not in faults["smp_upernet-dice"]


def test_a_missing_compiler_is_named(inputs, fresh_compiler, monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "fx_graph_cache", False)
    faults = try_passes(trials(inputs, models=[UNET], losses=["dice"], compile=True))
    assert faults["unet-dice"].startswith("it cannot be compiled here (")
    assert faults["unet-dice"].endswith("install a C++ compiler such as g++, or set train.compile: false")
    assert "\n" not in faults["unet-dice"]


ERRORS = [
    (MemoryError(), "out of memory at train.batch_size 2; try train.batch_size: 1"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory at train.batch_size 2"),
    (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
    (RuntimeError("a\nb\n" + 1000 * "c"), "RuntimeError: a b ccc"),
    (KeyError("x"), "KeyError: 'x'"),
    (AssertionError(), "AssertionError: AssertionError"),
    (TrainingError("the loss is odd"), "the loss is odd"),
]


@pytest.mark.parametrize(("error", "said"), ERRORS, ids=lambda value: type(value).__name__)
def test_any_error_of_a_pass_is_one_line(inputs, monkeypatch, error, said):
    def fail(run):
        raise error

    monkeypatch.setattr(engine, "try_step", fail)
    [fault] = try_passes(trials(inputs, models=[UNET], losses=["dice"])).values()
    assert said in fault
    assert len(fault.splitlines()) == 1
    assert len(fault) < 700


def test_a_plan_names_the_trial_that_cannot_be_measured():
    with pytest.raises(TrainingError, match=r"^unet-dice: .*\(KeyError: 'x'\)"), preflight.naming_trial("unet-dice"):
        raise KeyError("x")


def test_each_model_and_each_loss_is_tried_once_and_not_their_product(inputs):
    models = [{"unet": {"width": 2, "depth": depth}} for depth in (1, 2, 3)]
    losses = ["dice", "focal", "cross_entropy", {"dice": {"weight": 0.5}, "focal": {}}]
    spaces = {"learning_rate": {"low": 1e-4, "high": 1e-2}}
    chosen = trials(inputs, models=models, losses=losses, compile=True, search={"spaces": spaces, "num_samples": 20})
    tried = [(trial.config.model.options["depth"], [term.name for term in trial.config.loss]) for trial in chosen]
    assert tried == [(1, ["dice"]), (1, ["focal"]), (1, ["cross_entropy"]), (2, ["dice"]), (3, ["dice"])]
    assert [trial.config.settings.compile for trial in chosen] == [True, False, False, True, True]


def test_what_has_passed_in_this_folder_is_not_tried_again(inputs, tmp_path, monkeypatch):
    tried, params = [], load(json.dumps({"train": {"models": [UNET], "losses": ["dice"]}}))
    state = type("State", (), {})()
    state.params, state.inputs, state.decisions = params, inputs, Decisions(tmp_path, CheckpointStore(""))
    monkeypatch.setattr(check, "is_one_machine", lambda: True)
    answers = [{"unet-dice": "no"}, {}]
    monkeypatch.setattr(check, "_try_passes", lambda chosen: tried.append(len(chosen)) or answers[len(tried) - 1])
    with pytest.raises(TrainingError, match=r"^unet-dice: no$"):
        check.check_trials(state)
    check.check_trials(state)
    check.check_trials(state)
    assert tried == [1, 1]


def test_the_same_fault_of_several_trials_is_told_once():
    assert check._grouped({"a": "no gcc", "b": "size", "c": "no gcc"}) == ["a, c: no gcc", "b: size"]


def test_the_trial_that_kills_its_process_is_found(inputs, monkeypatch):
    chosen = trials(inputs, models=[UNET, {"unet": {"width": 2, "depth": 2}}], losses=["dice"])
    bad = chosen[1].name
    monkeypatch.setattr(
        check, "run_apart", lambda run, some, *rest: None if bad in [trial.name for trial in some] else {}
    )
    assert check._try_apart(chosen, settings()) == {bad: check.KILLED}


def test_unknown_encoders_and_classes_are_all_told_at_once(inputs):
    wrong = settings(
        models=[{"smp/fpn": {"encoder": "resnet180"}}], losses=[{"cross_entropy": {"class_weights": {"grey": 2.0}}}]
    )
    with pytest.raises(TrainingError, match=r"resnet180.*; .*grey") as caught:
        check_components(wrong, read_dataset_info(inputs.dataset_dir), inputs)
    assert len(str(caught.value).splitlines()) == 1
