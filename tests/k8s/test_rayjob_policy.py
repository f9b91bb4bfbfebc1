"""The admission policy of RayJobs: it admits what the templates make, and refuses whatever reaches another secret.

Its expressions are evaluated by cel-python, which is no dependency of Segline: without it these tests are skipped.
"""

import copy
from pathlib import Path

import pytest
import yaml

celpy = pytest.importorskip("celpy", reason="the expressions need `pip install cel-python`")

ROOT = Path(__file__).resolve().parents[2]
POLICY, BINDING = yaml.safe_load_all((ROOT / "k8s/examples/rayjob-policy.yaml").read_text(encoding="utf-8"))
TEMPLATES = [ROOT / "k8s/base/ray/rayjob.yaml", ROOT / "k8s/overlays/dev/rayjob.yaml"]


def evaluate(expression, variables):
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return program.evaluate({name: celpy.json_to_cel(value) for name, value in variables.items()})


def refusals(rayjob):
    """Return the messages of the validations that a RayJob does not pass."""
    known = {"object": rayjob, "variables": {}}
    for variable in POLICY["spec"]["variables"]:
        value = evaluate(variable["expression"], known)
        known["variables"][variable["name"]] = plain(value)
    return [rule["message"] for rule in POLICY["spec"]["validations"] if not evaluate(rule["expression"], known)]


def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return bool(value) if type(value).__name__ == "BoolType" else value


def template(path=TEMPLATES[0]):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def head(rayjob):
    return rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


def worker(rayjob):
    return rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]


def submitter(rayjob):
    return rayjob["spec"]["submitterPodTemplate"]["spec"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.parent.name)
def test_the_templates_are_admitted(path):
    assert refusals(template(path)) == []


SECRET = "segline-mlflow-database"
PODS = [head, worker, submitter]
CHANGES = {
    "volume": lambda pod: pod["volumes"].append({"name": "x", "secret": {"secretName": SECRET}}),
    "projected": lambda pod: pod["volumes"].append({"name": "x", "projected": {"sources": []}}),
    "config": lambda pod: pod["volumes"].append({"name": "x", "configMap": {"name": "kubeflow"}}),
    "host": lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "envFrom": lambda pod: pod["containers"][0].setdefault("envFrom", []).append({"secretRef": {"name": SECRET}}),
    "env": lambda pod: (
        pod["containers"][0]
        .setdefault("env", [])
        .append({"name": "X", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "uri"}}})
    ),
    "init": lambda pod: pod.update(
        initContainers=[{"name": "x", "image": "x", "envFrom": [{"secretRef": {"name": SECRET}}]}]
    ),
    "second": lambda pod: pod["containers"].append({"name": "x", "envFrom": [{"secretRef": {"name": SECRET}}]}),
    "account": lambda pod: pod.update(serviceAccountName="segline-backup"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.__name__)
def test_what_reaches_another_secret_is_refused(pod, change):
    rayjob = copy.deepcopy(template())
    CHANGES[change](pod(rayjob))
    assert len(refusals(rayjob)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["rayClusterSpec"]["autoscalerOptions"].update(envFrom=[{"secretRef": {"name": SECRET}}]),
        lambda spec: spec["rayClusterSpec"].update(gcsFaultToleranceOptions={"redisAddress": "redis:6379"}),
        lambda spec: spec.update(clusterSelector={"ray.io/cluster": "another"}),
    ],
)
def test_what_is_outside_of_the_pods_is_refused_too(change):
    rayjob = template()
    change(rayjob["spec"])
    assert len(refusals(rayjob)) == 1


def test_the_policy_is_for_the_account_of_the_pipeline_and_bound():
    [condition] = POLICY["spec"]["matchConditions"]

    def concerned(user):
        return bool(evaluate(condition["expression"], {"request": {"userInfo": {"username": user}}}))

    assert concerned("system:serviceaccount:segline:segline-pipeline")
    assert not concerned("kubernetes-admin")
    assert BINDING["spec"] == {"policyName": POLICY["metadata"]["name"], "validationActions": ["Deny"]}
