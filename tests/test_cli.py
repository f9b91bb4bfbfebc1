"""The one door: its help, its exit codes, and what it does when a stage ends otherwise than by returning."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

from segline import __version__, cli
from segline.cli import FOLDERS, STAGES, WRITERS, main
from segline.config.components import ComponentSpec
from segline.config.params import Params
from segline.errors import DataError, ParamsError, SeglineError, SourceError, StageError, TrackingError, TrainingError

HEAVY = ("torch", "pandas", "numpy", "PIL", "pyarrow", "ray", "mlflow", "matplotlib", "great_expectations", "timm")
LIST_IMPORTS = """
import json, sys
from segline.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("\\0" + json.dumps([end.code, sorted(sys.modules)]))
"""


@pytest.fixture(autouse=True)
def restored_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def ingest(monkeypatch):
    """Puts another function in the place of the first stage; returns the command that runs it."""

    def put(run):
        monkeypatch.setattr("segline.stages.ingest.run", run)
        return ["ingest", "--params", "{}"]

    return put


def help_of(stage, capsys):
    with pytest.raises(SystemExit) as end:
        main([stage, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def leaves(section, prefix=""):
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value) and not isinstance(value, ComponentSpec):
            yield from leaves(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIST_IMPORTS, *words], capture_output=True, text=True, check=True
    )
    shown, _, found = done.stdout.partition("\0")
    code, modules = json.loads(found)
    assert code == 0
    assert shown.strip()
    assert done.stderr == ""
    assert sorted(set(HEAVY) & set(modules)) == []


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for name, stage in STAGES.items():
        assert f"    {name} " in shown
        assert " ".join(stage.help.split()) in " ".join(shown.split())
    assert "summary" in shown


def test_the_version_is_shown(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"segline {__version__}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_lists_its_parameters_with_their_defaults(stage, capsys):
    lines = [line.strip() for line in help_of(stage, capsys).splitlines()]
    for key, default in leaves(getattr(Params(), stage)):
        shown = f"{key}: [" if isinstance(default, tuple) else f"{key}: {default}"
        assert any(line.startswith(shown) for line in lines), key


def test_help_of_train_lists_models_losses_and_their_options(capsys):
    words = help_of("train", capsys).split()
    for name in ("unet", "width", "depth", "unet_resnet34", "pretrained", "dice", "squared", "bounding_box", "beta_bg"):
        assert name in words


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_lists_its_folders_with_their_defaults(stage, capsys):
    shown = " ".join(help_of(stage, capsys).split())
    assert "--params FILE" in shown
    assert "(default: params.yaml)" in shown
    assert f"--out DIR folder to write (default: {FOLDERS[stage]})" in shown
    for name in STAGES[stage].inputs:
        assert f"--{name} DIR folder that `segline {WRITERS[name]}` wrote (default: {FOLDERS[WRITERS[name]]})" in shown
    assert ("--tracking-uri" in shown) == STAGES[stage].tracked


@pytest.mark.parametrize("stage", STAGES)
def test_folders_and_parameters_reach_the_stage(stage, monkeypatch, tmp_path):
    """The stage's module is not imported, so that this needs neither ray nor mlflow."""
    called = []

    class Module:
        @staticmethod
        def run(params, **given):
            called.append((params, given))

    monkeypatch.setattr(cli, "import_module", {f"segline.stages.{stage}": Module}.__getitem__)
    folders = {name: tmp_path / name for name in STAGES[stage].inputs}
    for folder in folders.values():
        folder.mkdir()
    words = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    more = {"tracking_uri": "sqlite:///x.db"} if STAGES[stage].tracked else {}
    more |= {"exclusions": tmp_path / "list.csv"} if STAGES[stage].excludes else {}
    words += [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main([stage, "--params", '{"seed": 3}', *words, "--out", str(tmp_path / "out")]) == 0
    more |= {"plan_only": False} if STAGES[stage].planned else {}
    assert called == [
        (
            Params(seed=3),
            {**{f"{name}_dir": folder for name, folder in folders.items()}, **more, "out": tmp_path / "out"},
        )
    ]


MISSING = [(stage, name) for stage in STAGES for name in STAGES[stage].inputs]


@pytest.mark.parametrize(
    ("command", "name"), [*MISSING, *(("summary", name) for name in ("evaluation", "ensemble", "promotion"))]
)
def test_a_missing_input_folder_is_one_line(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir(parents=True)
    assert main([command, f"--{name}", "nowhere"]) == 5
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"segline {command}: --{name} nowhere")
    assert f"`segline {WRITERS[name]}`" in line


@pytest.mark.parametrize("out", ["data", "data/ingest", "data/validate", "data/label/../validate"])
def test_an_output_that_would_replace_its_input_is_refused(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("ingest", "validate", "label"):
        (tmp_path / FOLDERS[name]).mkdir(parents=True)
    monkeypatch.setattr(cli, "import_module", lambda name: pytest.fail(f"{name} was started"))
    assert main(["label", "--params", "{}", "--out", out]) == 5
    [line] = capsys.readouterr().err.splitlines()
    assert f"--out {out}" in line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SeglineError("text"), 1),
        (ParamsError("file", ["a fault"]), 2),
        (SourceError("text"), 3),
        (DataError("text"), 4),
        (StageError("text"), 5),
        (TrainingError("text"), 6),
        (TrackingError("text"), 7),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_known_error_is_its_text_and_its_exit_code(ingest, capsys, error, code):
    def run(params, *, out):
        raise error

    assert main(ingest(run)) == code
    assert capsys.readouterr().err == f"segline ingest: {error}\n"


class Panic(BaseException):
    """What a library in Rust raises when it panics."""


FOREIGN = [
    RuntimeError("a fault\nof our own"),
    KeyError("key"),
    AssertionError(),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OSError("without a number"),
    OSError(errno.EINVAL, "Invalid argument"),
    ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    ValueError("long " * 1000),
    StopIteration(),
    Panic("in Rust"),
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("SEGLINE_DEBUG", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(ingest, capsys, cache, error):
    def run(params, *, out):
        raise error

    assert main(ingest(run)) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"segline ingest: {type(error).__name__}: ")
    assert "this is a fault of Segline" in line
    assert len(line) < 600
    [kept] = (cache / "tracebacks").iterdir()
    assert line.endswith(f"its traceback is in {kept}")
    assert "in run" in kept.read_text(encoding="utf-8")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_only_the_last_tracebacks_are_kept(ingest, capsys, cache):
    (cache / "tracebacks").mkdir(parents=True)
    for number in range(70):
        (cache / "tracebacks" / f"20260101-0000{number:02d}-train-1.txt").touch()

    def run(params, *, out):
        raise RuntimeError

    assert main(ingest(run)) == 1
    assert len(list((cache / "tracebacks").iterdir())) == 50


@pytest.mark.parametrize("variable", ["SEGLINE_DEBUG", "KUBERNETES_SERVICE_HOST"])
def test_a_traceback_is_shown_where_that_is_wished_or_no_file_lasts(ingest, capsys, cache, monkeypatch, variable):
    def run(params, *, out):
        raise KeyError("key")

    monkeypatch.setenv(variable, "1")
    assert main(ingest(run)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.splitlines()[-1].endswith("this is a fault of Segline; its traceback is above")
    assert not cache.exists()


def test_a_traceback_that_cannot_be_kept_is_shown(ingest, capsys, cache):
    cache.touch()

    def run(params, *, out):
        raise KeyError("key")

    assert main(ingest(run)) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("its traceback is above")


PIPES = (errno.EPIPE, errno.ESHUTDOWN)
SHORTAGES = [
    MemoryError(),
    *(OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EMFILE, errno.EIO, errno.ECONNREFUSED)),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: f"{type(error).__name__}-{error}")
def test_what_the_machine_lacks_is_no_fault_of_segline(ingest, capsys, cache, error):
    def run(params, *, out):
        raise error

    assert main(ingest(run)) == 5
    [line] = capsys.readouterr().err.splitlines()
    assert "fault" not in line
    assert "run the same command again" in line


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_an_error_of_a_file_is_its_name_and_the_reason(ingest, capsys, number):
    def run(params, *, out):
        raise OSError(number, os.strerror(number), "a/file")

    assert main(ingest(run)) == (141 if number in PIPES else 5)
    expected = "" if number in PIPES else f"segline ingest: a/file: {os.strerror(number)}\n"
    assert capsys.readouterr().err == expected


PRINTS = """
import sys
from segline import cli

class Module:
    def run(params, out):
        print("x" * int(sys.argv[1]))

cli.import_module = lambda name: Module
sys.exit(cli.main(["ingest", "--params", "{}"]))
"""


@pytest.mark.parametrize("letters", ["10", "1000000"])
def test_a_reader_that_is_gone_ends_the_command_without_a_word(letters):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", PRINTS, letters], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_an_interrupt_is_one_line(ingest, capsys):
    def run(params, *, out):
        raise KeyboardInterrupt

    assert main(ingest(run)) == 130
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("segline ingest: stopped")


def test_a_polite_kill_is_an_interrupt(ingest, capsys):
    def run(params, *, out):
        signal.raise_signal(signal.SIGTERM)

    assert main(ingest(run)) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [[], ["tain"], ["ingest", "--input", "x"], ["label", "--candidates", "x"], ["ingest", "x"]], ids=" ".join
)
def test_a_wrong_word_is_refused_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage: segline" in capsys.readouterr().err


def test_wrong_parameters_are_reported_before_missing_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--params", '{"sed": 1}']) == 2
    assert "did you mean 'seed'?" in capsys.readouterr().err


def test_a_closed_pipe_ends_without_a_word(ingest, capsys):
    def run(params, *, out):
        raise BrokenPipeError

    assert main(ingest(run)) == 141
    assert capsys.readouterr().err == ""


CHILD = """
import time
from segline import cli

class Module:
    def run(params, out):
        print("ready", flush=True)
        time.sleep(600)

cli.import_module = lambda name: Module
cli.main(["ingest", "--params", "{}"])
"""
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {CHILD!r}])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_stage_ends_with_the_dvc_that_started_it():
    environment = os.environ | {"DVC_STAGE": "train"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    # The pipe closes when both processes have ended.
    assert parent.communicate(timeout=120)[0] == b""
