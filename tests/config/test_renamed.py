"""Every key and word that is not one of version 0.2 any more is refused with the name that it has now."""

import json

import pytest

from segline.cli import main
from segline.config.loader import load
from segline.errors import ParamsError

HINT = "since 0.2? `segline migrate` rewrites the file"
# Written by hand from the params.yaml of 0.1: dotted key, a value that was valid, the new name.
KEYS = [
    ("validate.min_blur", 20.0, "min_sharpness"),
    ("validate.severity.blur", "warn", "sharpness"),
    ("validate.severity.unlabelled", "stop", "empty_label"),
    ("train.patience", 3, "early_stopping_patience"),
    ("train.accumulate", 2, "gradient_accumulation_steps"),
    ("train.warmup", 0.1, "warmup_fraction"),
    ("train.clip", 1.0, "max_grad_norm"),
    ("train.ema", 0.99, "ema_decay"),
    ("train.augment.shift", 0.1, "translate"),
    ("train.augment.colour", 0.1, "brightness_contrast"),
    ("train.search.samples", 8, "num_samples"),
    ("train.search.at_once", 4, "trials_per_round"),
    ("train.search.reduction", 3, "reduction_factor"),
]
SPACES = [
    ("accumulate", [1, 2], "gradient_accumulation_steps"),
    ("warmup", [0.0, 0.1], "warmup_fraction"),
    ("clip", [0.0, 1.0], "max_grad_norm"),
    ("ema", [0.0, 0.9], "ema_decay"),
    ("augment.shift", {"low": 0.0, "high": 0.1}, "augment.translate"),
    ("augment.colour", [0.1], "augment.brightness_contrast"),
]


def errors_with(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    with pytest.raises(ParamsError) as caught:
        load(json.dumps(value))
    return caught.value.errors


@pytest.mark.parametrize(("key", "value", "name"), KEYS, ids=lambda value: str(value))
def test_an_old_key_is_refused_with_its_new_name(key, value, name):
    assert errors_with(key, value) == [f"{key}: unknown key; did you mean {name!r}, its name {HINT}"]
    section = key.rpartition(".")[0]
    assert load("{}", [f"{section}.{name}={value}"])


@pytest.mark.parametrize(("key", "value", "name"), SPACES, ids=lambda value: str(value))
def test_an_old_hyperparameter_is_refused_with_its_new_name(key, value, name):
    with pytest.raises(ParamsError) as caught:
        load(json.dumps({"train": {"search": {"spaces": {key: value}}}}))
    where = f"train.search.spaces.{key}"
    assert caught.value.errors == [f"{where}: unknown hyperparameter; did you mean {name!r}, its name {HINT}"]
    assert load(json.dumps({"train": {"search": {"spaces": {name: value}}}}))


def test_the_key_of_two_schedulers_is_refused_with_both_names():
    assert errors_with("train.search.min_epochs", 8) == [
        "train.search.min_epochs: unknown key; did you mean 'grace_period' (for halving and asha) or "
        f"'perturbation_interval' (for pbt), its names {HINT}"
    ]


def test_the_section_of_the_edge_network_is_refused_with_the_options_of_its_loss():
    expected = (
        "edges: unknown key; did you mean the options edge_steps, edge_batch_size, edge_learning_rate, "
        f"edge_min_accuracy of the loss semeda, its place {HINT}"
    )
    assert errors_with("edges.steps", 1000) == [expected]


def test_an_old_key_of_an_override_is_refused_with_its_new_name():
    with pytest.raises(ParamsError, match="did you mean 'max_grad_norm'"):
        load("{}", ["train.clip=1"])


@pytest.mark.parametrize("section", ["train", "label", "train.augment"])
def test_an_old_name_elsewhere_is_only_an_unknown_key(section):
    [line] = errors_with(f"{section}.min_blur", 1)
    assert "since 0.2" not in line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--ingested", "--manifest"),
        ("--validated", "--validation"),
        ("--labelled", "--dataset"),
        ("--trained", "--candidates"),
        ("--evaluated", "--evaluation"),
        ("--ensembled", "--ensemble"),
        ("--promoted", "--promotion"),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_an_old_argument_is_one_line_with_its_new_name(old, new, joined, capsys):
    words = [f"{old}=data/x"] if joined else [old, "data/x"]
    assert main(["promote", "--params", "{}", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"segline promote: unknown argument {old}; did you mean {new}, its name since 0.2?"


def test_the_folder_of_the_edge_network_is_no_argument_any_more(capsys):
    assert main(["train", "--edged", "data/edges"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "segline train: unknown argument --edged; leave it out, train prepares the edge network itself"


def test_the_stage_of_the_edge_network_is_no_command_any_more(capsys):
    assert main(["edges", "--params", "params.yaml"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "segline edges: unknown command; since 0.2, train prepares the edge network itself"


def test_a_key_that_is_gone_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ParamsError, match=r"promote\.resamples: unknown key; it is gone since 0\.2, as the interval"):
        load(_file(tmp_path))


def _file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("promote: {resamples: 2000}\n", encoding="utf-8")
    return path
