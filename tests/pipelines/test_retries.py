"""How often a stage is tried: by its exit code in its pod, and by Argo's rules when the pod is lost."""

import re

import pytest
import yaml

pytest.importorskip("kfp")

from argo import KUBEFLOW, Ended, Pod, compiled_template, merged, phase, pods_started, repeats
from documented import ROOT

from pipelines.training import DeploymentConfig, compile_to
from segline.cli import STAGES
from segline.platforms import attempts

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
ADVISED = yaml.safe_load(re.search(r"```\n(templateDefaults:.*?)```", PAGE, re.DOTALL)[1])["templateDefaults"]
"""What the page tells a site to set."""
DEFAULTS = pytest.mark.parametrize("defaults", [{}, KUBEFLOW, ADVISED], ids=["none", "kubeflow", "advised"])
STAGE = pytest.mark.parametrize("stage", STAGES)
LOST = {
    "out of memory": Pod(exits={"main": 137, "wait": 0}),
    "evicted": Pod(message="The node was low on resource: ephemeral-storage."),
    "over its time": Pod(message="Pod was active on the node longer than the specified deadline"),
    "drained or preempted": Pod(exits={"main": 143, "wait": 143}),
    "failed after its node was lost": Pod(),
    "vanished": Pod(is_gone=True),
}
"""How a pod ends that was killed."""
RUNS = {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 7: 4, 8: 1, 75: 4, 130: 1, -9: 2}
"""How often a stage runs that always ends with a code."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """The template of each stage, as Argo gets it."""
    path = tmp_path_factory.mktemp("pipeline") / "pipeline.yaml"
    compile_to(path, DeploymentConfig())
    pipeline, _ = yaml.safe_load_all(path.read_text())
    tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    return {name: compiled_template(task["retryPolicy"]) for name, task in tasks.items()}


@STAGE
@pytest.mark.parametrize("ending", LOST)
@pytest.mark.parametrize(
    ("defaults", "repeated"),
    [
        ({}, set(LOST) - {"vanished"}),
        (KUBEFLOW, {"vanished"}),
        (ADVISED, set(LOST)),
    ],
    ids=["none", "kubeflow", "advised"],
)
def test_argo_repeats_a_pod_that_was_lost_as_the_page_says(stage, ending, defaults, repeated, templates):
    assert pods_started(merged(defaults, templates[stage]), LOST[ending]) == (4 if ending in repeated else 1)


@STAGE
def test_the_pauses_and_the_number_are_ours_whatever_the_defaults(stage, templates):
    for defaults in ({}, KUBEFLOW, ADVISED):
        strategy = merged(defaults, templates[stage])["retryStrategy"]
        assert strategy["limit"] == "3"
        assert strategy["backoff"]["duration"] == "60s"


def test_with_the_advised_defaults_no_group_of_tasks_is_repeated():
    """The templates of groups have no strategy of their own: a failed run would begin again as a whole."""
    for ended in (Ended("Failed", 1), Ended("Error", 1)):
        assert not repeats(merged(ADVISED, {"dag": {}}), ended)


@DEFAULTS
@pytest.mark.parametrize("code", RUNS)
def test_a_stage_is_repeated_by_its_exit_code_whatever_argo_repeats(code, defaults, templates, tmp_path, monkeypatch):
    """Argo starts pods, each of which runs the stage until it gives up; Kubeflow's launcher makes the code 1."""
    mark, statuses, runs = tmp_path / "termination-log", [], []
    monkeypatch.setattr(attempts, "PAUSE_S", 0.0)
    monkeypatch.setattr(attempts, "MARK_FILE", mark)
    monkeypatch.setattr(attempts, "_pods", lambda _: statuses)
    monkeypatch.setattr(attempts._Child, "run", lambda *_: runs.append(code) or code)
    for name, value in {"SEGLINE_RETRIES": "3", "SEGLINE_RUN": "run-1", "KUBERNETES_SERVICE_HOST": "localhost"}.items():
        monkeypatch.setenv(name, value)
    template, number = merged(defaults, templates["train"]), 0
    while True:
        number += 1
        mark.write_text("")
        ended = attempts.run("train", ["train"])
        assert ended == (code if code >= 0 else 137)
        statuses.append(status(f"pod-{number}", mark.read_text()))
        pod = Pod(exits={"main": min(ended, 1), "wait": 0})
        if not repeats(template, Ended(phase(pod), number)):
            break
    assert len(runs) == RUNS[code]
    assert number == (1 if code == 0 or defaults is KUBEFLOW else 4)


def status(name, message):
    """Return a pod as the API has it."""
    terminated = {"exitCode": 1, "message": message} if message else {"exitCode": 0}
    return {
        "metadata": {"name": name},
        "status": {"containerStatuses": [{"name": "main", "state": {"terminated": terminated}}]},
    }


def test_a_run_in_local_containers_repeats_nothing(tmp_path):
    compile_to(tmp_path / "pipeline.yaml", DeploymentConfig(retries=0))
    text = (tmp_path / "pipeline.yaml").read_text()
    assert "SEGLINE_RETRIES" not in text
    assert "retryPolicy" not in text


@STAGE
def test_the_executor_input_is_passed_once(stage, tmp_path):
    compile_to(tmp_path / "pipeline.yaml", DeploymentConfig())
    pipeline, _ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    words = pipeline["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]["args"]
    assert words.count("--executor-input") == words.count("{{$}}") == 1
