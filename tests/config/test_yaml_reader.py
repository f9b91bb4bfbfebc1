"""A text of a few bytes costs no more than a few seconds and lines, and means the same to every reader of YAML."""

import json
import time

import pytest
import yaml

from segline.cli import main
from segline.config import yaml_reader
from segline.config.loader import load
from segline.config.yaml_reader import YamlError, parse_yaml
from segline.data.layouts import LAYOUTS
from segline.errors import DataError, ParamsError
from segline.platforms.rayjob_spec import read_template

NINE = [(number, ", ".join([f"*a{number - 1}"] * 9)) for number in range(1, 10)]
LAUGHS = "\n".join(["a0: &a0 [x, x, x]", *(f"a{number}: &a{number} [{names}]" for number, names in NINE)])
MERGES = "\n".join(["a0: &a0 {x: 1}", *(f"a{number}: &a{number} {{<<: [{names}]}}" for number, names in NINE)])
CHAIN = "\n".join(["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000)])
LONG = "x" * 100_000
REFUSED = {
    "laughs": LAUGHS,
    "merges": MERGES,
    "one long text, named often": f"a: &a {LONG}\nb: [{', '.join(['*a'] * 3000)}]",
    "chain": CHAIN,
    "itself": "a: &a [*a]",
    "itself as a key": "a: &a {b: {*a : 1}}",
    "flow": "[" * 60_000,
    "flow closed": "a: " + "[" * 1000 + "]" * 1000,
    "maps": "{a: " * 20_000,
    "block": "\n".join(" " * depth + "a:" for depth in range(400)),
    "dashes": "- " * 60_000,
    "questions": "? " * 60_000,
    "too long": "# " + LONG * 2,
    "date": "a: 2020-13-45",
    "date that is one": "a: 2020-01-02",
    "time": "a: 2020-01-02 25:61:61",
    "octal": "a: 010",
    "octal 0o": "a: !!int 0o10",
    "hex": "a: 0x10",
    "binary": "a: 0b11",
    "minutes": "a: 1:30",
    "minutes with a point": "a: 1:30.5",
    "negative minutes": "a: -1:30",
    "octal as a key": "010: a",
    "minutes in a list": "a: [1, 1:30]",
    "int": "a: !!int x",
    "int of a list": "a: !!int [1]",
    "int of nothing": "a: !!int",
    "float": "a: !!float x",
    "bool": "a: !!bool x",
    "timestamp": "a: !!timestamp x",
    "binary data": 'a: !!binary "ü"',
    "object": "a: !!python/object/apply:os.system [ls]",
    "tag": f"a: !{LONG} 1",
    "alias": f"a: *{LONG}",
    "many digits": f"a: {'1' * 5000}",
    "more than 64 bits": "a: 9223372036854775808",
    "twice": "a: 1\na: 2",
    "twice, long": f"{LONG[:500]}: 1\n{LONG[:500]}: 2",
    "a list as a key": "? [1]\n: 2",
    "tab": "a:\n\tb: 1",
    "control": "a: \x07",
    "two documents": "a: 1\n---\na: 2",
    "merge of text": "<<: x",
    "merge of a list of text": "<<: [x]",
    "percent": "%YAML 9.9\n---\na: 1",
    "open quote": f'a: "{LONG}',
}


def seconds(call):
    """The processor time of this thread, which other processes do not change."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


@pytest.mark.parametrize("name", REFUSED)
def test_a_text_is_refused_in_a_short_line_and_soon(name):
    def read():
        with pytest.raises(YamlError) as caught:
            parse_yaml(REFUSED[name])
        assert len(str(caught.value)) < 700
        assert len(str(caught.value).splitlines()) == 1

    assert seconds(read) < 8


@pytest.mark.parametrize("name", REFUSED)
def test_parameters_and_classes_are_refused_with_it(name, tmp_path):
    (tmp_path / "params.yaml").write_text(REFUSED[name], encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        load(tmp_path / "params.yaml")
    [line] = caught.value.errors
    assert line.startswith("not valid YAML: ")
    with pytest.raises(DataError) as caught:
        LAYOUTS["folders"]().label_spec(REFUSED[name])
    assert str(caught.value).startswith("classes.yaml: ")


@pytest.mark.parametrize(("text", "line"), [("a: 1\nb: 010", 2), ("\n\na: 2020-13-45", 3), ("a:\n- !!float x", 2)])
def test_the_line_is_named(text, line):
    with pytest.raises(YamlError, match=f"line {line}: got "):
        parse_yaml(text)


GOOD = [
    "a: &a [1, 2]\nb: *a\nc: [*a, *a]",
    "a: &a {x: 1}\nb: {<<: *a, y: 2}",
    "a: [0, -1, +1, 1_000, 0.5, .5, 5., 1.5e+3, -.inf]",
    "a: '010'\nb: \"1:30\"\nc: '2020-01-02'\nd: !!str 010",
    "a: [true, no, null, ~, '']",
    "a: !!float 1\nb: !!int 7\nc: !!str x",
    "? a\n: b",
    "a: |\n  text\n  text\nb: >-\n  folded",
    "",
    "---\na: 1\n...",
    "a: " + "[" * 40 + "]" * 40,
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_plain_means_what_pyyaml_says(text):
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(("text", "number"), [("1e-3", 0.001), ("1E3", 1000.0), ("-1.e+2", -100.0)])
def test_an_exponent_makes_a_number(text, number):
    assert parse_yaml(text) == number


def test_the_limits_do_not_depend_on_the_order_of_sizes(monkeypatch):
    monkeypatch.setattr(yaml_reader, "MAX_EXPANDED", 20)
    assert parse_yaml("a: &a [1, 2]\nb: *a")
    with pytest.raises(YamlError, match="stand for more than 20"):
        parse_yaml("a: &a [1, 2, 3]\nb: *a\nc: *a\nd: *a")


SPREAD = {
    "unknown keys": "\n".join(f"k{number}:" for number in range(14_000)),
    "a long key": f"? {LONG}\n: 1",
    "a long value": f"seed: {LONG}",
    "a long name": f"train: {{models: [{LONG}]}}",
    "many models": f"train: {{models: [{', '.join(f'm{number}' for number in range(14_000))}]}}",
    "one long value, often": f"a: &a [{LONG[:50_000]}]\ntrain: {{models: [*a, *a, *a, *a], losses: *a, epochs: *a}}",
    "long options": f"train: {{models: [unet: {{{LONG}: 1}}]}}",
    "long spaces": f"train: {{search: {{spaces: {{{LONG}: [1]}}}}}}",
    "a long layout": f"ingest: {{layout: {LONG}}}",
    "a long class map": f"label: {{class_maps: {{wad: {{{LONG}: [{LONG[:9000]}]}}, {LONG[:9000]}: {{}}}}}}",
}


@pytest.mark.parametrize("name", SPREAD)
def test_what_is_shown_of_wrong_parameters_is_bounded(name, tmp_path, capsys):
    (tmp_path / "params.yaml").write_text(SPREAD[name], encoding="utf-8")

    def run():
        assert main(["ingest", "--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "out")]) == 2

    assert seconds(run) < 30
    said = capsys.readouterr().err
    assert len(said) < 100_000
    assert len(said.splitlines()) <= 52


def test_the_text_of_an_override_and_of_json_is_bounded_too():
    deep = ["train.epochs=" + "[" * 5000]
    for given in (["train.epochs=" + LAUGHS.replace("\n", ", ")], deep, [LONG], [f"a.{LONG}=1"]):
        with pytest.raises(ParamsError) as caught:
            load("{}", given)
        assert len(str(caught.value)) < 5000
    with pytest.raises(ParamsError) as caught:
        load(json.dumps({"seed": LONG}))
    assert len(str(caught.value)) < 1000


def test_a_file_without_end_is_refused():
    with pytest.raises(ParamsError, match="not valid YAML"):
        load("/dev/zero")


CLASSES = {
    "ranges": "classes: {a: [" + ", ".join(f"{number}-65535" for number in range(9000)) + "], b: 1x}",
    "a long value": f"classes: {{a: {LONG}}}",
    "a long name": f"classes: {{? {LONG} : [x]}}",
    "a long key": f"classes: {{a: {{? {LONG} : 1}}}}",
    "a long background": f"classes: {{a: 1}}\nbackground: {LONG}",
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_read_soon_and_shown_in_part(name):
    def read():
        with pytest.raises(DataError) as caught:
            LAYOUTS["folders"]().label_spec(CLASSES[name])
        assert len(str(caught.value)) < 2500
        assert len(str(caught.value).splitlines()) == 1

    assert seconds(read) < 15


def test_a_big_file_of_classes_is_not_read(tmp_path, capsys):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "a.png").write_bytes(b"1")
    (tmp_path / "data" / "masks").mkdir()
    (tmp_path / "data" / "masks" / "a.png").write_bytes(b"1")
    with (tmp_path / "data" / "classes.yaml").open("wb") as stream:
        stream.truncate(10**11)
    params = json.dumps({"ingest": {"source": str(tmp_path / "data"), "layout": "folders"}})
    assert main(["ingest", "--params", params, "--out", str(tmp_path / "out")]) == DataError.exit_code
    assert "classes.yaml has 100,000,000,000 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("text", [LAUGHS, "a: 2020-13-45", "[" * 5000, "kind: RayJob\nspec: !!int x", "- 1", "1"])
def test_a_template_that_is_none_is_refused(text, tmp_path):
    from segline.errors import StageError

    (tmp_path / "rayjob.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StageError, match="is not the template of a RayJob"):
        read_template(tmp_path / "rayjob.yaml")


def test_a_template_has_the_numbers_of_kubernetes():
    assert parse_yaml("defaultMode: 0644", strict=False) == {"defaultMode": 0o644}


def test_the_key_on_is_text_as_it_is_to_dvc():
    assert parse_yaml("evaluate: {on: crops}\nlist: [{on: on}]") == {
        "evaluate": {"on": "crops"},
        "list": [{"on": True}],
    }
