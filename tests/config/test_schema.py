"""The JSON Schema refuses what the loader refuses for its shape, and accepts what the loader accepts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from wrong_params import BEYOND_SCHEMA, SHAPE

from segline.cli import main
from segline.config.loader import load, read
from segline.config.schema import schema
from segline.config.yaml_reader import parse_yaml
from segline.errors import ParamsError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "params.yaml"
COMMITTED = ROOT / "docs" / "params.schema.json"
DOCUMENT = parse_yaml(FILE.read_text())
VALIDATOR = Draft202012Validator(json.loads(COMMITTED.read_text()))
# Errors between several values that are each right by themselves.
BETWEEN = re.compile(
    r"label\.(split|split\.fold|tile_overlap|distances): (got (shares|fold|\d+, expected less)|lacks)"
    r"|label\.split\.(val|test)_groups: got (groups beside|.*, which is in)"
    r"|validate\.min_brightness: got \S+, expected no more"
    r"|train\.augment\.crop: got .*, expected no more"
    r"|train\.search\.(num_samples: got \S+, expected more|num_samples: got \S+ trials)"
    r"|train\.init: got \S+ expected for resume"
)


def by_id(value):
    return json.dumps(value)[:80] if isinstance(value, dict) else ""


def loader_errors(document):
    try:
        load(json.dumps(document))
    except ParamsError as error:
        return error.errors
    return []


def test_the_committed_schema_is_what_the_command_prints(capsys):
    """After a change that was wanted: segline schema > docs/params.schema.json."""
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == COMMITTED.read_text()
    Draft202012Validator.check_schema(schema())


def test_the_file_of_the_repository_fits_and_refers_to_the_schema():
    assert VALIDATOR.is_valid(DOCUMENT)
    first = FILE.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={COMMITTED.relative_to(ROOT)}"


def test_the_schema_needs_no_library_of_the_stages():
    code = "import sys; from segline.cli import main; main(['schema']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "PIL", "jsonschema"} & set(re.findall(r"'(\w+)'", done.stderr))


@pytest.mark.parametrize(("document", "line"), SHAPE, ids=by_id)
def test_what_the_loader_refuses_for_its_shape_the_schema_refuses(document, line):
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(("document", "line"), BEYOND_SCHEMA, ids=by_id)
def test_what_no_schema_can_say_is_left_to_the_loader(document, line):
    assert VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"ingest": {"layout": {"folders": {"colours": True}}, "sha256": "0a" * 32}},
        {"ingest": {"layout": {"wad": None}}},
        {"label": {"class_maps": {"folders": {"any": ["of the data"]}, "camvid": {"road": ["road", "pavement"]}}}},
        {"train": {"models": ["unet", {"unet": {"width": 8, "depth": 2}}, {"unet_resnet34": None}]}},
        {"train": {"models": [{"smp/unet": {"encoder": "resnet18", "pretrained": "weights.pth"}}]}},
        {"train": {"losses": [{"dice": {"weight": 2, "squared": True}, "cross_entropy": {}}]}},
        {"train": {"losses": [{"cross_entropy": {"class_weights": {"person": 2}}}, "focal"]}},
        {"train": {"checkpoints": "s3://bucket", "max_minutes": 1, "precision": "bf16"}},
        {"train": {"search": {"spaces": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}}},
        {"train": {"search": {"spaces": {"max_grad_norm": {"low": 0, "high": 1, "log": False}}}}},
        {"train": {"search": {"spaces": {"dice.weight": [0.5, 1], "unet.width": {"low": 4, "high": 64}}}}},
        {"train": {"search": {"spaces": {"spp.output_stride": [8, 16], "augment.flip": [0, 0.5]}}}},
    ],
    ids=by_id,
)
def test_what_the_loader_accepts_the_schema_accepts(document):
    assert not loader_errors(document or {})
    assert VALIDATOR.is_valid(document)


def leaves(tree, prefix=()):
    for key, value in tree.items():
        if isinstance(value, dict) and key not in ("class_maps", "spaces"):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


VALUES = [
    None,
    True,
    -1,
    0,
    0.5,
    1,
    3,
    20,
    100,
    1e6,
    5e9,
    "",
    "word",
    "warn",
    "stop",
    [],
    ["border"],
    [1],
    [32, 96],
    [32, 96, 32],
    [32, 9999],
    [True, 32],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("key", list(leaves(DOCUMENT)), ids=".".join)
def test_loader_and_schema_agree_on_every_value_of_every_key(key):
    for value in VALUES:
        document = value if not isinstance(value, float) or value != int(value) else int(value)
        for part in reversed(key):
            document = {part: document}
        if key == ("train", "init"):  # The features that pixel_mlp keeps are those of its own encoder.
            document["train"]["models"] = ["unet"]
        errors = [line for line in loader_errors(document) if not BETWEEN.match(line)]
        assert VALIDATOR.is_valid(document) == (not errors), (document, errors)


def test_a_description_says_meaning_and_unit():
    side = {"type": "integer", "minimum": 16, "maximum": 4096}
    crop = schema()["properties"]["label"]["properties"]["crop"]
    assert crop == {
        "anyOf": [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}],
        "description": "The side of a square crop, or its height and width. Unit: px.",
        "default": 160,
    }


def test_the_defaults_are_those_of_the_file():
    def defaults(node, prefix=()):
        if "default" in node:
            yield prefix, node["default"]
        for key, child in node.get("properties", {}).items():
            yield from defaults(child, (*prefix, key))

    found = dict(defaults(schema()))
    assert found.keys() == set(leaves(DOCUMENT))
    for key, default in found.items():
        document = default
        for part in reversed(key):
            document = {part: document}
        assert load(json.dumps(document)) == load("{}"), key


def test_numbers_are_read_as_the_loader_reads_them(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("train: {learning_rate: 1e-3, epsilon: 1E-8}")
    assert VALIDATOR.is_valid(read(path))
    path.write_text("train: {learning_rate: '1e-3'}")
    assert not VALIDATOR.is_valid(read(path))
