"""The compiled pipeline in real containers: the same champion as the command line makes, also after a kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segline import cli

docker = pytest.importorskip("docker")

ROOT = Path(__file__).parents[2]
TAG = "dev"
PARAMS = {
    "name": "tiny",
    "ingest": {"synthetic": {"drives": 30, "frames_per_drive": 1, "height": 96, "width": 128}},
    "label": {"crop": 64, "split": {"train": 0.6, "val": 0.2, "test": 0.2}},
    "train": {"models": [{"unet": {"width": 4, "depth": 2}}], "losses": ["dice", "cross_entropy"], "epochs": 2},
    "evaluate": {"pictures": 1},
    "promote": {"resamples": 200},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def client():
    try:
        found = docker.from_env()
        known = {tag for image in found.images.list() for tag in image.tags}
    except docker.errors.DockerException as error:
        pytest.skip(f"no docker engine answers: {str(error).splitlines()[0][:80]}")
    missing = {f"segline/{name}:{TAG}" for name in ("data", "train")} - known
    if missing:
        pytest.skip(f"docker has no {', '.join(sorted(missing))} (make images TAG={TAG})")
    yield found
    found.close()


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(json.dumps(PARAMS))
    return path


def start(params, folder):
    """`python -m pipelines run --local` with an empty environment but for the engine's address."""
    words = ["-m", "pipelines", "run", "--local", "--tag", TAG, "--params", str(params), "--folder", str(folder)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=kept, stdout=log, stderr=log)


def last(folder, stage, file):
    """What the last run's stage wrote."""
    found = sorted(folder.glob(f"segline-*/{stage}/out/{file}"))
    return json.loads(found[-1].read_text())


def results(folder):
    decision = last(folder, "promote", "decision.json")
    kept = ("promoted", "version", "test_miou", "dataset")
    scores = [last(folder, stage, "metrics.json") for stage in ("evaluate", "ensemble")]
    return [*scores, {name: decision[name] for name in kept}]


@pytest.fixture(scope="module")
def in_containers(client, params, tmp_path_factory):
    """A folder with a whole run."""
    folder = tmp_path_factory.mktemp("containers") / "run"
    process = start(params, folder)
    assert process.wait(900) == 0, (folder.parent / "run.log").read_text()[-3000:]
    return folder


def test_it_ends_with_the_champion_of_the_command_line(in_containers, params, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for stage, about in cli.STAGES.items():
        words = [stage, "--params", str(params), "--out", str(tmp_path / stage)]
        words += [word for name in about.inputs for word in (f"--{name}", str(tmp_path / cli.INPUTS[name]))]
        assert cli.main(words + (["--tracking-uri", uri] if about.tracked else [])) == 0
    decision = json.loads((tmp_path / "promote" / "decision.json").read_text())
    assert results(in_containers)[:2] == [
        json.loads((tmp_path / stage / "metrics.json").read_text()) for stage in ("evaluate", "ensemble")
    ]
    assert results(in_containers)[2] == {name: decision[name] for name in results(in_containers)[2]}


def test_a_second_run_compares_its_data_with_those_of_the_champion(in_containers, params):
    again = start(params, in_containers)
    assert again.wait(900) == 0
    found = last(in_containers, "validate", "validation.json")["drift"]
    assert found["champion"] == 1
    assert "pairs are too few to compare" in found["note"]


def test_the_exit_handler_said_what_it_came_to(in_containers):
    assert "SUCCEEDED" in (in_containers.parent / "run.log").read_text()


@pytest.mark.parametrize("stage", ["label", "train", "promote"])
def test_a_run_whose_container_is_killed_ends_the_same_when_it_is_run_again(
    client, in_containers, params, tmp_path, stage
):
    folder = tmp_path / "run"
    process = start(params, folder)
    kill(client, stage, process)
    assert process.wait(120) != 0
    again = start(params, folder)
    assert again.wait(900) == 0
    assert results(folder) == results(in_containers)


def kill(client, stage, process):
    """Kill the container of a stage as soon as it runs."""
    while process.poll() is None:
        for container in client.containers.list():
            if container.attrs["Config"]["Cmd"][:2] == ["segline", stage]:
                container.kill()
                return
        time.sleep(0.1)
    raise AssertionError(f"{stage} was never seen")


def test_the_containers_run_confined(client, params, tmp_path):
    process = start(params, tmp_path / "run")
    try:
        while not (running := client.containers.list()):
            assert process.poll() is None
            time.sleep(0.05)
        facts = running[0].attrs
    finally:
        process.kill()
        process.wait()
        for container in client.containers.list():
            container.kill()
    host = facts["HostConfig"]
    assert facts["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert host["ReadonlyRootfs"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not host["Privileged"]
