"""A server in memory of Kubeflow Pipelines' API v2beta1, on a free port, which refuses every unpublished request.

It reads the published API from kfp_server_api: paths, methods, names in the query, the models of bodies and answers.
The rest follows the API server's code: a filter is decoded twice and ignores case, a page's token belongs to one filter
and order, names of pipelines and experiments are unique, int64 is text, empty values are left out, deleting a schedule
ends its runs unless they are orphaned, and several users need a namespace.
"""

import base64
import inspect
import itertools
import json
import re
import socket
import struct
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler
from threading import Lock
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import kfp_server_api
import yaml
from kfp_server_api import models
from servers import listening

TEXT = {"STRING": str, "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool}
LARGEST_PAGE = 200


@dataclass(frozen=True)
class Operation:
    """One call of the API, as kfp_server_api publishes it."""

    name: str
    method: str
    path: str
    query: frozenset[str]
    body: str | None
    file: str | None
    answer: str

    def match(self, path):
        pattern = re.sub(r"\\\{[^}]*\\\}", "([^/:]+)", re.escape(self.path))
        return re.fullmatch(pattern, path)


def published():
    """Yield every operation, read from the source of the generated client."""
    for name in dir(kfp_server_api):
        if not name.endswith("ServiceApi"):
            continue
        for call, function in inspect.getmembers(getattr(kfp_server_api, name), inspect.isfunction):
            source = inspect.getsource(function)
            found = re.search(r"'(/apis/v2beta1[^']*)', '([A-Z]+)'", source)
            if not (call.endswith("_with_http_info") and found):
                continue
            given = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
            file = re.search(r"local_var_files\['(\w+)'\]", source)
            yield Operation(
                name=call.removesuffix("_with_http_info"),
                method=found[2],
                path=found[1],
                query=frozenset(re.findall(r"query_params.append\(\('(\w+)'", source)),
                body=re.search(rf":type {given[1]}: (\w+)", source)[1] if given else None,
                file=file and file[1],
                answer=re.search(r"response_type='([^']*)'", source)[1],
            )


OPERATIONS = tuple(published())


def faults(value, kind, where="body"):
    """Return each part of a JSON value that is not of its published type."""
    simple = {"str": str, "bool": bool, "int": int, "object": object}
    if kind in simple:
        good = isinstance(value, simple[kind]) and not (kind == "int" and isinstance(value, bool))
        return [] if good else [f"{where}: {value!r} is no {kind}"]
    if kind == "datetime":
        try:
            return [] if datetime.fromisoformat(value).tzinfo else [f"{where}: {value!r} has no zone"]
        except (TypeError, ValueError):
            return [f"{where}: {value!r} is no moment"]
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [fault for index, part in enumerate(value) for fault in faults(part, found[1], f"{where}[{index}]")]
    if not kind.startswith("dict("):
        model = getattr(models, kind)
        if hasattr(model, "allowable_values"):
            return (
                [] if value in model.allowable_values else [f"{where}: {value!r} is none of {model.allowable_values}"]
            )
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    if found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        return [fault for key, part in value.items() for fault in faults(part, found[1], f"{where}.{key}")]
    kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    unknown = [f"{where}.{key}: not in {kind}" for key in value if key not in kinds]
    known = [fault for key in value if key in kinds for fault in faults(value[key], kinds[key], f"{where}.{key}")]
    return unknown + known


@dataclass
class Fault:
    """A fault of one request of an operation.

    Attributes:
        operation: The name in kfp_server_api, without the service.
        status: The status of the answer; 0 for a connection that breaks.
        done: Whether the request is carried out all the same.
        then: A function that is called afterwards.
    """

    operation: str
    status: int = 0
    done: bool = False
    then: Callable[[], None] = lambda: None


class RefusalError(Exception):
    """An answer with an error."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


@dataclass
class Kubeflow:
    """The state of the server, and the requests that it got.

    Attributes:
        wrong: Each part of a request that was not as published; the end of a test checks that there is none.
        asked: The operations of the requests.
        sent: The operation and body of each request with a body.
        enabled: The number of enabled schedules after each request.
        down: Whether no request is answered.
        killed: The runs that ended because their schedule was deleted.
    """

    multi_user: bool = False
    token: str = ""
    page: int = LARGEST_PAGE
    experiments: dict = field(default_factory=dict)
    pipelines: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    runs: dict = field(default_factory=dict)
    recurring_runs: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    enabled: list = field(default_factory=list)
    killed: list = field(default_factory=list)
    tokens: list = field(default_factory=list)
    states: dict = field(default_factory=dict)
    down: bool = False
    page_to_log_in: bool = False
    address: str = ""
    _numbers: itertools.count = field(default_factory=lambda: itertools.count(1))

    def new(self, kind):
        """Return a new id, and a time later than all before."""
        number = next(self._numbers)
        created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
        return f"{kind}-{number:04d}", created.strftime("%Y-%m-%dT%H:%M:%SZ")

    def answer(self, operation, values, query, body):
        """Carry a request out."""
        name = operation.name.split("_service_")[-1]
        action = getattr(self, name, None)
        if action is None:
            raise RefusalError(501, f"{name} is published, but this server lacks it")
        return action(*values, **query) if body is None else action(*values, body, **query)

    def get_healthz(self):
        return {"multi_user": True} if self.multi_user else {}

    def _in_namespace(self, namespace):
        if self.multi_user and not namespace:
            raise RefusalError(400, "a namespace cannot be empty in multi-user mode")
        return namespace if self.multi_user else ""

    def _listed(self, key, entries, page_token="", page_size="", sort_by="", filter=""):  # noqa: A002 - the API's name
        criteria = [sort_by, filter]
        begin = 0
        if page_token:
            begin, *given = json.loads(base64.b64decode(page_token))
            if given != criteria:
                raise RefusalError(400, "page token does not match the supplied sort by and/or filtering criteria")
        if filter:
            entries = [entry for entry in entries if passes(unquote_plus(filter), entry)]
        order, _, direction = sort_by.partition(" ")
        if direction not in ("", "asc", "desc") or order not in ("", "created_at", "display_name"):
            raise RefusalError(400, f"cannot sort by {sort_by}")
        entries = sorted(entries, key=lambda entry: entry[order or "created_at"], reverse=direction == "desc")
        end = begin + min(int(page_size or 20), self.page)
        listed = {key: entries[begin:end], "total_size": len(entries)}
        if end < len(entries):
            listed["next_page_token"] = base64.b64encode(json.dumps([end, *criteria]).encode()).decode()
        return {name: value for name, value in listed.items() if value}

    def list_experiments(self, namespace="", **how):
        namespace = self._in_namespace(namespace)
        found = [entry for entry in self.experiments.values() if entry.get("namespace", "") == namespace]
        return self._listed("experiments", found, **how)

    def create_experiment(self, body):
        namespace = self._in_namespace(body.get("namespace", ""))
        self._unique(self.experiments, body, namespace)
        name, created = self.new("experiment")
        entry = {**body, "experiment_id": name, "created_at": created, "storage_state": "AVAILABLE"}
        self.experiments[name] = entry
        return entry

    def _unique(self, table, body, namespace):
        if not body.get("display_name"):
            raise RefusalError(400, "the name is empty")
        for entry in table.values():
            if (entry["display_name"], entry.get("namespace", "")) == (body["display_name"], namespace):
                raise RefusalError(409, f"already exist: {body['display_name']}")

    def list_pipelines(self, namespace="", **how):
        found = [entry for entry in self.pipelines.values() if entry.get("namespace", "") == namespace]
        return self._listed("pipelines", found, **how)

    def create_pipeline(self, body):
        self._unique(self.pipelines, body, body.get("namespace", ""))
        name, created = self.new("pipeline")
        self.pipelines[name] = {**body, "pipeline_id": name, "created_at": created}
        return self.pipelines[name]

    def list_pipeline_versions(self, pipeline_id, **how):
        found = [entry for entry in self.versions.values() if entry["pipeline_id"] == pipeline_id]
        return self._listed("pipeline_versions", found, **how)

    def upload_pipeline_version(self, content, pipelineid, name, **_):
        if pipelineid not in self.pipelines:
            raise RefusalError(400, "Failed to create a pipeline version")
        for entry in self.versions.values():
            if (entry["pipeline_id"], entry["name"]) == (pipelineid, name):
                raise RefusalError(409, "Failed to create a pipeline version")
        identity, created = self.new("version")
        documents = list(yaml.load_all(content, yaml.CSafeLoader))
        spec = (
            documents[0]
            if len(documents) == 1
            else dict(zip(["pipeline_spec", "platform_spec"], documents, strict=True))
        )
        entry = {"pipeline_id": pipelineid, "pipeline_version_id": identity, "name": name, "display_name": name}
        self.versions[identity] = {**entry, "created_at": created, "pipeline_spec": spec}
        self.files[identity] = content
        return self.versions[identity]

    def _checked(self, body):
        if body.get("experiment_id") not in self.experiments:
            raise RefusalError(404, f"experiment {body.get('experiment_id')} not found")
        if ("pipeline_spec" in body) == ("pipeline_version_reference" in body):
            raise RefusalError(400, "expected one source of the pipeline")
        reference = body["pipeline_version_reference"]
        version = self.versions.get(reference.get("pipeline_version_id"))
        if version is None or version["pipeline_id"] != reference.get("pipeline_id"):
            raise RefusalError(404, "pipeline version not found")
        spec = version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"])
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body.get("runtime_config", {}).get("parameters", {})
        for name, value in given.items():
            if name not in known:
                raise RefusalError(400, f"unknown runtime parameter {name}")
            if not isinstance(value, TEXT[known[name]["parameterType"]]):
                raise RefusalError(400, f"input parameter {name} requires type {known[name]['parameterType']}")

    def create_run(self, body, **_):
        self._checked(body)
        name, created = self.new("run")
        self.runs[name] = {**body, "run_id": name, "created_at": created, "state": "PENDING"}
        return self.runs[name]

    def get_run(self, run_id, **_):
        if run_id not in self.runs:
            raise RefusalError(404, f"run {run_id} not found")
        coming = self.states.get(self.runs[run_id]["display_name"])
        if coming:
            change = coming.pop(0)
            change() if callable(change) else self.runs[run_id].update(change)
        return self.runs[run_id]

    def list_runs(self, experiment_id="", namespace="", **how):
        if not experiment_id:
            self._in_namespace(namespace)
        found = [entry for entry in self.runs.values() if experiment_id in ("", entry["experiment_id"])]
        return self._listed("runs", found, **how)

    def list_recurring_runs(self, experiment_id="", namespace="", **how):
        namespace = "" if experiment_id else self._in_namespace(namespace)
        entries = self.recurring_runs.values()
        found = [entry for entry in entries if namespace in ("", entry.get("namespace", ""))]
        return self._listed("recurringRuns", found, **how)

    def create_recurring_run(self, body):
        self._checked(body)
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise RefusalError(400, "The max concurrency of the recurring run is out of range")
        identity, created = self.new("recurring")
        status = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
        entry = {**body, "recurring_run_id": identity, "created_at": created, "updated_at": created, "status": status}
        namespace = self.experiments[body["experiment_id"]].get("namespace", "")
        self.recurring_runs[identity] = {**entry, "namespace": namespace} if namespace else entry
        return self.recurring_runs[identity]

    def _recurring_run(self, identity):
        if identity not in self.recurring_runs:
            raise RefusalError(404, f"recurring run {identity} not found")
        return self.recurring_runs[identity]

    def enable_recurring_run(self, identity):
        self._recurring_run(identity).update(status="ENABLED", mode="ENABLE")
        return {}

    def disable_recurring_run(self, identity):
        self._recurring_run(identity).update(status="DISABLED", mode="DISABLE")
        return {}

    def delete_recurring_run(self, identity, propagation_policy=""):
        del self.recurring_runs[self._recurring_run(identity)["recurring_run_id"]]
        if propagation_policy != "ORPHAN":
            self.killed += [run["run_id"] for run in self.runs.values() if run.get("recurring_run_id") == identity]
        return {}


def passes(text, entry):
    """Return whether an entry passes a filter, which must be a published one."""
    criteria = json.loads(text)
    wrong = faults(criteria, "V2beta1Filter", "filter")
    if wrong:
        raise RefusalError(400, "; ".join(wrong))
    for predicate in criteria["predicates"]:
        assert predicate["operation"] == "EQUALS"
        if entry[predicate["key"]].lower() != predicate["string_value"].lower():
            return False
    return True


@contextmanager
def kubeflow(**how):
    """Serve a :class:`Kubeflow` and yield it; at the end no request may have been wrong."""
    held = Kubeflow(**how)
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_any(self):
            with lock:
                self.serve()

        def serve(self):
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if held.down:
                return self.broken()
            address = urlsplit(self.path)
            path = unquote(address.path)
            matches = [(one, one.match(path)) for one in OPERATIONS if one.method == self.command]
            # `/names/{name}` and such are more exact than `/{pipeline_id}`.
            found = sorted(((one, match) for one, match in matches if match), key=lambda pair: pair[0].path.count("{"))
            if not found:
                held.wrong.append(f"{self.command} {path} is not published")
                return self.reply(404, {"message": "Not Found", "code": 5})
            operation, match = found[0]
            held.asked.append(operation.name.split("_service_")[-1])
            fault = next((one for one in held.faults if one.operation == held.asked[-1]), None)
            if fault:
                held.faults.remove(fault)
            status, answer = 0, None
            if not fault or fault.done:
                status, answer = self.carried_out(operation, match.groups(), address.query, content)
            held.enabled.append(sum(entry["status"] == "ENABLED" for entry in held.recurring_runs.values()))
            if fault:
                fault.then()
                if not fault.status:
                    return self.broken()
                status, answer = fault.status, {"message": "as wanted", "code": 13, "details": []}
            return self.reply(status, answer)

        def carried_out(self, operation, values, query, content):
            held.tokens.append(self.headers["Authorization"])
            if held.token and held.tokens[-1] != f"Bearer {held.token}":
                return 401, {"message": "Request header error: there is no user identity header.", "code": 16}
            asked = dict(parse_qsl(query, keep_blank_values=True))
            wrong = [f"query {name}" for name in asked if name not in operation.query]
            body = None
            if operation.body:
                body = json.loads(content or b"null")
                wrong += faults(body, operation.body)
                held.sent.append((held.asked[-1], body))
            elif operation.file:
                body = uploaded(self.headers["Content-Type"], content, operation.file)
            elif content:
                wrong.append(f"{held.asked[-1]} has no body, got {content!r}")
            if wrong:
                held.wrong += wrong
                return 400, {"message": "; ".join(wrong), "code": 3, "details": []}
            try:
                answer = held.answer(operation, values, asked, body)
            except RefusalError as refused:
                return refused.status, {"message": str(refused), "code": 3, "details": []}
            held.wrong += faults(answer, operation.answer, "answer")
            return 200, answer

        def reply(self, status, answer):
            form, body = "application/json", json.dumps(answer).encode()
            if held.page_to_log_in:
                form, body = "text/html; charset=utf-8", b"<html>Log in to Your Account</html>"
            self.send_response(status)
            self.send_header("Content-Type", form)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def broken(self):
            """Reset the connection, as if the server was killed."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = do_any  # noqa: N815 - http.server's own names

        def log_message(self, *_):
            pass

    with listening(Handler) as port:
        held.address = f"http://127.0.0.1:{port}"
        yield held
        assert not held.wrong, held.wrong


def uploaded(kind, content, name):
    """Return the content of the file in a form."""
    form = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + content)
    (part,) = [part for part in form.get_payload() if part.get_param("name", header="content-disposition") == name]
    return part.get_payload(decode=True)
