"""The strict loader: the repository's own file, JSON text, and every kind of error."""

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from wrong_params import BEYOND_SCHEMA, SHAPE

from segline.cli import main
from segline.config.components import ComponentSpec
from segline.config.loader import load
from segline.config.params import Params
from segline.config.spaces import Space
from segline.config.yaml_reader import parse_yaml
from segline.errors import ParamsError

FILE = Path(__file__).parents[2] / "params.yaml"
DOCUMENT = parse_yaml(FILE.read_text())


def errors_of(origin):
    with pytest.raises(ParamsError) as caught:
        load(origin)
    assert caught.value.exit_code == 2
    return caught.value.errors


def errors_in(document):
    return errors_of(json.dumps(document))


def leaves(tree, prefix=""):
    """Dotted key and value of every leaf of nested mappings; a map whose keys are the user's is one leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and key not in ("class_maps", "spaces"):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_leaf(key, value):
    """A document that holds nothing but this leaf."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def test_the_file_of_the_repository_is_the_defaults():
    assert load(FILE) == Params()


def test_the_file_of_the_repository_names_every_parameter():
    def declared(section, prefix=""):
        for entry in fields(section):
            value = getattr(section, entry.name)
            if is_dataclass(value) and not isinstance(value, ComponentSpec):
                yield from declared(value, f"{prefix}{entry.name}.")
            else:
                yield f"{prefix}{entry.name}"

    assert [key for key, _ in leaves(DOCUMENT)] == list(declared(Params()))


@pytest.mark.parametrize("indent", [None, 1])
def test_json_text_is_read_like_the_file(indent):
    assert load(json.dumps(DOCUMENT, indent=indent)) == load(FILE)


def test_what_is_left_out_has_its_default(tmp_path):
    assert load("{}") == load('\n {"train": {}}') == Params()
    (tmp_path / "params.yaml").write_text("# nothing\n")
    assert load(tmp_path / "params.yaml") == Params()


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "0.1e-2", "1.e-3", "1.0e-03", "0.001"])
def test_a_number_with_an_exponent_is_a_number(tmp_path, written):
    (tmp_path / "params.yaml").write_text(f"train:\n  learning_rate: {written}\n")
    assert load(tmp_path / "params.yaml").train.learning_rate == 0.001
    assert load(f'{{"train": {{"learning_rate": {written}}}}}').train.learning_rate == 0.001


def test_a_whole_number_is_a_float_where_one_is_declared():
    rate = load('{"train": {"learning_rate": 1}}').train.learning_rate
    assert isinstance(rate, float)
    assert rate == 1.0


def test_models_and_losses_are_names_options_and_sums():
    train = load(
        json.dumps(
            {
                "train": {
                    "models": ["unet", {"unet": {"width": 8, "depth": 2}}, {"unet_resnet34": None}],
                    "losses": [{"dice": {"weight": 2, "squared": True}, "cross_entropy": {}}],
                }
            }
        )
    ).train
    assert train.models == (
        ComponentSpec(name="unet"),
        ComponentSpec(name="unet", options={"width": 8, "depth": 2}),
        ComponentSpec(name="unet_resnet34"),
    )
    assert train.losses == (
        (ComponentSpec(name="dice", options={"squared": True}, weight=2.0), ComponentSpec(name="cross_entropy")),
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    SHAPE + BEYOND_SCHEMA,
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_an_error_is_reported_once_with_its_key_and_what_was_expected(document, expected):
    [line] = errors_in(document)
    assert expected.match(line) if isinstance(expected, re.Pattern) else line == expected


def test_a_wrong_share_is_not_also_reported_as_a_wrong_sum():
    [line] = errors_in({"label": {"split": {"train": 2, "val": 0.5, "test": 0.5}}})
    assert line.startswith("label.split.train: got 2")


def test_an_unknown_key_hides_no_other_error():
    found = errors_in({"model": 1, "train": {"models": ["unet", "unet"]}})
    assert [line.partition(":")[0] for line in found] == ["model", "train"]


@pytest.mark.parametrize("options", [{"pretrained": True}, {"pretrained": "weights.pth"}, {"modified": True}])
def test_frozen_stages_are_right_with_weights_to_freeze(options):
    assert load(json.dumps({"train": {"models": [{"unet_resnet50": options}]}})).train.models[0].options == options


def test_a_listed_distance_map_is_enough_for_its_loss():
    train = {"models": ["unet"], "losses": [{"dice": {}, "boundary": {"weight": 0.01}}]}
    document = {"label": {"distances": ["signed"]}, "train": train}
    assert load(json.dumps(document)).label.distances == ["signed"]


@pytest.mark.parametrize("weight", [".inf", ".nan"])
def test_a_weight_is_finite(tmp_path, weight):
    (tmp_path / "params.yaml").write_text(f"train:\n  losses:\n    - dice: {{weight: {weight}}}\n")
    [line] = errors_of(tmp_path / "params.yaml")
    assert line.startswith("train.losses[0].dice.weight: got")


def test_losses_that_differ_only_in_weight_are_different_cells():
    losses = [{"dice": {"weight": share}, "cross_entropy": {"weight": 1 - share}} for share in (0.25, 0.75)]
    assert len(load(json.dumps({"train": {"losses": losses}})).train.losses) == 2


def test_all_errors_are_reported_at_once(capsys, tmp_path):
    document = {
        "sed": 1,
        "name": 5,
        "ingest": {"layout": "wat", "synthetic": {"drives": 2}},
        "label": {"split": {"train": 0.5}},
        "train": {"models": ["unt"], "losses": [{"dice": {"smooth": -1}}], "epochs": "ten"},
        "promote": [],
    }
    keys = [
        "sed",
        "name",
        "ingest.layout",
        "ingest.synthetic.drives",
        "label.split",
        "train.models[0]",
        "train.losses[0].dice.smooth",
        "train.epochs",
        "promote",
    ]
    assert main(["ingest", "--params", json.dumps(document), "--out", str(tmp_path / "out")]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"segline ingest: the parameters' JSON text: {len(keys)} errors, nothing was run"
    assert sorted(line.partition(":")[0].strip() for line in lines) == sorted(keys)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seed: 1\nname: x\nseed: 2\n", "key 'seed' is given twice"),
        ("train:\n  epochs: 1\n  epochs: 1\n", "key 'epochs' is given twice"),
        ("train:\n  models:\n    - unet: {width: 1, width: 2}\n", "key 'width' is given twice"),
        ("train: [1\n", "not valid YAML"),
        ("seed: 010\n", "line 1: got 010, expected a number such as 10"),
        ("seed: 1:30\n", "line 1: got 1:30, expected a number such as 10"),
        ("a: b: c\n", "not valid YAML"),
        ("? [1]\n: 2\n", "not valid YAML"),
        ("seed: 1\x07\n", "not valid YAML"),
        ("- seed\n- name\n", "expected a mapping"),
        ("seed\n", "expected a mapping"),
    ],
)
def test_a_text_that_is_no_mapping_is_one_error_in_one_line(tmp_path, text, found):
    (tmp_path / "params.yaml").write_text(text)
    [line] = errors_of(tmp_path / "params.yaml")
    assert found in line
    assert "\n" not in line


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, reason in [
        (tmp_path / "missing.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "UTF-8"),
    ]:
        [line] = errors_of(path)
        assert reason in line
        assert "\n" not in line


LEAVES = {key: value for key, value in leaves(DOCUMENT) if key != "ingest.layout"}
WRONG = [None, True, 3, 1.5, "a word", [1], {"a": 1}]


@pytest.mark.parametrize("key", list(LEAVES))
def test_a_leaf_of_a_wrong_type_is_named_by_its_dotted_key(key):
    default = LEAVES[key]
    for wrong in WRONG:
        if type(wrong) is type(default) or (isinstance(default, float) and type(wrong) is int):
            continue
        [line] = errors_in(with_leaf(key, wrong))
        assert line.startswith(f"{key}: got {wrong!r}, expected ")


def test_the_spaces_of_a_search_are_checked_by_what_they_draw():
    spaces = {
        "learning_rat": [1e-3],
        "batch_size": [8, 0],
        "unet.width": {"low": 4, "high": 5000},
        "bounding_box.beta": [0.1],
        "dice.squared": [True, 1],
    }
    found = errors_in({"train": {"search": {"spaces": spaces}}})
    where = "train.search.spaces"
    assert f"{where}.learning_rat: unknown hyperparameter; did you mean 'learning_rate'?" in found
    assert f"{where}.bounding_box.beta: unknown hyperparameter; did you mean 'bounding_box.beta_bg'?" in found
    assert f"{where}.batch_size[1]: got 0, expected a whole number 1 to 4096" in found
    assert f"{where}.unet.width.high: got 5000, expected a whole number 1 to 512" in found
    assert f"{where}.dice.squared[1]: got 1, expected true or false" in found
    assert len(found) == 5


def test_a_search_that_never_asks_optuna_is_refused():
    search = {"searcher": "optuna", "num_samples": 4, "spaces": {"max_grad_norm": [0.0, 1.0]}}
    assert errors_in({"train": {"search": search}}) == [
        "train.search.num_samples: got 4, expected more than the 4 of train.search.trials_per_round, after which "
        "Optuna goes by the results"
    ]


def test_what_population_based_training_cannot_do_is_refused():
    search = {
        "scheduler": "pbt",
        "num_samples": 3,
        "searcher": "optuna",
        "finalists": 1,
        "spaces": {"unet.width": [4, 8]},
    }
    train = {"models": ["unet"], "search": search, "early_stopping_patience": 2, "max_steps": 9}
    assert errors_in({"train": train}) == [
        "train.search.spaces.unet.width: pbt cannot change an architecture during training; remove the key, or use "
        "another scheduler",
        "train.search.num_samples: got 3 trials with 1 spaces, expected at least 4 trials and one space for pbt",
        "train.search.searcher: got 'optuna', expected random, because pbt itself goes by the results",
        "train.search.finalists: got 1, expected 0, because the hyperparameters of pbt change during training and "
        "cannot be trained again",
        "train.max_steps: got 9, expected 0, because pbt trains all trials to the same epoch",
        "train.early_stopping_patience: got 2, expected 0, because pbt trains all trials to the same epoch",
    ]


def test_numbers_in_exponents_are_numbers(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("train: {search: {spaces: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}}}")
    assert load(path).train.search.spaces["learning_rate"] == Space(low=1e-4, high=1e-2, log=True)


def test_an_override_stands_in_place_of_the_file():
    given = [
        "train.epochs=40",
        "ingest.source=s3://bucket/prefix",
        "train.learning_rate=1e-3",
        "validate.severity.sharpness=stop",
    ]
    params = load("{}", given)
    assert params.train.epochs == 40
    assert params.ingest.source == "s3://bucket/prefix"
    assert load('{"ingest": {"source": "folder"}}', ["ingest.source=synthetic:"]).ingest.source == "synthetic:"
    assert load("{}", ["ingest.layout={wad: {}}"]).ingest.layout.name == "wad"
    assert load("{}", ["ingest.dvc.revision=0123456"]).ingest.dvc.revision == "0123456"
    assert load('{"train": null}', ["train.epochs=40"]).train.epochs == 40
    assert params.train.learning_rate == 1e-3
    assert params.validate.severity.sharpness == "stop"
    assert load("{}", ["train.losses=[dice]", "train.epochs="]) == load('{"train": {"losses": ["dice"]}}')


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train.epohs=3", "unknown key; did you mean 'epochs'?"),
        ("train.epochs=many", "train.epochs"),
        ("seed.x=3", "there is no section of this name"),
        ("train.epochs=[1", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_refused(override, said):
    with pytest.raises(ParamsError) as caught:
        load(FILE, [override])
    assert any(said in error for error in caught.value.errors)
