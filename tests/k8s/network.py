"""Whether network policies allow a connection, decided as Kubernetes does: by all policies that select either end.

https://kubernetes.io/docs/concepts/services-networking/network-policies/ says how policies add up.
"""

import json
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from kubeflow_facts import ARTIFACT_VIEWER, OPERATORS
from manifests import PIPELINE, find, matches, name_of, of_kind, pods


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod of this namespace or of another one, or an address."""

    labels: tuple = ()
    namespace: str = "segline"
    address: str = ""


def peer(labels, namespace="segline"):
    return Peer(tuple(sorted(labels.items())), namespace)


MLFLOW = peer({"app.kubernetes.io/name": "mlflow"})
MAINTENANCE = peer({"app.kubernetes.io/name": "mlflow-maintenance"})
HEAD = peer({"app.kubernetes.io/component": "ray", "ray.io/node-type": "head"})
WORKER = peer({"app.kubernetes.io/component": "ray", "ray.io/node-type": "worker"})
SUBMITTER = peer({"app.kubernetes.io/component": "ray"})
RUN = peer(PIPELINE)
STRANGER = peer({"app": "stranger"})
OPERATOR = peer(OPERATORS["Helm"], "operators")
PROMETHEUS = peer({"app": "prometheus"}, "monitoring")
DNS = peer({"k8s-app": "kube-dns"}, "kube-system")
ELSEWHERE = peer({"app.kubernetes.io/component": "ray"}, "elsewhere")
KUBERNETES = Peer(address="10.96.0.1")
NODE_DNS = Peer(address="169.254.20.10")
INTERNET = Peer(address="203.0.113.7")


def allowed(objects, source, target, port, protocol="TCP"):
    """Return whether the policies allow a connection to a port of a pod, out of the source and into the target.

    A namespace among the objects has the labels that are there; any other only the one that Kubernetes sets.
    """
    return all(
        end.address or _open(objects, way, end, other, {"port": port, "protocol": protocol})
        for way, end, other in (("egress", source, target), ("ingress", target, source))
    )


def _open(objects, way, end, other, port):
    policies = [
        entry
        for entry in of_kind(objects, "NetworkPolicy")
        if entry["metadata"]["namespace"] == end.namespace
        and way.capitalize() in entry["spec"]["policyTypes"]
        and matches(entry["spec"]["podSelector"], dict(end.labels))
    ]
    return not policies or any(
        _holds(objects, policy, rule, other, port) for policy in policies for rule in policy["spec"].get(way, [])
    )


def _holds(objects, policy, rule, other, port):
    """Decide by one rule; without ``ports`` it is for all of them, without ``to`` and ``from`` for all peers."""
    ports = [{"protocol": "TCP"} | entry for entry in rule.get("ports", [])]
    if ports and port not in ports:
        return False
    peers = rule.get("to", rule.get("from", []))
    return not peers or any(_is(objects, policy, entry, other) for entry in peers)


def _is(objects, policy, entry, other):
    if "ipBlock" in entry:
        return bool(other.address) and ip_address(other.address) in ip_network(entry["ipBlock"]["cidr"])
    if other.address:
        return False
    if "namespaceSelector" in entry:
        if not matches(entry["namespaceSelector"], _namespace_labels(objects, other.namespace)):
            return False
    elif other.namespace != policy["metadata"]["namespace"]:
        return False
    return matches(entry.get("podSelector", {}), dict(other.labels))


def _namespace_labels(objects, name):
    labels = {"kubernetes.io/metadata.name": name}
    if name in [entry["metadata"]["name"] for entry in of_kind(objects, "Namespace")]:
        labels |= find(objects, "Namespace", name)["metadata"].get("labels", {})
    return labels


def aimless(objects):
    """Return the policies that select no pod, and do not say whose pods they are for."""
    made = [pod.labels for pod in pods(objects)]
    found = []
    for entry in of_kind(objects, "NetworkPolicy"):
        explained = "kubernetes.io/description" in entry["metadata"].get("annotations", {})
        known = [*made, PIPELINE, ARTIFACT_VIEWER] if explained else made
        if not any(matches(entry["spec"]["podSelector"], labels) for labels in known):
            found.append(f"{name_of(entry)}: selects no pod")
        found += [
            f"{name_of(entry)}: {json.dumps(other)} is no pod"
            for way, side in (("ingress", "from"), ("egress", "to"))
            for rule in entry["spec"].get(way, [])
            for other in rule.get(side, [])
            if "podSelector" in other
            and "namespaceSelector" not in other
            and not any(matches(other["podSelector"], labels) for labels in [*made, PIPELINE])
        ]
    return found
