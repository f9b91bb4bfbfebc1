"""Damage to the output of every stage: the next stage tells it in one line, which names the file and the stage."""

import json

import pytest
from damage import Damage, files_of

from segline.artifacts.table import ARTIFACTS
from segline.cli import SHOWN, STAGES, WRITERS, main

READERS = {
    "ingest": ("validate",),
    "validate": ("label",),
    "label": ("train", "evaluate", "ensemble", "promote"),
    "train": ("evaluate", "ensemble"),
    "evaluate": ("ensemble", "promote", "summary"),
    "ensemble": ("promote", "summary"),
    "promote": ("summary",),
}
"""The commands that read what a stage wrote."""
UNREAD = {
    ("label", "train"): ("test/",),
    ("label", "ensemble"): ("train/",),
    ("label", "promote"): ("train/", "val/"),
    ("ensemble", "summary"): ("model/",),
}
"""The folders of an artifact that a reader leaves alone."""
FAKES = {"ingest": "manifest.parquet", "label": "test/labels-00000.npy", "train": "unet-dice/weights.safetensors"}


def told(command, capsys, params=""):
    """Run a command, which has to fail, and return its line."""
    capsys.readouterr()
    words = [command] if command == "summary" else [command, "--params", params or "{}", "--out", "out"]
    assert main(words) == 5
    said = capsys.readouterr().err
    [line] = said.splitlines()
    return line


def reads(stage, command, name):
    return not name.startswith(UNREAD.get((stage, command), "nothing"))


def cases(data, stage):
    """Every damage to every file of a stage, with the commands that have to tell it."""
    for file in files_of(data / stage):
        # Ingest mends its known checksums by itself, and those of pictures are in the manifest.
        if stage == "ingest" and file.name not in ("artifact.json", "manifest.parquet"):
            continue
        name = file.relative_to(data / stage).as_posix()
        for kind in Damage.KINDS:
            yield file, kind, [command for command in READERS[stage] if reads(stage, command, name)]


def test_every_command_that_is_given_an_artifact_is_among_its_readers():
    """Label is given the manifest for the folder of its pictures only; it reads the manifest of validate."""
    given = {name: {WRITERS[word] for word in spec.inputs} for name, spec in STAGES.items()}
    given["summary"] = {WRITERS[word] for word in SHOWN}
    given["label"].remove("ingest")
    assert {stage: {name for name in given if stage in given[name]} for stage in STAGES} == {
        stage: set(commands) for stage, commands in READERS.items()
    }


@pytest.mark.parametrize(("stage", "command"), [(stage, command) for stage in READERS for command in READERS[stage]])
def test_a_command_reads_nothing_that_is_damaged(stage, command, tmp_path, monkeypatch, capsys):
    """The check comes before all else, so that folders with one file each will do."""
    monkeypatch.chdir(tmp_path)
    for name, artifact in ARTIFACTS.items():
        file = tmp_path / "data" / name / FAKES.get(name, "some.file")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"0123456789")
        artifact.write_mark(tmp_path / "data" / name)
    file = tmp_path / "data" / stage / FAKES.get(stage, "some.file")
    shown = file
    if not reads(stage, command, file.relative_to(tmp_path / "data" / stage).as_posix()):
        shown = file = tmp_path / "data" / stage / "artifact.json"
    for kind in ("middle", "half", "deleted"):
        with Damage(file, kind):
            line = told(command, capsys)
        assert line.startswith(f"segline {command}: data/{stage}")
        assert shown.name in line
        assert line.endswith(f"run `segline {stage}` again")


@pytest.mark.slow
def test_every_damage_to_every_file_of_the_line_is_told(tmp_path_factory, monkeypatch, capsys):
    from test_line import PARAMS, run

    folder = tmp_path_factory.mktemp("line")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    data, tried = run(folder), 0
    capsys.readouterr()
    for stage in STAGES:
        for file, kind, commands in cases(data, stage):
            with Damage(file, kind) as changed:
                for command in commands if changed else ():
                    line = told(command, capsys, json.dumps(PARAMS))
                    assert file.name in line, (file, kind, line)
                    assert line.endswith(f"run `segline {stage}` again"), (file, kind, line)
                    tried += 1
            assert commands, file
    for stage, artifact in ARTIFACTS.items():
        artifact.check(data / stage)
    print(f"{tried} damages, all told")
    assert tried > 1000
