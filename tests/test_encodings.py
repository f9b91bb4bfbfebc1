"""Text is UTF-8 whatever the locale of the user: the rule that keeps it, and the commands in other locales."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "pipelines", "components", "mlflow", "benchmarks")
LOCALES = ("C", "POSIX", "en_US.ISO-8859-1")


def ruff(code):
    """What ruff, as it is set up here, says of a module."""
    words = [Path(sys.executable).with_name("ruff"), "check", "--output-format", "json", "--stdin-filename"]
    done = subprocess.run(
        [*words, "src/segline/new.py", "-"], input=code, cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    return [fault["code"] for fault in json.loads(done.stdout)]


def test_ruff_refuses_text_without_an_encoding_and_has_no_other_preview_rule():
    code = '"""A module."""\n\nfrom pathlib import Path\n\nTEXT = Path("x").read_text({})\n'
    assert ruff(code.format("")) == ["PLW1514"]
    assert ruff(code.format('encoding="utf-8"')) == []
    # E203 is a preview rule of E, which is selected as a whole.
    assert ruff('"""A module."""\n\nTEXT = [1 , 2]\n') == []


def is_text(call, position):
    """Whether the mode of a call of ``open``, an argument at this position, is not a binary one."""
    modes = [*call.args[position : position + 1], *(key.value for key in call.keywords if key.arg == "mode")]
    return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def needs_encoding(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {key.arg for key in call.keywords}
    if "encoding" in given:
        return False
    if isinstance(call.func, ast.Name):
        return name == "open" and is_text(call, 1)
    if name == "open":  # of a path; others take a name or a stream first
        mode = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
        is_path = not call.args or set(str(mode)) <= set("rwax+t")
        return is_path and bool(mode or "newline" in given)
    if name in ("run", "Popen"):  # of a process
        return "text" in given
    return name in ("read_text", "write_text") and len(call.args) < 2


def test_every_text_file_of_the_code_has_an_encoding():
    """Ruff sees only the paths whose type it can tell."""
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and needs_encoding(node)
    ]
    assert missing == []


def run(words, locale, cwd):
    """Run a command as somebody with this locale; a locale that is not installed is Python's C locale."""
    settings = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"} | settings
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")


def segline(*words):
    code = "import sys; from segline.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, *words]


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["schema"]], ids=" ".join)
def test_a_command_runs_in_every_locale(words, locale, tmp_path):
    done = run(segline(*words), locale, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_pipelines_have_help_in_every_locale():
    done = run([sys.executable, "-m", "pipelines", "--help"], "C", ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def data(tmp_path):
    """A folder of images and masks whose names are not ASCII."""
    for number in range(12):
        for folder, mode in (("images", "RGB"), ("masks", "L")):
            path = tmp_path / "dät" / folder / f"straße {number}" / "日本.png"
            path.parent.mkdir(parents=True)
            pixels = np.random.default_rng(number).integers(0, 2 if mode == "L" else 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(path)
    (tmp_path / "dät" / "classes.yaml").write_text("classes: {weg: 0, straße: 1}\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(
        "# für alle\ningest: {source: dät, layout: folders}\nvalidate: {min_pairs: 2}\n", encoding="utf-8"
    )
    return tmp_path


def test_names_and_texts_are_read_in_an_ascii_locale(data):
    done = run(segline("ingest"), "C", data)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 pairs in 12 groups from dät" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("locale", LOCALES)
def test_the_stages_of_the_data_run_in_every_locale(data, locale):
    for stage in ("ingest", "validate", "label"):
        done = run(segline(stage), locale, data)
        assert done.returncode == 0, done.stderr


def test_a_name_that_the_terminal_cannot_show_is_no_error(tmp_path):
    done = subprocess.run(
        segline("ingest", "--set", "ingest.source=nö\udcff", "--params", "{}"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
    )
    assert done.returncode == 3
    assert b"n\\xf6\\udcff is not there" in done.stderr
