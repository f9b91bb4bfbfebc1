"""The compiled pipeline in real containers makes the same champion as the command line, also after a kill."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import mlflow
import pytest

pytest.importorskip("kfp")

from pipelines.local import LocalError
from segline import cli

docker = pytest.importorskip("docker")

ROOT = Path(__file__).parents[2]
TAG = "dev"
PARAMS = {
    "name": "tiny",
    "ingest": {"synthetic": {"drives": 30, "frames_per_drive": 1, "height": 96, "width": 128}},
    "label": {"crop": 64, "split": {"train": 0.6, "val": 0.2, "test": 0.2}},
    "train": {
        "models": [{"unet": {"width": 4, "depth": 2}}],
        "losses": ["dice", {"semeda": {"edge_steps": 100}}],
        "epochs": 20,
        "learning_rate": 0.01,
    },
    "evaluate": {"pictures": 1},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def client():
    try:
        found = docker.from_env()
        known = {tag for image in found.api.images() for tag in image["RepoTags"] or ()}
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
    """Start `python -m pipelines run --local` with an empty environment except for the address of Docker."""
    words = ["-m", "pipelines", "run", "--local", "--tag", TAG, "--params", str(params), "--folder", str(folder)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=kept, stdout=log, stderr=log)


def last(folder, stage, file):
    """Return a JSON file that a stage of the last run wrote."""
    found = sorted(folder.glob(f"segline-*/{stage}/out/{file}"))
    return json.loads(found[-1].read_text())


def results(folder):
    decision = last(folder, "promote", "decision.json")
    kept = ("promotion", "version", "test_miou", "dataset")
    scores = [last(folder, stage, "metrics.json") for stage in ("evaluate", "ensemble")]
    return [*scores, {name: decision[name] for name in kept}]


def registry(folder):
    """Return the numbers of the versions, and the versions of the aliases."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_model_versions(f"name = '{PARAMS['name']}'")
    return [int(version.version) for version in found], client.get_registered_model(PARAMS["name"]).aliases


@contextmanager
def begun(client, params, folder):
    """Start a run, and yield it with its containers as they start (stage, container, --out); end it after the block."""
    events = client.events(decode=True, filters={"type": "container", "event": "start"})
    process = start(params, folder)
    # The events are over when the run is.
    Thread(target=lambda: (process.wait(), events.close())).start()
    try:
        yield process, started(client, events, folder)
    finally:
        process.kill()
        process.wait()
        for container in client.containers.list(all=True, ignore_removed=True):
            if str(folder) in str(container.attrs["Config"]["Cmd"]):
                container.remove(force=True)


def started(client, events, folder):
    for event in events:
        try:
            container = client.containers.get(event["id"])
        except docker.errors.NotFound:  # one of somebody else, and gone
            continue
        words = container.attrs["Config"]["Cmd"] or []
        if str(folder) in str(words):
            yield words[1], container, Path(words[words.index("--out") + 1])


@pytest.fixture(scope="module")
def in_containers(client, params, tmp_path_factory):
    """Return a folder with a complete run."""
    folder = tmp_path_factory.mktemp("containers") / "run"
    process = start(params, folder)
    assert process.wait(900) == 0, (folder.parent / "run.log").read_text()[-3000:]
    return folder


def test_it_ends_with_the_champion_of_the_command_line(in_containers, params, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for stage, about in cli.STAGES.items():
        words = [stage, "--params", str(params), "--out", str(tmp_path / stage)]
        words += [word for name in about.inputs for word in (f"--{name}", str(tmp_path / cli.WRITERS[name]))]
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


def test_the_exit_handler_gets_the_outcome(in_containers):
    assert "SUCCEEDED" in (in_containers.parent / "run.log").read_text()


@pytest.mark.timeout(3600)
def test_a_run_whose_containers_are_killed_one_after_the_other_ends_the_same(client, in_containers, params, tmp_path):
    """Each is killed during its work; the next run starts again, and gets to the next stage."""
    folder = tmp_path / "run"
    for stage in cli.STAGES:
        after = seconds(in_containers, stage) / 3
        while not killed(client, params, folder, stage, after):
            after /= 2
    again = start(params, folder)
    assert again.wait(900) == 0, (tmp_path / "run.log").read_text()[-3000:]
    assert results(folder) == results(in_containers)
    assert registry(folder) == registry(in_containers) == ([1], {"champion": 1})


def seconds(folder, stage):
    """Return the seconds of a stage's work, from the lock that it takes to the last file that it writes."""
    (stage_dir, *_) = sorted(folder.glob(f"segline-*/{stage}"))
    return (stage_dir / "executor_output.json").stat().st_mtime - (stage_dir / ".out.lock").stat().st_mtime


def killed(client, params, folder, stage, after):
    """Start a run, and kill a stage's container some seconds after its work began; return False if it ended before."""
    with begun(client, params, folder) as (process, containers):
        container, out = next(((found, out) for name, found, out in containers if name == stage), (None, None))
        assert container, f"{stage} never began: {(folder.parent / 'run.log').read_text()[-3000:]}"
        while not (out.exists() or out.with_name("out.partial").exists()) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(after)
        try:
            container.kill()
        except docker.errors.APIError:
            return False
        assert process.wait(120) == LocalError.exit_code
    return True


def test_the_containers_run_confined(client, params, tmp_path):
    with begun(client, params, tmp_path / "run") as (_, containers):
        _, container, _ = next(containers)
        facts = container.attrs
    host = facts["HostConfig"]
    assert facts["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert host["ReadonlyRootfs"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not host["Privileged"]
