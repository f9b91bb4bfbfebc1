"""An example gets a folder of its own, whose stages are those of the repository; nothing else is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from examples import project
from segline.artifacts.code import dvc_dependencies, source_files
from segline.artifacts.table import ARTIFACTS
from segline.config.loader import build, load, read
from segline.config.params import Params

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "camvid" / "params.yaml"
OWN = ("params.yaml", "dvc.yaml", "exclusions.csv", "Makefile")
TINY = {
    "name": "camvid",
    "ingest": {"layout": "camvid"},
    "validate": {"min_pairs": 2, "max_quarantined_share": 0.5, "max_drift": 1.0},
    "label": {"crop": 32, "sampling": "random"},
    "train": {"models": [{"unet": {"width": 2, "depth": 2}}], "losses": ["dice"], "epochs": 1},
}


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """CamVid as SegNet released it, of six frames of 48 x 64 px: four drives' for training and one drive's beside."""
    folder = tmp_path_factory.mktemp("data") / "camvid"
    random = np.random.default_rng(0)
    for split, names in {
        "train": ("0001TP_1", "0001TP_2", "0006R0_1", "0016E5_1"),
        "val": ("0016E5_2", "0016E5_3"),
    }.items():
        for part in (split, f"{split}annot"):
            (folder / part).mkdir(parents=True)
        lines = []
        for name in names:
            labels = random.integers(0, 12, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(labels).save(folder / f"{split}annot" / f"{name}.png")
            image = labels[..., None] * 20 + random.integers(0, 20, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(image.astype(np.uint8)).save(folder / split / f"{name}.png")
            lines.append(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n")
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def made(folder):
    """The bytes and the time of change of every file below a folder."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def make(source, into):
    return project.main(["camvid", "--source", str(source), "--into", str(into)])


def test_the_stages_are_those_of_the_repository_but_for_the_paths_of_code(camvid, tmp_path):
    folder = tmp_path / "runs" / "camvid"
    assert make(camvid, folder) == 0
    own, root = (yaml.safe_load((where / "dvc.yaml").read_text(encoding="utf-8")) for where in (folder, ROOT))
    assert list(own["stages"]) == list(root["stages"])
    for name, stage in root["stages"].items():
        code = [path for path in stage.get("deps", []) if path.startswith("src/")]
        other = own["stages"][name]
        assert {key: value for key, value in other.items() if key != "deps"} == {
            key: value for key, value in stage.items() if key != "deps"
        }
        data = [path for path in other.get("deps", []) if not path.startswith("..")]
        assert data == [path for path in stage.get("deps", []) if path not in code]
        named = ARTIFACTS[name].code if code else ()
        assert code == list(dvc_dependencies(named))
        listed = {(folder / path).resolve() for path in other.get("deps", []) if path.startswith("..")}
        assert listed == {file for module in named for file in source_files(module)}


def test_the_example_says_what_differs_and_the_folder_gets_every_parameter(camvid, tmp_path):
    assert make(camvid, tmp_path / "run") == 0
    expected = read(EXAMPLE)
    expected["ingest"]["source"] = str(camvid)
    document = read(tmp_path / "run" / "params.yaml")
    assert build(document, "here") == build(expected, "here")
    assert load(EXAMPLE).name != Params().name

    def keys(section, where=""):
        inner = {"models", "losses", "class_maps", "spaces", "layout"}
        for key, value in section.items():
            yield f"{where}{key}"
            if isinstance(value, dict) and key not in inner:
                yield from keys(value, f"{where}{key}.")

    assert sorted(keys(document)) == sorted(keys(read(ROOT / "params.yaml")))


def test_a_second_time_only_what_changed_is_written(camvid, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert make(camvid, folder) == 0
    before = made(folder)
    assert make(camvid, folder) == 0
    assert made(folder) == before

    with (folder / "exclusions.csv").open("a", encoding="utf-8") as stream:
        stream.write("0001TP_1\n")
    moved = tmp_path / "elsewhere"
    shutil.copytree(camvid, moved)
    example = tmp_path / "examples" / "camvid" / "params.yaml"
    example.parent.mkdir(parents=True)
    example.write_text(EXAMPLE.read_text(encoding="utf-8") + "seed: 8\n", encoding="utf-8")
    monkeypatch.setattr(project, "EXAMPLES", example.parents[1])
    monkeypatch.chdir(tmp_path)
    assert make("elsewhere", folder) == 0
    params = load(folder / "params.yaml")
    assert (params.ingest.source, params.seed) == (str(moved), 8)
    assert (folder / "exclusions.csv").read_text(encoding="utf-8").endswith("0001TP_1\n")
    assert made(folder)[folder / "dvc.yaml"] == before[folder / "dvc.yaml"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("nowhere", "the source 'nowhere' is not there (looked from "),
        ("", "the source '' is not there (looked from "),
        ("empty", "no train.txt, val.txt or test.txt; expected the camvid layout as SegNet released it"),
    ],
)
def test_a_source_that_is_not_camvid_is_refused_in_one_line_and_nothing_is_written(
    broken, reason, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert make(broken, tmp_path / "run") != 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("camvid: ")
    assert reason in line
    assert not (tmp_path / "run").exists()


def test_parameters_that_a_person_wrote_are_not_replaced(camvid, tmp_path, capsys):
    file = tmp_path / "params.yaml"
    file.write_text("name: mine\n", encoding="utf-8")
    assert make(camvid, tmp_path) != 0
    assert file.read_text(encoding="utf-8") == "name: mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert f"{file} was not made by examples/project.py" in capsys.readouterr().err


@pytest.fixture
def clone(tmp_path):
    """A clone whose environment is ready, with programs in place of DVC and Segline that say where they run."""
    folder = tmp_path / "clone"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in (*OWN, "pyproject.toml", "requirements", "examples"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "data").mkdir()
    (folder / "data" / "mine").write_text("mine", encoding="utf-8")
    (folder / "dvc.lock").write_text("mine", encoding="utf-8")
    for name in ("dvc", "segline"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" in "$PWD"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (folder / ".venv" / ".ready").touch()
    return folder


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_camvid_runs_the_line_in_its_folder_and_leaves_the_users_files_alone(camvid, clone):
    before = {name: value for name, value in made(clone).items() if "__pycache__" not in name.parts}
    around = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "SOURCE", "DRIVE")
    variables = {name: value for name, value in os.environ.items() if name not in around}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}

    def run(*words):
        return subprocess.run(["make", *words], cwd=clone, env=variables, capture_output=True, text=True)

    refused = run("camvid")
    assert refused.returncode
    assert "make: camvid needs SOURCE=" in refused.stdout
    assert not (clone / "runs").exists()

    done = run("camvid", f"SOURCE={os.path.relpath(camvid, clone)}")
    assert done.returncode == 0, done.stdout + done.stderr
    where = clone / "runs" / "camvid"
    assert done.stdout.splitlines()[-2:] == [f"dvc repro in {where}", f"segline summary in {where}"]
    assert load(where / "params.yaml").ingest.source == str(camvid)
    after = {name: value for name, value in made(clone).items() if "__pycache__" not in name.parts}
    assert {name: value for name, value in after.items() if where not in name.parents} == before


@pytest.mark.slow
def test_the_line_runs_in_its_folder_and_a_second_time_nothing_does(camvid, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    project.write_project(folder, project.with_source(TINY, str(camvid), "here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def repro():
        done = subprocess.run(["dvc", "repro"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith("Running stage")]

    assert len(repro()) == len(yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    assert (folder / "mlruns" / "mlflow.db").is_file()
    project.write_project(folder, project.with_source(TINY, str(camvid), "here"))
    assert repro() == ["Running stage 'ingest':"]
