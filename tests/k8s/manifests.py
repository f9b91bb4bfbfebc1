"""The manifests as kustomize builds them, and the checks of them, each of which returns its complaints."""

import json
import re
import shutil
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "gpu")
# Each is listed twice, strict and not.
VERSIONS = list(dict.fromkeys(utils.all_versions()))[-3:]
DOCKERFILE = ROOT / "components" / "images" / "Dockerfile"
SCHEMAS = ROOT.parent / "shared" / "schemas"
# Kinds that an operator brings; its own schema, not Kubernetes', says what is in them.
CUSTOM = ("ray.io", "monitoring.coreos.com")
TEMPLATE = "segline-rayjob"
PLACEHOLDER = "segline/train"
GPU = "nvidia.com/gpu"
# What Kubeflow's executor, driver and launcher do; nothing of Segline.
KUBEFLOW = {"workflowtaskresults": ("create", "patch"), "configmaps": ("get",), "secrets": ("get",)}
# Made by others: KubeRay gives these labels to the pods of a cluster, Argo this one to those of a pipeline.
NODE_TYPES = {"head": {"ray.io/node-type": "head"}, "worker": {"ray.io/node-type": "worker"}, "submitter": {}}
PIPELINE = {"workflows.argoproj.io/workflow": "training-x"}


@cache
def _built(overlay):
    return kustomize(ROOT / "k8s" / "overlays" / overlay)


def kustomize(folder):
    """Return the objects of a folder's kustomization."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl, which builds the overlays, is not installed")
    done = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
    assert not done.stderr
    return list(yaml.safe_load_all(done.stdout))


def build(overlay):
    """Return a copy of the objects of an overlay."""
    return deepcopy(_built(overlay))


def of_kind(objects, *kinds):
    return [entry for entry in objects if entry["kind"] in kinds]


def find(objects, kind, name):
    (found,) = [entry for entry in of_kind(objects, kind) if entry["metadata"]["name"] == name]
    return found


def name_of(entry):
    return f"{entry['kind']}/{entry['metadata']['name']}"


def template(objects):
    """Return the RayJob in its ConfigMap."""
    return yaml.safe_load(find(objects, "ConfigMap", TEMPLATE)["data"]["rayjob.yaml"])


def change_template(objects, change):
    job = template(objects)
    change(job)
    find(objects, "ConfigMap", TEMPLATE)["data"]["rayjob.yaml"] = yaml.safe_dump(job)


@dataclass
class Pod:
    """A pod that an object makes: the name of the object, the labels, the spec, and whether KubeRay makes it."""

    where: str
    labels: dict
    spec: dict
    ray: bool = False

    @property
    def containers(self):
        return self.spec.get("initContainers", []) + self.spec["containers"]


def pods(objects):
    """Yield every pod that the objects make, those of a Ray cluster among them."""
    for entry in of_kind(objects, "Deployment", "StatefulSet", "Job", "CronJob"):
        spec = entry["spec"]
        if entry["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        yield Pod(name_of(entry), spec["template"]["metadata"]["labels"], spec["template"]["spec"])
    job = template(objects)["spec"]
    cluster = job["rayClusterSpec"]
    found = {"submitter": job["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"]}
    (group,) = cluster["workerGroupSpecs"]
    found["worker"] = group["template"]
    # KubeRay adds the autoscaler to the head, with the head's image.
    autoscaler = {"name": "autoscaler", "image": PLACEHOLDER, **cluster["autoscalerOptions"]}
    found["head"]["spec"]["containers"].append(autoscaler)
    for role, pod in found.items():
        yield Pod(f"RayJob {role}", pod["metadata"]["labels"] | NODE_TYPES[role], pod["spec"], ray=True)


def containers(objects):
    for pod in pods(objects):
        for container in pod.containers:
            yield f"{pod.where} {container['name']}", pod, container


@cache
def schema(filename, version):
    """Return a schema as kubernetes-validate reads it, but read it only once."""
    return _read_schema(filename, version)


_read_schema = utils.schema_contents


def unfit(objects, version):
    """Return what this version of Kubernetes would refuse."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", schema)
        for entry in objects:
            if entry["apiVersion"].partition("/")[0] in CUSTOM:
                continue
            try:
                kubernetes_validate.validate(entry, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                found.append(f"{name_of(entry)}: {error.message}")
    return found


@cache
def crd(kind):
    """Return the strict schema of a Ray kind, which refuses unknown names, as a server does in strict validation."""
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"the custom resource definition {path.name} is not at hand")
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (found,) = [entry["schema"]["openAPIV3Schema"] for entry in versions if entry["name"] == "v1"]
    return _closed({name: value for name, value in found.items() if name != "description"})


def _closed(node):
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    closed = {name: _closed(value) for name, value in node.items()}
    if isinstance(node.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in node:
        closed.setdefault("additionalProperties", False)
    return closed


def unfit_rayjob(job):
    """Return what KubeRay would refuse."""
    validator = jsonschema.Draft202012Validator(crd("RayJob"))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(job)]


def unsafe(objects):
    """Return what pod security "restricted" refuses, and each root file system that can be written."""
    found = []
    for pod in pods(objects):
        pod_context = pod.spec.get("securityContext", {})
        found += [f"{pod.where}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(name)]
        found += [
            f"{pod.where}: volume {volume['name']}"
            for volume in pod.spec.get("volumes", [])
            if not set(volume) & {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
        ]
        for container in pod.containers:
            where, own = f"{pod.where} {container['name']}", container.get("securityContext", {})
            context = pod_context | own
            wanted = {
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "privileged": False,
                "seccompProfile": {"type": "RuntimeDefault"},
                "capabilities": {"drop": ["ALL"]},
            }
            found += [
                f"{where}: {name} is {context.get(name)}"
                for name, value in wanted.items()
                if context.get(name, False if name == "privileged" else None) != value
            ]
            if not context.get("runAsUser"):
                found.append(f"{where}: runAsUser is {context.get('runAsUser')}")
            found += [f"{where}: hostPort" for port in container.get("ports", []) if "hostPort" in port]
    return found


def unpinned(objects):
    """Return the images without a version."""
    found = []
    for where, pod, container in containers(objects):
        image = container["image"]
        if pod.ray:
            if image != PLACEHOLDER:
                found.append(f"{where}: {image}, expected {PLACEHOLDER}, for which the code puts its own")
            continue
        tag = image.rpartition("/")[2].partition(":")[2]
        if not tag or tag.startswith("latest"):
            found.append(f"{where}: {image}")
    return found


def unlimited(objects):
    """Return the containers that the quota refuses, or that may use a whole node."""
    found = []
    for where, _, container in containers(objects):
        resources = container.get("resources", {})
        found += [
            f"{where}: no {name} in {kind}"
            for kind in ("requests", "limits")
            for name in ("cpu", "memory")
            if name not in resources.get(kind, {})
        ]
    return found


def unready_for_gpus(objects):
    return gpu_faults(pods(objects))


def gpu_faults(made):
    """Return the pods that need a GPU but lack its limit, its node or shared memory."""
    found = []
    for pod in made:
        keys = {entry.get("key") for entry in pod.spec.get("tolerations", [])}
        selected = any(key.startswith("nvidia.com") for key in pod.spec.get("nodeSelector", {}))
        for container in pod.containers:
            resources = container.get("resources", {})
            limit = resources.get("limits", {}).get(GPU)
            wants = bool(limit or resources.get("requests", {}).get(GPU))
            if not (wants or selected or GPU in keys):
                continue
            where = f"{pod.where} {container['name']}"
            if not limit:
                found.append(f"{where}: no limit of {GPU}")
            if not selected:
                found.append(f"{where}: no node selector")
            if GPU not in keys:
                found.append(f"{where}: no toleration")
            mounted = {entry["mountPath"]: entry["name"] for entry in container.get("volumeMounts", [])}
            memory = [
                volume["name"]
                for volume in pod.spec.get("volumes", [])
                if volume.get("emptyDir", {}).get("medium") == "Memory"
            ]
            if mounted.get("/dev/shm") not in memory:
                found.append(f"{where}: /dev/shm is not in memory")
    return found


@cache
def example_secrets():
    path = ROOT / "k8s" / "examples" / "secrets.example.yaml"
    return {entry["metadata"]["name"]: entry["stringData"] for entry in yaml.safe_load_all(path.read_text())}


@cache
def bucket_policy():
    """Return the example of the rights of each key: secret -> (actions, objects or prefixes of listings)."""
    path = ROOT / "k8s" / "examples" / "bucket-policy.json"
    found = {}
    for statement in json.loads(path.read_text())["Statement"]:
        assert statement["Effect"] == "Allow"
        where = _listed(statement["Resource"])
        if limit := statement.get("Condition"):
            assert where == ["arn:aws:s3:::segline"]
            where = [f"arn:aws:s3:::segline/{prefix}" for prefix in _listed(limit["StringLike"]["s3:prefix"])]
        name = statement["Principal"]["AWS"].rpartition("/")[2]
        entry = (_listed(statement["Action"]), [arn.removeprefix("arn:aws:s3:::segline/") for arn in where])
        found.setdefault(name, []).append(entry)
    return found


def _listed(value):
    return value if isinstance(value, list) else [value]


def allows(name, action, key):
    """Return whether the policy allows an action to the key in a secret; for s3:ListBucket, ``key`` is the prefix."""
    return any(
        action in actions and any(fnmatchcase(key, pattern) for pattern in where)
        for actions, where in bucket_policy()[name]
    )


def identities(objects):
    """Return the identities of the small cluster's S3 server by name."""
    (container,) = find(objects, "StatefulSet", "s3")["spec"]["template"]["spec"]["containers"]
    text = re.search(r"<<END\n(.*?)\nEND\n", container["args"][0], re.DOTALL)[1]
    return {entry["name"]: entry for entry in json.loads(text)["identities"]}


def seaweed_allows(identity, action, key):
    """Decide as SeaweedFS does: by an action on a pattern or on the whole bucket; Admin means all actions."""
    kind = {"s3:GetObject": "Read", "s3:ListBucket": "List"}.get(action, "Write")
    return any(
        fnmatchcase(f"{kind}:segline/{key}", has) if "*" in has else has in (f"{kind}:segline", "Admin:segline")
        for has in identity["actions"]
    )


def readers(objects):
    """Return for each secret the containers that read it, and whether it may be absent."""
    found = {}
    for where, _, container in containers(objects):
        references = [entry["secretRef"] for entry in container.get("envFrom", []) if "secretRef" in entry]
        references += [
            entry["valueFrom"]["secretKeyRef"]
            for entry in container.get("env", [])
            if "secretKeyRef" in entry.get("valueFrom", {})
        ]
        for reference in references:
            found.setdefault(reference["name"], {})[where] = reference.get("optional", False)
    return found


@cache
def scripts():
    """Return the files of this repository in the image of the tracking server."""
    copied = re.search(r"^COPY mlflow/\*\.sh mlflow/\*\.py (\S+)/$", DOCKERFILE.read_text(), re.MULTILINE)
    return {f"{copied[1]}/{path.name}" for path in (ROOT / "mlflow").iterdir() if path.suffix in (".sh", ".py")}


SITE = {"name": "segline-site", "optional": True}
"""The volume of a site's own files, which no overlay makes."""


def dangling(objects):
    """Return the names in pods, services, bindings, monitors and addresses that refer to nothing."""
    found = []
    known = {"secret": example_secrets()}
    known["config map"] = {entry["metadata"]["name"]: entry["data"] for entry in of_kind(objects, "ConfigMap")}
    accounts = {entry["metadata"]["name"] for entry in of_kind(objects, "ServiceAccount")}

    def need(where, what, name, key=None):
        if name not in known[what]:
            found.append(f"{where}: no {what} {name}")
        elif key is not None and key not in known[what][name]:
            found.append(f"{where}: no {key} in {what} {name}")

    for pod in pods(objects):
        if pod.spec.get("enableServiceLinks") is not False:
            found.append(f"{pod.where}: a variable for each service, of which MLFLOW_PORT is one of MLflow's own")
        account = pod.spec.get("serviceAccountName")
        if account and account not in accounts:
            found.append(f"{pod.where}: no service account {account}")
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for volume in volumes.values():
            if "configMap" in volume and volume["configMap"] != SITE:
                need(pod.where, "config map", volume["configMap"]["name"])
            if "secret" in volume:
                need(pod.where, "secret", volume["secret"]["secretName"])
            if "persistentVolumeClaim" in volume:
                found.append(f"{pod.where}: no claim {volume['persistentVolumeClaim']['claimName']}")
        claims = {
            claim["metadata"]["name"]
            for entry in of_kind(objects, "StatefulSet")
            if name_of(entry) == pod.where
            for claim in entry["spec"].get("volumeClaimTemplates", [])
        }
        for container in pod.containers:
            where = f"{pod.where} {container['name']}"
            for entry in container.get("env", []):
                for kind, what in (("secretKeyRef", "secret"), ("configMapKeyRef", "config map")):
                    if reference := entry.get("valueFrom", {}).get(kind):
                        need(where, what, reference["name"], reference["key"])
            for entry in container.get("envFrom", []):
                for kind, what in (("secretRef", "secret"), ("configMapRef", "config map")):
                    if kind in entry:
                        need(where, what, entry[kind]["name"])
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            found += [f"{where}: no volume {name}" for name in sorted(mounted - {*volumes, *claims})]
            found += [
                f"{where}: no {word} in the image"
                for word in container.get("command", [])
                if word.startswith("/") and word not in scripts()
            ]
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for action in ("httpGet", "tcpSocket"):
                    port = container.get(probe, {}).get(action, {}).get("port")
                    if isinstance(port, str) and port not in ports:
                        found.append(f"{where}: no port {port} for {probe}")
    return found + _dangling_services(objects) + _dangling_bindings(objects) + _dangling_addresses(objects)


def _dangling_services(objects):
    found, made = [], list(pods(objects))
    for service in of_kind(objects, "Service"):
        behind = [pod for pod in made if matches({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        ports = {port["name"] for pod in behind for container in pod.containers for port in container.get("ports", [])}
        found += [
            f"{name_of(service)}: no pod has a port {port['targetPort']}"
            for port in service["spec"]["ports"]
            if port["targetPort"] not in ports
        ]
    services = {entry["metadata"]["name"]: entry for entry in of_kind(objects, "Service")}
    for entry in of_kind(objects, "StatefulSet"):
        if entry["spec"]["serviceName"] not in services:
            found.append(f"{name_of(entry)}: no service {entry['spec']['serviceName']}")
    for monitor in of_kind(objects, "ServiceMonitor"):
        ports = {
            port["name"]
            for service in services.values()
            if matches(monitor["spec"]["selector"], service["metadata"]["labels"])
            for port in service["spec"]["ports"]
        }
        found += [
            f"{name_of(monitor)}: no service has a port {endpoint['port']}"
            for endpoint in monitor["spec"]["endpoints"]
            if endpoint["port"] not in ports
        ]
    for budget in of_kind(objects, "PodDisruptionBudget"):
        if not any(matches(budget["spec"]["selector"], pod.labels) for pod in made):
            found.append(f"{name_of(budget)}: selects no pod")
    return found


def _dangling_bindings(objects):
    there = {name_of(entry) for entry in objects}
    return [
        f"{name_of(binding)}: no {needed}"
        for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding")
        for needed in (
            f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}",
            *(f"{subject['kind']}/{subject['name']}" for subject in binding["subjects"]),
        )
        if needed not in there
    ]


def _dangling_addresses(objects):
    """Return the addresses within the cluster that the settings name."""
    services = {
        f"{entry['metadata']['name']}.{entry['metadata']['namespace']}.svc:{port['port']}"
        for entry in of_kind(objects, "Service")
        for port in entry["spec"]["ports"]
    }
    return [
        f"segline-settings: no service at {value}"
        for value in find(objects, "ConfigMap", "segline-settings")["data"].values()
        if ".svc" in value and value.removeprefix("http://") not in services
    ]


def rights(objects, account):
    """Return the verbs that an account has for each resource."""
    found = {}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if account in [subject["name"] for subject in binding["subjects"]]:
            for rule in find(objects, binding["roleRef"]["kind"], binding["roleRef"]["name"])["rules"]:
                for resource in rule["resources"]:
                    found.setdefault(resource, set()).update(rule["verbs"])
    return found


def unused_rights(objects, permissions):
    """Return rights that no code uses, rights that code lacks, and tokens of accounts without rights."""
    found = [f"{name_of(entry)} holds everywhere" for entry in of_kind(objects, "ClusterRole", "ClusterRoleBinding")]
    for entry in of_kind(objects, "ServiceAccount"):
        account = entry["metadata"]["name"]
        has = rights(objects, account)
        wanted = permissions | KUBEFLOW if account == "segline-pipeline" else {}
        for resource in sorted({*has, *wanted}):
            verbs, used = has.get(resource, set()), set(wanted.get(resource, ()))
            found += [f"{account} may {verb} {resource}, which nothing does" for verb in sorted(verbs - used)]
            found += [f"{account} may not {verb} {resource}" for verb in sorted(used - verbs)]
        if entry["automountServiceAccountToken"] != bool(wanted):
            found.append(f"{account}: automountServiceAccountToken is {entry['automountServiceAccountToken']}")
    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            if {"configmaps", "secrets"} & set(rule["resources"]) and not rule.get("resourceNames"):
                found.append(f"{name_of(role)}: {', '.join(rule['resources'])} without names")
    # The head's account is made by KubeRay, for its autoscaler.
    found += [
        f"{pod.where}: has a token"
        for pod in pods(objects)
        if pod.where != "RayJob head" and pod.spec.get("automountServiceAccountToken") is not False
    ]
    return found


def matches(selector, labels):
    """Return whether a label selector matches; all kinds of expressions are covered."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        held = {"Exists": rule["key"] in labels, "In": labels.get(rule["key"]) in rule.get("values", [])}
        if not held[rule["operator"]]:
            return False
    return True
