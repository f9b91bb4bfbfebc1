"""``dvc.yaml`` says what the command line and the source say: the same stages, words, folders and code."""

import ast
import shlex
from pathlib import Path

import pytest
import yaml

from segline import cli
from segline.artifacts.code import dvc_dependencies
from segline.artifacts.table import ARTIFACTS
from segline.config.yaml_reader import parse_yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = parse_yaml((ROOT / "params.yaml").read_text())
STAGE = pytest.mark.parametrize("stage", PIPELINE)


def paths(stage, *kinds):
    """The paths under these headings of a stage, without their settings."""
    entries = [entry for kind in kinds for entry in PIPELINE[stage].get(kind, [])]
    return [Path(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries]


def arguments_of(stage):
    program, *words = shlex.split(PIPELINE[stage]["cmd"])
    assert program == "segline"
    return cli._parser().parse_args(words)


def contains(folder, path):
    return path == folder or folder in path.parents


def module_file(name):
    """The file of a module or package of segline; None when there is no such module."""
    base = SOURCE.joinpath(*name.split("."))
    return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()), None)


def parameters_of(stage):
    """The dotted parameters that a stage's module reads, from a variable or an attribute ``params``."""
    found = set()
    for node in ast.walk(ast.parse(module_file(f"segline.stages.{stage}").read_text())):
        words = []
        while isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        chain = [node.id, *reversed(words)] if isinstance(node, ast.Name) else []
        if "params" in chain[:-1]:
            found.add(".".join(chain[chain.index("params") + 1 :]))
    # Of `params.train.epochs` the walk also meets `params.train`, which says less.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def test_the_stages_are_those_of_the_command_line_in_order():
    assert list(PIPELINE) == list(cli.STAGES)


@STAGE
def test_a_command_is_one_the_command_line_knows(stage):
    arguments = arguments_of(stage)
    assert arguments.command == stage
    assert arguments.params == "params.yaml"
    assert {name: getattr(arguments, name).as_posix() for name in cli.STAGES[stage].inputs} == {
        name: cli.FOLDERS[cli.WRITERS[name]].as_posix() for name in cli.STAGES[stage].inputs
    }
    assert arguments.out.as_posix() == cli.FOLDERS[stage].as_posix()


@STAGE
def test_the_folders_a_command_reads_are_those_it_depends_on(stage):
    arguments = arguments_of(stage)
    read = {getattr(arguments, name) for name in cli.STAGES[stage].inputs}
    listed = [path for path in paths(stage, "deps") if path.parts[0] != "src"]
    assert {folder for folder in cli.FOLDERS.values() for path in listed if contains(folder, path)} == read


@STAGE
def test_what_a_stage_depends_on_an_earlier_one_writes(stage):
    earlier = list(PIPELINE)[: list(PIPELINE).index(stage)]
    written = [path for name in earlier for path in paths(name, "outs", "metrics", "plots")]
    for needed in paths(stage, "deps"):
        if needed.parts[0] == "data":
            assert any(contains(needed, path) or contains(path, needed) for path in written), needed
        else:
            assert (ROOT / needed).exists(), needed


@STAGE
def test_what_a_stage_writes_lies_in_its_folder(stage):
    written = paths(stage, "outs", "metrics", "plots")
    assert written
    assert all(contains(arguments_of(stage).out, path) for path in written)


def test_no_file_is_written_by_two_stages():
    written = [path for stage in PIPELINE for path in paths(stage, "outs", "metrics", "plots")]
    assert [(a, b) for a in written for b in written if a is not b and contains(a, b)] == []


@pytest.mark.parametrize("stage", [name for name, entry in PIPELINE.items() if not entry.get("always_changed")])
def test_a_stage_depends_on_the_code_that_its_artifact_declares(stage):
    listed = [path.as_posix() for path in paths(stage, "deps") if path.parts[0] == "src"]
    assert listed == list(dvc_dependencies(ARTIFACTS[stage].code))


@STAGE
def test_an_artifact_has_the_name_and_the_stage_that_the_command_line_says(stage):
    assert (ARTIFACTS[stage].stage, ARTIFACTS[stage].name) == (stage, cli.STAGES[stage].artifact)


@STAGE
def test_the_parameters_of_a_stage_are_those_it_reads(stage):
    listed = PIPELINE[stage]["params"]
    for name in listed:
        value = PARAMS
        for part in name.split("."):
            value = value[part]
    read = parameters_of(stage)
    assert read, "no parameter was found in the source"
    unlisted = [name for name in read if not any(name == known or name.startswith(f"{known}.") for known in listed)]
    unread = [known for known in listed if not any(name == known or name.startswith(f"{known}.") for name in read)]
    assert (sorted(unlisted), unread) == ([], [])
