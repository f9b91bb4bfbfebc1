"""Parameters with ``$`` reach a stage as they were given, although Kubernetes expands ``$$`` and ``$(NAME)``."""

import json
import re

import pytest
import yaml

pytest.importorskip("kfp")

from documented import ROOT

from pipelines import __main__ as program
from pipelines.arguments import make_parser
from pipelines.training import DeploymentConfig, compile_to
from segline import cli
from segline.config.loader import load

ENVIRONMENT = {"AWS_SECRET_ACCESS_KEY": 'a "secret"', "HOME": "/home/x"}
PREFIX = "s3://segline/a$$b/$(AWS_SECRET_ACCESS_KEY)/$(nothing)/$("
SETTINGS = {
    "ingest.source": PREFIX,
    "ingest.dvc.revision": "v$$1",
    "train.checkpoints": "s3://segline/$$(HOME)",
}


def expand(text, variables):
    """Return a container's argument as Kubernetes makes it.

    Restated from k8s.io/kubernetes, third_party/forked/golang/expansion/expand.go and its tests: ``$$`` is ``$``,
    ``$(NAME)`` is the variable's value if there is one, and anything else stays.
    """

    def replace(found):
        if found[0] == "$$":
            return "$"
        return variables.get(found["name"], found[0])

    return re.sub(r"\$\$|\$\((?P<name>[^)]*)\)", replace, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(VAR_A)", "A"),
        ("$$(VAR_B)", "$(VAR_B)"),
        ("$$$(VAR_A)", "$A"),
        ("foo$$var", "foo$var"),
        ("$(nothing)-$", "$(nothing)-$"),
        ("$$$$$$(", "$$$("),
        ("$VAR_A$(VAR_A", "$VAR_A$(VAR_A"),
    ],
)
def test_the_expansion_is_that_of_kubernetes(text, expected):
    """The cases are those of expand_test.go."""
    assert expand(text, {"VAR_A": "A", "VAR_B": "B"}) == expected


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "pipeline.yaml"
    compile_to(path, DeploymentConfig())
    pipeline, _ = yaml.safe_load_all(path.read_text())
    return {
        name.removeprefix("exec-"): entry["container"]
        for name, entry in pipeline["deploymentSpec"]["executors"].items()
    }


def received(container, parameters):
    """Return the words that a stage gets: what Kubeflow's driver, Kubernetes and Kubeflow's launcher make.

    The driver (kubeflow/pipelines 2.17, backend/src/v2/driver, initPodSpecPatch) puts the parameters as JSON into the
    arguments of the container, before the command of the stage; the launcher replaces the placeholders in that.
    """
    executor_input = json.dumps({"inputs": {"parameterValues": parameters}})
    arguments = ["--executor_input", executor_input, "--", *container["command"], *container["args"]]
    _, read, _, *command = [expand(argument, ENVIRONMENT) for argument in arguments]
    values = json.loads(read)["inputs"]["parameterValues"]

    def put_in(text):
        text = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", lambda found: _text(values[found[1]]), text)
        return re.sub(r"\{\{.*?\}\}", "x", text)

    return [put_in(word) for word in command]


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def arguments_of(words):
    arguments = make_parser().parse_args(["run", "--local", *words])
    hashes = {f"{name}_hash": "0" for name in ("dataset", "candidates", "evaluation")}
    return program._pipeline_arguments(arguments) | {"source": "", "revision": ""} | hashes


def test_parameters_reach_every_stage_as_they_were_given(containers, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    parameters = arguments_of(words)
    given = load("params.yaml", words[1::2])
    assert given.ingest.source == PREFIX
    for stage in cli.STAGES:
        _, *got = received(containers[stage], parameters)
        parsed = cli._parser().parse_args(got)
        read = load(parsed.params, parsed.overrides)
        assert getattr(read, stage) == getattr(given, stage), stage


@pytest.mark.parametrize("key", ["s3://segline/a$$b.csv", "s3://segline/$(HOME).csv", "s3://segline/a$b.csv"])
def test_a_list_of_exclusions_that_kubernetes_would_change_is_refused(key, containers, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if expand(key, ENVIRONMENT) == key:
        parsed = cli._parser().parse_args(received(containers["label"], arguments_of(["--exclusions", key]))[1:])
        assert parsed.exclusions == key
        return
    assert program.main(["run", "--local", "--exclusions", key]) == 2
    assert f"--exclusions: got {key!r}, of which Kubernetes would replace" in capsys.readouterr().err
