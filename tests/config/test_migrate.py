"""A ``params.yaml`` of 0.1 becomes a present one: what must change changes, and nothing else."""

import difflib
import json
from pathlib import Path

import pytest
import yaml

from segline.cli import main
from segline.config.loader import load
from segline.config.migrate import migrate
from segline.errors import ParamsError

OLD_FILE = Path(__file__).with_name("params_0_1.yaml")
OLD = OLD_FILE.read_text()
EDGES = "edges:\n  steps: 2000\n  min_accuracy: 0.99\n\n"
OPTIONS = {"edge_steps": 2000, "edge_min_accuracy": 0.99}


def migrated(text):
    """The new text; it is loaded, and another migration leaves it as it is."""
    new = migrate(text, "params.yaml")
    assert migrate(new, "params.yaml") == new
    return new


def changed_lines(before, after):
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("promote:\n  resamples: 2000  # draws\n  confidence: 0.9\n", "promote:\n  confidence: 0.9\n"),
        ("promote:\n  confidence: 0.9\n  resamples: 2000", "promote:\n  confidence: 0.9\n"),
        ("promote: {resamples: 2000, confidence: 0.9}\n", "promote: {confidence: 0.9}\n"),
        ("promote: {confidence: 0.9, resamples: 2000}  # so\n", "promote: {confidence: 0.9}                   # so\n"),
        ("promote: {resamples: 2000}\n", "promote: {}\n"),
        ("promote:\n  resamples: 2000  # draws\nseed: 3\n", "promote:\n  {}               # draws\nseed: 3\n"),
    ],
)
def test_a_key_that_is_gone_is_removed(before, after):
    assert migrated(before) == after


def test_the_file_of_0_1_changes_only_where_it_must():
    removed, added = changed_lines(OLD, migrated(OLD))
    edges = [line for line in OLD[OLD.index("edges:") : OLD.index("train:\n")].splitlines() if line]
    assert [line for line in removed if line and line not in edges] == [
        "  min_blur: 20.0",
        "    unlabelled: quarantine",
        "    blur: warn",
        "    samples: 1            # trials of each model x loss that has something to draw",
        "    at_once: 4            # draws of a cell between two looks of Optuna",
        "    reduction: 2          # one in two goes on at each rung",
        "    min_epochs: 8         # of the first rung; pbt looks that often",
        "  patience: 0             # epochs without a better validation mIoU; 0: wait for ever",
        "  accumulate: 1           # forward passes in a step",
        "  warmup: 0.1",
        "  clip: 0.0               # largest norm of the gradient; 0: any",
        "  ema: 0.0                # decay of averaged weights; 0: none",
        "    shift: 0.05",
        "    colour: 0.1",
        "  resamples: 2000",
    ]
    assert added == [
        "  min_sharpness: 20.0",
        "    empty_label: quarantine",
        "    sharpness: warn",
        "    num_samples: 1        # trials of each model x loss that has something to draw",
        "    trials_per_round: 4   # draws of a cell between two looks of Optuna",
        "    reduction_factor: 2   # one in two goes on at each rung",
        "    grace_period: 8       # of the first rung; pbt looks that often",
        "  early_stopping_patience: 0    # epochs without a better validation mIoU; 0: wait for ever",
        "  gradient_accumulation_steps: 1    # forward passes in a step",
        "  warmup_fraction: 0.1",
        "  max_grad_norm: 0.0      # largest norm of the gradient; 0: any",
        "  ema_decay: 0.0          # decay of averaged weights; 0: none",
        "    translate: 0.05",
        "    brightness_contrast: 0.1",
    ]


def test_the_migrated_file_of_0_1_is_the_defaults_but_for_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text(migrated(OLD))
    train = {
        "models": [{"unet_resnet34": {"pretrained": False}}, {"unet": {"width": 16}}],
        "losses": [{"bounding_box": {"beta_bg": 0.05, "class_weights": False}}, "dice"],
    }
    line = {"label": {"sampling": "max_foreground", "crop": 96}, "train": train}
    assert load(tmp_path / "params.yaml") == load(json.dumps(line))


def test_the_present_file_stays_as_it_is():
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    assert migrate(text, "params.yaml") == text


@pytest.mark.parametrize(
    ("scheduler", "key"),
    [("halving", "grace_period"), ("asha", "grace_period"), ("none", "grace_period"), ("pbt", "perturbation_interval")],
)
def test_the_scheduler_says_what_the_epochs_mean(scheduler, key):
    spaces = "spaces: {clip: [0.0, 1.0], augment.shift: {low: 0.0, high: 0.1}}\n    samples: 4"
    new = migrated(f"train:\n  search:\n    {spaces}\n    min_epochs: 3   # few\n    scheduler: {scheduler}\n")
    assert yaml.safe_load(new)["train"]["search"] == {
        "spaces": {"max_grad_norm": [0.0, 1.0], "augment.translate": {"low": 0.0, "high": 0.1}},
        "num_samples": 4,
        key: 3,
        "scheduler": scheduler,
    }
    assert "# few" in new


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("train: {clip: 1.0, ema: 0.9}  # flow\n", "train: {max_grad_norm: 1.0, ema_decay: 0.9}    # flow\n"),
        ("train:\n  'clip': 1.0\n", "train:\n  'max_grad_norm': 1.0\n"),
        ('"train":\n  "augment": {"shift": 0.1}\n', '"train":\n  "augment": {"translate": 0.1}\n'),
        ("train:\r\n  clip: 1.0   # norm\r\n", "train:\r\n  max_grad_norm: 1.0    # norm\r\n"),
        ("train:\n  clip: 1.0", "train:\n  max_grad_norm: 1.0"),
        ("name: clip # clip: no key\ntrain:\n  clip : 0\n", "name: clip # clip: no key\ntrain:\n  max_grad_norm : 0\n"),
        (
            "validate: {severity: &rules {blur: stop}}\n# a comment\nseed: 1\n",
            "validate: {severity: &rules {sharpness: stop}}\n# a comment\nseed: 1\n",
        ),
        (
            "train:\n  search: {spaces: {augment.shift: &a [0.1], augment.colour: *a}}\n",
            "train:\n  search: {spaces: {augment.translate: &a [0.1], augment.brightness_contrast: *a}}\n",
        ),
        (
            "train:\n  <<: {clip: 1.0}\n  search: {spaces: {ema: [0.0]}}\n",
            "train:\n  <<: {max_grad_norm: 1.0}\n  search: {spaces: {ema_decay: [0.0]}}\n",
        ),
    ],
)
def test_the_layout_of_the_text_stays(before, after):
    assert migrated(before) == after


@pytest.mark.parametrize("text", ["", "# nothing\n", "seed: 1\n", "train: {epochs: 1}", "---\nseed: 1\n"])
def test_an_up_to_date_text_stays(text):
    assert migrated(text) == text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ("losses: [dice, semeda]", "losses: [dice, {semeda: {OPTIONS}}]"),
        ("losses: [{semeda: {}}]", "losses: [{semeda: {OPTIONS}}]"),
        ("losses: [{semeda: {lambda_1: 1.0}}, dice]", "losses: [{semeda: {lambda_1: 1.0, OPTIONS}}, dice]"),
        ("losses: [{dice, semeda}]", "losses: [{dice, semeda: {OPTIONS}}]"),
        ("losses: [{dice: {}, semeda: null}]", "losses: [{dice: {}, semeda: {OPTIONS}}]"),
        ("losses: [{semeda: , dice: }]", "losses: [{semeda: {OPTIONS} , dice: }]"),
        ("losses:\n    - dice\n    - semeda    # slow", "losses:\n    - dice\n    - semeda: {OPTIONS}    # slow"),
        ("losses:\n    - semeda:\n    - dice", "losses:\n    - semeda: {OPTIONS}\n    - dice"),
        (
            "losses:\n  - semeda: {lambda_1: 1.0 }\n  - semeda",
            "losses:\n  - semeda: {lambda_1: 1.0, OPTIONS }\n  - semeda: {OPTIONS}",
        ),
        (
            "losses:\n    - dice: {weight: 0.5}\n      semeda:\n        weight: 0.5   # half\n\n  epochs: 3",
            "losses:\n    - dice: {weight: 0.5}\n      semeda:\n        weight: 0.5   # half\n"
            "        edge_steps: 2000\n        edge_min_accuracy: 0.99\n\n  epochs: 3",
        ),
        ("losses: [dice]", "losses: [dice]"),
        ("losses:\n    - dice", "losses:\n    - dice"),
        ("epochs: 3", "epochs: 3"),
    ],
)
def test_the_options_of_the_edge_network_move_into_each_loss_that_uses_it(losses, expected, newline):
    options = "edge_steps: 2000, edge_min_accuracy: 0.99"
    after = f"seed: 1\n\ntrain:\n  models: [unet]\n  {expected.replace('OPTIONS', options)}\n"
    losses = f"models: [unet]\n  {losses}"
    for before in (f"seed: 1\n\n{EDGES}train:\n  {losses}\n", f"seed: 1\n\ntrain:\n  {losses}\n\n{EDGES}"):
        assert migrated(before.replace("\n", newline)) == after.replace("\n", newline)
    # Without a line between them, and without an end of the last line.
    after = after.replace("\n\n", "\n", 1)
    assert migrated(f"seed: 1\ntrain:\n  {losses}\n{EDGES.strip()}") == after


def test_an_empty_section_only_goes():
    for section in ("edges:\n", "edges: {}\n", "edges: # nothing\n"):
        train = "train:\n  models: [unet]\n  losses: [semeda]\n"
        assert migrated(section + train) == train


def test_comments_of_the_section_move_with_its_keys():
    before = """\
# The parameters of a test.
seed: 1

# The network of edges
# of all losses.
edges:    # as in the paper
  steps: 50   # at most
  # small ones
  batch_size: 4
  # until here

train:
  models: [unet]
  losses:   # two
    - dice
    - semeda: {lambda_1: 1.0}   # slow
    - semeda
"""
    assert (
        migrated(before)
        == """\
# The parameters of a test.
seed: 1

train:
  models: [unet]
  losses:   # two
    - dice
    # The network of edges
    # of all losses.
    # as in the paper
    # edge_steps: at most
    # small ones
    # until here
    - semeda: {lambda_1: 1.0, edge_steps: 50, edge_batch_size: 4}    # slow
    - semeda: {edge_steps: 50, edge_batch_size: 4}
"""
    )


def test_a_comment_that_needs_no_room_keeps_its_place():
    losses = "losses:\n    - semeda:     # slow\n        lambda_1: 1.0\n"
    assert migrated(f"edges:\n  steps: 5 # few\n\ntrain:\n  models: [unet]\n  {losses}") == (
        "train:\n  models: [unet]\n  losses:\n    # edge_steps: few\n    - semeda:     # slow\n        lambda_1: 1.0\n"
        "        edge_steps: 5\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: [1\n", "not valid YAML"),
        ("train:\n  clip: 1\n  clip: 1\n", "key 'clip' is given twice"),
        ("train:\n  clip: 1\n  max_grad_norm: 1\n", "key 'max_grad_norm' is given twice"),
        ("train:\n  clip: much\n", "train.max_grad_norm: got 'much'"),
        ("edges: {stepz: 1}\n", "edges.stepz: unknown key; did you mean 'steps'?"),
        ("sed: 1\n", "did you mean 'seed'?"),
        ("seed\n", "expected a mapping"),
        ('{"train": {"clip": 1}}\n', "got JSON"),
    ],
)
def test_a_file_that_cannot_become_a_present_one_is_refused(text, expected):
    with pytest.raises(ParamsError) as caught:
        migrate(text, "params.yaml")
    [line] = caught.value.errors
    assert expected in line


def test_the_command_shows_the_difference_and_writes_only_when_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(OLD, encoding="utf-8")
    assert main(["migrate"]) == 0
    shown = capsys.readouterr()
    assert Path("params.yaml").read_text(encoding="utf-8") == OLD
    assert shown.out.startswith("--- params.yaml\n+++ params.yaml\n")
    assert "\n-  min_blur: 20.0\n+  min_sharpness: 20.0\n" in shown.out
    assert "--write" in shown.err
    assert main(["migrate", "--write"]) == 0
    assert capsys.readouterr().out == shown.out
    assert Path("params.yaml").read_text(encoding="utf-8") == migrated(OLD)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "params.yaml"]
    assert main(["migrate", "--write"]) == 0
    assert capsys.readouterr().out == "params.yaml is up to date\n"


@pytest.mark.parametrize("params", ['{"train": {"clip": 1}}', "missing.yaml", "wrong.yaml"])
def test_the_command_refuses_in_a_line_and_writes_nothing(params, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text("train:\n  clip: much\n", encoding="utf-8")
    assert main(["migrate", "--write", "--params", params]) == 2
    head, line = capsys.readouterr().err.splitlines()
    assert head.startswith("segline migrate: ")
    assert line.strip()
    assert Path("wrong.yaml").read_text(encoding="utf-8") == "train:\n  clip: much\n"


def test_json_text_is_refused(capsys):
    assert main(["migrate", "--params", json.dumps({"seed": 1})]) == 2
    assert "only a file is rewritten" in capsys.readouterr().err
