"""What kubectl asks before it sends a request: the kinds that there are, their schemas, and who may do what."""

KINDS = {
    "v1": {
        "Namespace": "namespaces",
        "Pod": "pods",
        "Secret": "secrets",
        "ConfigMap": "configmaps",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
        "ResourceQuota": "resourcequotas",
        "LimitRange": "limitranges",
        "Event": "events",
        "PersistentVolumeClaim": "persistentvolumeclaims",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "batch/v1": {"CronJob": "cronjobs", "Job": "jobs"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
    "apiextensions.k8s.io/v1": {"CustomResourceDefinition": "customresourcedefinitions"},
    "admissionregistration.k8s.io/v1": {
        "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
        "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    },
    "ray.io/v1": {"RayJob": "rayjobs"},
    "argoproj.io/v1": {"WorkflowTaskResult": "workflowtaskresults", "Workflow": "workflows"},
    "authorization.k8s.io/v1": {"SelfSubjectAccessReview": "selfsubjectaccessreviews"},
}
GLOBAL = (
    "Namespace",
    "CustomResourceDefinition",
    "SelfSubjectAccessReview",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)


def discovery(path):
    """Return the answer to a question about the kinds that there are, or None."""
    groups = [version.split("/") for version in KINDS if "/" in version]
    versions = {group: {"groupVersion": f"{group}/{version}", "version": version} for group, version in groups}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.4"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        made = [{"name": group, "versions": [entry], "preferredVersion": entry} for group, entry in versions.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": made}
    if path == "/openapi/v3":
        paths = {f"api{'s' if '/' in one else ''}/{one}": {"serverRelativeURL": f"/schema/{one}"} for one in KINDS}
        return {"paths": paths}
    if path.startswith("/schema/"):
        return _schema(path.removeprefix("/schema/"))
    if version in KINDS:
        verbs = ["get", "list", "create", "patch", "delete"]
        made = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind not in GLOBAL,
                "verbs": verbs,
            }
            for kind, plural in KINDS[version].items()
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": made}
    return None


def _schema(version):
    """Return so much of a schema that kubectl leaves the checks to the server."""
    group, _, number = version.rpartition("/")
    checked = [{"name": "fieldValidation", "in": "query"}, {"name": "dryRun", "in": "query"}]
    paths = {
        f"/{plural}/{{name}}": {
            "patch": {
                "parameters": checked,
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for kind, plural in KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {}, "paths": paths, "components": {"schemas": {}}}


def _fields(message):
    """Return the fields of a message of Protocol Buffers, all of which are texts or messages here, by number."""
    found, at = {}, 0
    while at < len(message):
        number, length, at, shift = message[at] >> 3, 0, at + 1, 0
        while True:
            length |= (message[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 128:
                break
        found[number] = message[at : at + length]
        at += length
    return found


def asked_rights(body):
    """Return what an access review asks, of kubectl's bytes (k8s.io/api/authorization/v1/generated.proto)."""
    attributes = _fields(_fields(_fields(_fields(body[4:])[2])[2])[1])
    names = ("", "namespace", "verb", "group", "version", "resource", "subresource", "name")
    return {names[number]: value.decode() for number, value in attributes.items() if number < len(names)}
