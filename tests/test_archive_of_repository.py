"""What the Makefile does in an archive of the repository, which has no git, and to which registry it pushes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import git

ROOT = Path(__file__).parents[1]
DVC_YAML = "stages:\n  one:\n    cmd: echo made > one.txt\n    outs: [one.txt]\n"

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@pytest.fixture
def archive(tmp_path):
    """A folder with the Makefile, an environment that is ready, and a line of one stage, in a repository of another."""
    git("init", "--quiet", cwd=tmp_path)
    git("commit", "--quiet", "--allow-empty", "-m", "another repository", cwd=tmp_path)
    folder = tmp_path / "segline-0.2.0"
    for name in ("requirements", ".dvc", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    (folder / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    for name in ("requirements/dev.lock", "requirements/bootstrap.lock", "pyproject.toml", ".venv/.ready"):
        (folder / name).touch()
    summary = folder / ".venv" / "bin" / "segline"
    summary.write_text("#!/bin/sh\necho the summary\n", encoding="utf-8")
    summary.chmod(0o755)
    return folder


def make(folder, *words, expected=0):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # A make around this one, which runs the tests, would have it tell the folders that it enters and leaves.
    around = ("TAG", "COMMIT", "REGISTRY", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    variables = {name: value for name, value in os.environ.items() if name not in around}
    done = subprocess.run(["make", *words], cwd=folder, env=variables | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def test_the_line_runs_and_says_that_dvc_does_without_git(archive):
    shown = make(archive, "repro")
    assert "DVC works without" in shown
    assert (archive / "one.txt").read_text() == "made\n"
    assert shown.endswith("the summary\n")


def test_the_images_have_no_commit_of_another_repository(archive):
    shown = make(archive, "images", "ENGINE=echo")
    assert "make: no git here, so the images are tagged dev and name no commit" in shown
    assert "--build-arg COMMIT= " in shown
    assert "--tag segline/train:dev " in shown


def test_the_tag_and_the_commit_can_be_given(archive):
    shown = make(archive, "images", "ENGINE=echo", "TAG=0.2.1", "COMMIT=abc")
    assert "no git here" not in shown
    assert "--build-arg COMMIT=abc " in shown
    assert "--tag segline/train:0.2.1 " in shown


def test_with_git_the_tag_is_the_commit(archive):
    git("init", "--quiet", cwd=archive)
    git("add", "Makefile", cwd=archive)
    git("commit", "--quiet", "-m", "first", cwd=archive)
    commit = git("rev-parse", "--short=12", "HEAD", cwd=archive).strip()
    assert f"--tag segline/train:{commit} " in make(archive, "images", "ENGINE=echo")


@pytest.mark.parametrize("words", [(), ("REGISTRY=segline",), ("REGISTRY=team/segline",), ("REGISTRY=kind:5000",)])
def test_nothing_is_pushed_without_the_host_of_a_registry(archive, words):
    shown = make(archive, "push", "ENGINE=echo", *words, expected=2)
    assert "make: push needs REGISTRY=<host>/<path of the images>" in shown
    assert "push --quiet" not in shown


@pytest.mark.parametrize("registry", ["registry.example.org/segline", "localhost/segline", "kind:5000/a/b"])
def test_the_images_are_pushed_to_the_registry_that_is_named(archive, registry):
    program = archive / "pipelines"
    program.mkdir()
    (program / "__init__.py").touch()
    (program / "__main__.py").write_text("import sys\nprint('told', *sys.argv[1:])\n", encoding="utf-8")
    shown = make(archive, "push", "ENGINE=echo", "TAG=0.2.0", f"REGISTRY={registry}").splitlines()
    pushed = [line for line in shown if line.startswith("push")]
    assert pushed == [f"push --quiet {registry}/{image}:0.2.0" for image in ("data", "train", "mlflow")]
    assert shown[-1] == f"told sbom --registry {registry} --tag 0.2.0 --engine echo"


@pytest.mark.parametrize(("words", "registry"), [((), "segline"), (("REGISTRY=kind:5000",), "kind:5000")])
def test_a_test_cluster_takes_the_local_images_unless_a_registry_is_named(archive, words, registry):
    assert f"SEGLINE_CLUSTER_REGISTRY={registry} " in make(archive, "--dry-run", "test-cluster", *words)
