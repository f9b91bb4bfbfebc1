"""A server that kubectl takes for a cluster: it keeps objects, and has the rules that the tests of a cluster try.

It is no Kubernetes: it fills in and checks only what a test needs, so that the tests can be tried without one.
"""

import json
import re
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import yaml
from admission import amount
from fake_api import KINDS, asked_rights, discovery
from servers import listening

PATH = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[^/]+/v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)


class Denied(Exception):  # noqa: N818 - what the server answers
    """A request that is answered with 403."""


@dataclass
class FakeCluster:
    """The state of the server.

    Attributes:
        objects: The objects by plural, namespace and name.
        absent: The images that cannot be pulled.
        enforced: The rules that hold: "pods", "quota" and "rights".
        ends: A function of a pod that returns its phase and its log.
    """

    objects: dict = field(default_factory=dict)
    absent: tuple = ()
    enforced: set = field(default_factory=lambda: {"pods", "quota", "rights"})
    ends: object = lambda _: ("Succeeded", "")

    def of(self, plural, namespace=None):
        return [
            entry for (kind, there, _), entry in self.objects.items() if kind == plural and namespace in (None, there)
        ]

    def add(self, plural, entry, namespace="", *, dry=False):
        """Keep an object, and do what the controllers do."""
        entry = deepcopy(entry)
        metadata = entry.setdefault("metadata", {})
        metadata.setdefault("name", metadata.get("generateName", "made-") + "x")
        if namespace:
            metadata["namespace"] = namespace
        if plural == "pods":
            self._admit(entry, namespace)
        if plural == "services":
            self._admit_service(entry, namespace)
        if not dry:
            self.objects[plural, namespace, metadata["name"]] = entry
            self._act(plural, entry, namespace)
        return entry

    def _act(self, plural, entry, namespace):
        name = entry["metadata"]["name"]
        if plural == "namespaces":
            entry["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
            self.add("serviceaccounts", {"metadata": {"name": "default"}}, name)
        elif plural == "resourcequotas":
            entry["status"] = {"hard": entry["spec"]["hard"], "used": {"pods": "0"}}
        elif plural == "pods":
            phase, _ = self.ends(entry)
            entry["status"] = {
                "phase": phase,
                "podIP": f"10.1.0.{len(self.objects)}",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [self._container(c) for c in entry["spec"]["containers"]],
            }
        elif plural in ("deployments", "statefulsets"):
            count = entry["spec"].get("replicas", 1)
            for number in range(count):
                template = entry["spec"]["template"]
                pod = {"metadata": {"name": f"{name}-{number}", **template["metadata"]}, "spec": template["spec"]}
                self.add("pods", pod, namespace)
            entry["status"] = {"readyReplicas": count, "updatedReplicas": count}

    def _container(self, container):
        state = {"running": {}}
        if container["image"] in self.absent:
            state = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
        return {"name": container["name"], "image": container["image"], "ready": "running" in state, "state": state}

    def _admit(self, pod, namespace):
        for limits in self.of("limitranges", namespace):
            (rule,) = limits["spec"]["limits"]
            for container in pod["spec"]["containers"]:
                given = container.setdefault("resources", {})
                given["requests"] = rule["defaultRequest"] | given.get("requests", {})
                given["limits"] = rule["default"] | given.get("limits", {})
        labels = self.objects["namespaces", "", namespace]["metadata"].get("labels", {})
        if "pods" in self.enforced and labels.get("pod-security.kubernetes.io/enforce") == "restricted":
            self._check_safety(pod["spec"])
        if "quota" in self.enforced:
            for quota in self.of("resourcequotas", namespace):
                self._check_quota(quota["spec"]["hard"], pod["spec"])

    def _check_safety(self, spec):
        contexts = [container["securityContext"] for container in spec["containers"]]
        unsafe = spec.get("hostNetwork") or not spec["securityContext"]["runAsNonRoot"]
        unsafe = unsafe or any("hostPath" in volume for volume in spec.get("volumes", []))
        unsafe = unsafe or any(context.get("privileged") or context["allowPrivilegeEscalation"] for context in contexts)
        if unsafe:
            raise Denied('violates PodSecurity "restricted:latest"')

    def _check_quota(self, hard, spec):
        for name in ("cpu", "memory", "nvidia.com/gpu"):
            asked = sum(amount(container["resources"]["requests"].get(name, 0)) for container in spec["containers"])
            if asked > amount(hard[f"requests.{name}"]):
                raise Denied(f"exceeded quota: segline, requested: requests.{name}={asked:g}")

    def _admit_service(self, service, namespace):
        kind = service["spec"].get("type", "ClusterIP").lower()
        if "quota" in self.enforced and kind != "clusterip" and self.of("resourcequotas", namespace):
            raise Denied(f"exceeded quota: segline, requested: services.{kind}s=1")

    def may(self, user, asked):
        """Return whether the Roles let an account do what an access review names."""
        account, namespace = user.split(":")[-1], user.split(":")[-2]
        if "rights" not in self.enforced:
            return True
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return any(
            self._grants(rule, asked, resource)
            for binding in self.of("rolebindings", asked.get("namespace"))
            if (account, namespace) in [(one["name"], one["namespace"]) for one in binding["subjects"]]
            for rule in self.objects["roles", asked["namespace"], binding["roleRef"]["name"]]["rules"]
        )

    @staticmethod
    def _grants(rule, asked, resource):
        named = rule.get("resourceNames")
        return (
            asked["verb"] in rule["verbs"]
            and resource in rule["resources"]
            and asked.get("group", "") in rule["apiGroups"]
            and (not named or asked.get("name") in named)
        )


def merged(old, new):
    """Return an object after a patch; lists are replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    kept = {key: value for key, value in old.items() if key not in new}
    return kept | {key: merged(old.get(key), value) for key, value in new.items() if value is not None}


@contextmanager
def fake_cluster(folder):
    """Run the server, and yield its state and the path of a kubeconfig that names it."""
    fake = FakeCluster()
    with listening(make_handler(fake), None) as port:
        entry = {"name": "fake"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [entry | {"cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [entry | {"user": {"token": "none"}}],
            "contexts": [entry | {"context": {"cluster": "fake", "user": "fake"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        fake.add("namespaces", {"metadata": {"name": "kube-system"}})
        yield fake, path


# Longer than 40 lines: http.server makes a handler itself, so its class finds the cluster in this function.
def make_handler(fake):
    """Return the handler of requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_any(self):
            url = urlsplit(self.path)
            self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
            text = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if (answer := discovery(url.path)) is not None:
                return self.send(200, answer)
            match = PATH.fullmatch(url.path)
            if not match:
                return self.fail(404, f"no {url.path}")
            try:
                if match["plural"] == "selfsubjectaccessreviews":
                    return self.answer_review(asked_rights(text))
                return getattr(self, f"answer_{self.command}")(match, yaml.safe_load(text) if text else {})
            except Denied as error:
                return self.fail(403, str(error))

        def answer_GET(self, match, _):  # noqa: N802
            plural, namespace, name = match["plural"], match["namespace"] or "", match["name"]
            if name and (plural, namespace, name) not in fake.objects:
                return self.fail(404, f'{plural} "{name}" not found')
            if match["part"] == "log":
                return self.send(200, fake.ends(fake.objects[plural, namespace, name])[1])
            if name:
                return self.send(200, self.whole(match, fake.objects[plural, namespace, name]))
            selected = [self.whole(match, entry) for entry in fake.of(plural, namespace or None) if self.fits(entry)]
            return self.send(200, {"kind": "List", "apiVersion": match["version"], "metadata": {}, "items": selected})

        def fits(self, entry):
            labels = entry["metadata"].get("labels", {})
            pairs = filter(None, self.query.get("labelSelector", "").split(","))
            named = self.query.get("fieldSelector", "").removeprefix("metadata.name=")
            held = all(labels.get(pair.split("=")[0]) == pair.split("=")[1] for pair in pairs)
            return held and named in ("", entry["metadata"]["name"])

        def answer_review(self, asked):
            allowed = fake.may(self.headers["Impersonate-User"], asked)
            kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
            return self.send(201, kind | {"status": {"allowed": allowed}})

        def answer_POST(self, match, body):  # noqa: N802
            namespace = match["namespace"] or ""
            by_a_run = match["plural"] == "rayjobs" and self.headers["Impersonate-User"]
            if by_a_run and fake.of("validatingadmissionpolicies") and '"secret":' in json.dumps(body):
                raise Denied("a pod of this RayJob has a volume that is no emptyDir")
            made = fake.add(match["plural"], body, namespace, dry="dryRun" in self.query)
            return self.send(201, self.whole(match, made))

        def answer_PATCH(self, match, body):  # noqa: N802
            key = (match["plural"], match["namespace"] or "", match["name"])
            made = merged(fake.objects.get(key, {}), body)
            return self.send(200, self.whole(match, fake.add(key[0], made, key[1], dry="dryRun" in self.query)))

        def answer_DELETE(self, match, _):  # noqa: N802
            key = (match["plural"], match["namespace"] or "", match["name"])
            gone = fake.objects.pop(key, None)
            if key[0] == "namespaces":
                for inside in [other for other in fake.objects if other[1] == key[2]]:
                    del fake.objects[inside]
            return self.send(200, self.whole(match, gone)) if gone else self.fail(404, f'{key[0]} "{key[2]}" not found')

        def whole(self, match, entry):
            kind = next(kind for kind, plural in KINDS[match["version"]].items() if plural == match["plural"])
            return {"apiVersion": match["version"], "kind": kind, **entry}

        def fail(self, status, message):
            reason = {403: "Forbidden", 404: "NotFound"}[status]
            body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
            self.send(status, body | {"reason": reason, "code": status})

        def send(self, status, content):
            is_text = isinstance(content, str)
            body = (content if is_text else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = do_any  # noqa: N815 - http.server's own names

        def log_message(self, *_):
            pass

    return Handler
