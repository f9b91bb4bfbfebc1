"""Whether an account may do something at the Kubernetes API, decided as RBAC does: by the roles that are bound to it.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/ has the rules; `kubectl auth can-i` asks a server.
"""

from manifests import of_kind


def can(objects, account, verb, group, resource, name="", namespace="segline"):
    """Return whether an account of the namespace segline may do this; an empty name stands for any or none."""
    return any(
        _grants(rule, verb, group, resource, name)
        for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding")
        if binding["kind"] == "ClusterRoleBinding" or binding["metadata"]["namespace"] == namespace
        if {"kind": "ServiceAccount", "name": account, "namespace": "segline"} in binding["subjects"]
        for role in of_kind(objects, binding["roleRef"]["kind"])
        if role["metadata"]["name"] == binding["roleRef"]["name"]
        if role["metadata"].get("namespace") in (None, namespace)
        for rule in role["rules"]
    )


def _grants(rule, verb, group, resource, name):
    asked = {"verbs": verb, "apiGroups": group, "resources": resource}
    held = all({value, "*"} & {*rule[key]} for key, value in asked.items())
    return held and (not rule.get("resourceNames") or name in rule["resourceNames"])
