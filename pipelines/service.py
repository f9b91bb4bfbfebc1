"""Kubeflow Pipelines over its API: what is uploaded, run and scheduled there. The only user of ``kfp.Client``."""

import hashlib
import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import kfp_server_api as api
import yaml
from kfp.client import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from urllib3.exceptions import HTTPError, ProtocolError

from pipelines.cron import check_cron
from segline.errors import SeglineError

EXPERIMENT = "segline"
POLL_S = 10.0
"""Between two questions for a run's state."""
CONNECT_S, ANSWER_S = 10.0, 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
PATIENCE_S = 15.0
"""How long a request is tried again."""
OUTAGE_S = 1800.0
"""How long a server may be away while a run is waited for."""
PAGE = 100
PASSING = (429, 500, 502, 503, 504)
"""Answers that may be better after a pause."""
MISSING, CONFLICT = 404, 409
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
LEAVE_RUNS = api.V2beta1DeletePropagationPolicy.ORPHAN
"""Without it Kubernetes ends the run in progress together with its schedule."""


class ServiceError(SeglineError):
    """Kubeflow cannot be reached, refuses, or a run that was waited for did not succeed."""

    exit_code = 7


class _PassingError(ServiceError):
    """No answer, or one that may be better after a pause; the request may have been carried out all the same."""


class _ConflictError(ServiceError):
    """Somebody else has just made the same."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run on Kubeflow; its state in small letters, and the address of its page."""

    run_id: str
    name: str
    state: str
    created: datetime | None
    link: str

    def __str__(self) -> str:
        return f"run {self.run_id}  {self.name}  {self.state}  {_when(self.created)}  {self.link}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recurring run on Kubeflow, and the address of its page."""

    schedule_id: str
    name: str
    cron: str
    enabled: bool
    created: datetime | None
    link: str

    def __str__(self) -> str:
        state = "enabled" if self.enabled else "disabled"
        return f"schedule {self.schedule_id}  {self.name}  {self.cron!r}  {state}  {_when(self.created)}  {self.link}"


class Service:
    """One installation of Kubeflow Pipelines.

    The variables ``KF_PIPELINES_...`` mean what they do to kfp: the address of the pages, who signs in, the
    experiment when none is named, and the experiment whatever is named.

    Args:
        endpoint: its address.
        namespace: of the user; read only where Kubeflow has several users.
        token_file: a file that holds the bearer token, read again for every request, as a pod's token changes;
            without one the file that ``KF_PIPELINES_SA_TOKEN_PATH`` names, if it names one.

    Raises:
        ServiceError: it does not answer, or what answers is not Kubeflow Pipelines.
    """

    def __init__(self, endpoint: str, namespace: str | None = None, token_file: Path | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        if not re.match(r"https?://[^/]", self.endpoint):
            raise ServiceError(
                f"--endpoint is {endpoint!r}, expected the address of Kubeflow Pipelines, http://host:port or https://host"
            )
        self._pages_at = os.environ.get("KF_PIPELINES_UI_ENDPOINT", self.endpoint).rstrip("/")
        self._client = _connect(self.endpoint, token_file)
        # All parts of the API share one client, which keeps the last response.
        self._transport = self._client.healthzs.healthz_service_get_healthz.__self__.api_client
        health = self._ask("tell its health", self._client.healthzs.healthz_service_get_healthz)
        if health.multi_user and not namespace:
            raise ServiceError(f"Kubeflow at {self.endpoint} has several users; name the namespace with --namespace")
        self.multi_user = bool(health.multi_user)
        self._of_user = {"namespace": namespace} if health.multi_user else {}

    def run(
        self,
        package: Path,
        arguments: dict[str, Any],
        *,
        name: str,
        experiment: str | None = None,
        service_account: str | None = None,
        caching: bool | None = None,
        wait: bool = False,
    ) -> str:
        """Run a compiled pipeline once.

        Args:
            package: the compiled pipeline; a content that Kubeflow has is not uploaded again.
            arguments: of the pipeline.
            name: of the run; need not be new.
            experiment: where the run is listed; made if it is not there.
            service_account: of Kubernetes, that the run has the rights of.
            caching: with False every stage runs, also one whose result is known; else each as it was compiled.
            wait: until the run is over, telling each change of its state.

        Returns:
            The run's id.

        Raises:
            ServiceError: Kubeflow refuses; or the run that was waited for did not succeed.
        """
        version = self._uploaded(package, caching)
        mark = f"Begun by segline, {uuid.uuid4().hex}."
        where = self._experiment(experiment)
        body = api.V2beta1Run(
            display_name=name,
            description=mark,
            experiment_id=where,
            pipeline_version_reference=version,
            runtime_config=api.V2beta1RuntimeConfig(parameters=arguments),
            service_account=service_account,
        )
        made = self._make(
            f"run {name!r}",
            lambda **limits: self._client.runs.run_service_create_run(body, **limits),
            lambda: next((run for run in self._runs(experiment_id=where) if run.description == mark), None),
        )
        _say(f"run {made.run_id} begun, {self._run_link(made.run_id)}")
        if wait:
            self._follow(made.run_id)
        return str(made.run_id)

    def schedule(
        self,
        package: Path,
        arguments: dict[str, Any],
        *,
        name: str,
        cron: str,
        experiment: str | None = None,
        service_account: str | None = None,
        caching: bool | None = None,
    ) -> Schedule:
        """Run a compiled pipeline again and again, one run at a time, without making up for what was missed.

        The same name and content leave everything as it is. Another content takes the place of the old: Kubeflow
        cannot change a schedule, so that a new one is made, disabled; then the old is disabled, the new enabled and
        the old deleted. There are never two enabled. A run in progress goes on. Whatever a kill leaves behind, the
        same command sets right.

        Args:
            package: the compiled pipeline.
            arguments: of the pipeline.
            name: of the schedule, one in the namespace.
            cron: six fields, see :func:`pipelines.cron.check_cron`.
            experiment: where its runs are listed.
            service_account: of Kubernetes, that its runs have the rights of.
            caching: as for :meth:`run`.

        Raises:
            CronError: the cron text is wrong; no request was made.
            ServiceError: Kubeflow refuses.
        """
        cron = check_cron(cron)
        body = api.V2beta1RecurringRun(
            display_name=name,
            pipeline_version_reference=self._uploaded(package, caching),
            experiment_id=self._experiment(experiment),
            runtime_config=api.V2beta1RuntimeConfig(parameters=arguments),
            service_account=service_account,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            mode=api.RecurringRunMode.DISABLE,
            max_concurrency="1",
            no_catchup=True,
        )
        content = json.dumps(self._transport.sanitize_for_serialization(body), sort_keys=True)
        body.description = f"Made by segline, content {_digest(content.encode())}."
        return self._put_in_place(body)

    def unschedule(self, name: str) -> int:
        """Delete every schedule of a name; a run in progress goes on. Returns how many there were."""
        found = self._named(name)
        for entry in found:
            self._delete(entry.recurring_run_id)
        _say(f"schedule {name!r} deleted" if found else f"there is no schedule {name!r}, nothing was changed")
        return len(found)

    def schedules(self) -> list[Schedule]:
        """The schedules in the namespace, the newest first."""
        return [self._schedule(entry) for entry in self._recurring_runs(sort_by="created_at desc")]

    def runs(self, limit: int = 20, experiment: str | None = None) -> list[Run]:
        """The last runs of an experiment, the newest first."""
        known = self._find_experiment(_experiment_name(experiment))
        found = self._runs(experiment_id=known.experiment_id, page_size=min(limit, PAGE)) if known else iter(())
        return [self._run(entry) for _, entry in zip(range(limit), found, strict=False)]

    def _put_in_place(self, body: Any) -> Schedule:
        """Make a schedule, unless it is there, and let it alone of its name be enabled and be there."""
        name = body.display_name

        def find() -> Any:
            fitting = [entry for entry in self._named(name) if entry.description == body.description]
            return max(fitting, key=_is_enabled, default=None)

        create = self._client.recurring_runs.recurring_run_service_create_recurring_run
        known = find()
        chosen = known or self._make(f"schedule {name!r}", lambda **limits: create(body, **limits), find)
        others = [entry for entry in self._named(name) if entry.recurring_run_id != chosen.recurring_run_id]
        if _is_enabled(chosen) and not others:
            _say(f"schedule {name!r} is as wanted, nothing was changed")
            return self._schedule(chosen)
        self._switch(name, chosen, others, is_new=known is None)
        for other in others:
            self._delete(other.recurring_run_id)
        cron = body.trigger.cron_schedule.cron
        _say(f"schedule {name!r} {'replaced' if others else 'enabled' if known else 'made'}, {cron!r}")
        return self._schedule(chosen, enabled=True)

    def _uploaded(self, package: Path, caching: bool | None) -> Any:
        """The version of the pipeline with this content, uploaded unless it is there."""
        content, pipeline_name = _read(package, caching)
        name = f"sha256-{_digest(content)}"
        pipeline = self._pipeline(pipeline_name)
        listing = self._client.pipelines.pipeline_service_list_pipeline_versions
        upload = self._client.pipeline_uploads.upload_pipeline_version

        def find() -> Any:
            wanted = {"pipeline_id": pipeline, "filter": _named(name)}
            return _first(name, self._pages("list versions", listing, "pipeline_versions", **wanted))

        def send(**limits: Any) -> Any:
            with TemporaryDirectory() as folder:
                file = Path(folder) / "pipeline.yaml"
                file.write_bytes(content)
                return upload(str(file), name=name, pipelineid=pipeline, **limits)

        version = find() or self._make(f"version {name} of pipeline {pipeline_name!r}", send, find)
        return api.V2beta1PipelineVersionReference(
            pipeline_id=pipeline, pipeline_version_id=version.pipeline_version_id
        )

    def _pipeline(self, name: str) -> str:
        """The id of the pipeline, made unless it is there."""
        service = self._client.pipelines
        body = api.V2beta1Pipeline(display_name=name, name=name, **self._of_user)

        def find() -> Any:
            wanted = {"filter": _named(name), **self._of_user}
            listing = service.pipeline_service_list_pipelines
            return _first(name, self._pages("list pipelines", listing, "pipelines", **wanted))

        create = service.pipeline_service_create_pipeline
        made = find() or self._make(f"pipeline {name!r}", lambda **limits: create(body, **limits), find)
        return str(made.pipeline_id)

    def _experiment(self, name: str | None) -> str:
        """The id of the experiment, made unless it is there."""
        name = _experiment_name(name)
        create = self._client.experiments.experiment_service_create_experiment
        body = api.V2beta1Experiment(display_name=name, **self._of_user)
        made = self._find_experiment(name) or self._make(
            f"experiment {name!r}", lambda **limits: create(body, **limits), lambda: self._find_experiment(name)
        )
        return str(made.experiment_id)

    def _find_experiment(self, name: str) -> Any:
        listing = self._client.experiments.experiment_service_list_experiments
        wanted = {"filter": _named(name), **self._of_user}
        return _first(name, self._pages("list experiments", listing, "experiments", **wanted))

    def _recurring_runs(self, **wanted: str) -> Iterator[Any]:
        listing = self._client.recurring_runs.recurring_run_service_list_recurring_runs
        return self._pages("list schedules", listing, "recurring_runs", **wanted, **self._of_user)

    def _named(self, name: str) -> list[Any]:
        """Every recurring run of the name, in any experiment; Kubeflow itself does not tell capitals apart."""
        return [entry for entry in self._recurring_runs(filter=_named(name)) if entry.display_name == name]

    def _runs(self, **wanted: Any) -> Iterator[Any]:
        listing = self._client.runs.run_service_list_runs
        return self._pages("list runs", listing, "runs", sort_by="created_at desc", **wanted)

    def _switch(self, name: str, chosen: Any, others: list[Any], *, is_new: bool) -> None:
        """Disable the others and enable the chosen one; if that fails, back to how it was."""
        stopped = []
        try:
            for other in others:
                if _is_enabled(other):
                    stopped.append(other.recurring_run_id)
                    self._set("disable", other.recurring_run_id)
            if not _is_enabled(chosen):
                self._set("enable", chosen.recurring_run_id)
        except BaseException as error:
            try:
                if is_new:
                    self._delete(chosen.recurring_run_id)
                elif not _is_enabled(chosen):
                    self._set("disable", chosen.recurring_run_id)
                for schedule_id in stopped[:1]:
                    self._set("enable", schedule_id)
            except ServiceError:
                raise ServiceError(
                    f"{error}; schedule {name!r} may be disabled now: give the same command again when Kubeflow answers"
                ) from None
            if isinstance(error, ServiceError):
                raise ServiceError(f"{error}; schedule {name!r} is as it was before") from None
            raise

    def _set(self, word: str, schedule_id: str) -> None:
        action = getattr(self._client.recurring_runs, f"recurring_run_service_{word}_recurring_run")
        self._ask(f"{word} schedule {schedule_id}", action, schedule_id)

    def _delete(self, schedule_id: str) -> None:
        delete = self._client.recurring_runs.recurring_run_service_delete_recurring_run
        what = f"delete schedule {schedule_id}"
        self._ask(what, delete, schedule_id, gone_is_good=True, propagation_policy=LEAVE_RUNS)

    def _follow(self, run_id: str) -> None:
        """Tell each state of a run until it is over.

        kfp's own ``wait_for_run_completion`` never ends when a run is cancelled.
        """
        get = self._client.runs.run_service_get_run
        state = ""
        try:
            while state not in ENDED:
                run = self._ask(f"show run {run_id}", get, run_id, patience=OUTAGE_S)
                if (run.state or "PENDING") != state:
                    state = run.state or "PENDING"
                    _say(f"run {run_id} {state.lower()}")
                if state not in ENDED:
                    time.sleep(POLL_S)
        except KeyboardInterrupt:
            _say(f"no longer waiting; run {run_id} goes on, {self._run_link(run_id)}")
            raise
        except ServiceError as error:
            raise ServiceError(f"{error}; run {run_id} itself goes on, {self._run_link(run_id)}") from None
        if state != "SUCCEEDED":
            raise ServiceError(f"run {run_id} {state.lower()}{_blamed(run)}; see {self._run_link(run_id)}")

    def _make(self, what: str, create: Callable[..., Any], find: Callable[[], Any]) -> Any:
        """Make something once: what got no answer is looked up before the request is sent again."""
        patience = _Patience(PATIENCE_S)
        while True:
            try:
                return self._once(f"make {what}", create)
            except _ConflictError:
                made = find()
                if made is None:
                    raise
                return made
            except _PassingError as error:
                patience.pause(error)
                made = find()
                if made is not None:
                    return made

    def _pages(self, what: str, listing: Callable[..., Any], key: str, **wanted: Any) -> Iterator[Any]:
        """All that a listing has; Kubeflow wants the same filter and order with every page."""
        wanted = {"page_size": PAGE, **wanted}
        token = ""
        while True:
            answer = self._ask(what, listing, page_token=token, **wanted)
            yield from getattr(answer, key) or []
            token = answer.next_page_token
            if not token:
                return

    def _ask(
        self, what: str, method: Callable[..., Any], *given: Any, patience: float | None = None, **wanted: Any
    ) -> Any:
        """A request that may be carried out twice, so that it is sent again after a pause."""
        trying = _Patience(PATIENCE_S if patience is None else patience)
        while True:
            try:
                return self._once(what, method, *given, **wanted)
            except _PassingError as error:
                trying.pause(error)

    def _once(
        self, what: str, method: Callable[..., Any], *given: Any, gone_is_good: bool = False, **wanted: Any
    ) -> Any:
        where = f"Kubeflow at {self.endpoint} did not {what}"
        try:
            answer = method(*given, _request_timeout=(CONNECT_S, ANSWER_S), **wanted)
        except api.ApiException as error:
            if error.status == MISSING and gone_is_good:
                return None
            said = f"{where}: {error.status} {_said(error)}"
            if error.status in (401, 403):
                hint = "see --namespace, and set SEGLINE_KUBEFLOW_TOKEN to a file with a token"
                raise ServiceError(f"{said}; {hint}") from None
            kinds = {CONFLICT: _ConflictError, **dict.fromkeys(PASSING, _PassingError)}
            raise kinds.get(error.status, ServiceError)(said) from None
        except HTTPError as error:
            raise _PassingError(f"{where}: {_reason(error)}; is the address right, and the service up?") from None
        except OSError as error:
            raise ServiceError(f"{where}: {error}; the file with the token has to be readable") from None
        response = self._transport.last_response
        form = response.getheader("content-type") or "something"
        if "json" not in form or not _is_object(response.data):
            raise ServiceError(
                f"{where}: got {form}, {response.data[:40]!r}, where an object in JSON was expected, perhaps a page "
                "to log in at; "
                "set SEGLINE_KUBEFLOW_TOKEN to a file with a token, or give the address of the API itself"
            )
        return answer

    def _run(self, entry: Any) -> Run:
        return Run(
            run_id=entry.run_id,
            name=entry.display_name,
            state=(entry.state or "PENDING").lower(),
            created=entry.created_at,
            link=self._run_link(entry.run_id),
        )

    def _schedule(self, entry: Any, enabled: bool | None = None) -> Schedule:
        cron = entry.trigger.cron_schedule if entry.trigger else None
        return Schedule(
            schedule_id=entry.recurring_run_id,
            name=entry.display_name,
            cron=(cron.cron if cron else None) or "",
            enabled=_is_enabled(entry) if enabled is None else enabled,
            created=entry.created_at,
            link=f"{self._pages_at}/#/recurringrun/details/{entry.recurring_run_id}",
        )

    def _run_link(self, run_id: str) -> str:
        return f"{self._pages_at}/#/runs/details/{run_id}"


class _Patience:
    """Pauses that grow, for as long as is allowed from the first failure on."""

    def __init__(self, allowed: float) -> None:
        self._allowed = allowed
        self._ends: float | None = None
        self._next = FIRST_PAUSE_S

    def pause(self, error: ServiceError) -> None:
        """Wait, or raise the error if the time is over."""
        now = time.monotonic()
        self._ends = now + self._allowed if self._ends is None else self._ends
        if now + self._next > self._ends:
            raise error
        time.sleep(self._next)
        self._next = min(2 * self._next, LONGEST_PAUSE_S)


def _connect(endpoint: str, token_file: Path | None) -> Any:
    """kfp's client, which asks for nothing yet: its own first question is repeated for 25 s, with tracebacks."""
    token = token_file or os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    if token:
        _check_token(Path(token))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return Client(
            host=endpoint,
            # Any name but the default's keeps the client silent; the requests here name the namespace themselves.
            namespace="-",
            credentials=ServiceAccountTokenVolumeCredentials(str(token)) if token else None,
        )


def _check_token(file: Path) -> None:
    """A token goes into a header, which takes one word of ASCII."""
    try:
        token = file.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise ServiceError(f"{file}: {error.strerror}; expected a file with the token for Kubeflow in it") from None
    if not re.fullmatch(r"[!-~]+", token):
        got = f"{len(token.split())} words, or signs beyond ASCII" if token else "nothing"
        raise ServiceError(f"{file}: got {got}, expected the token for Kubeflow, one word of ASCII, and nothing else")


def _read(package: Path, caching: bool | None) -> tuple[bytes, str]:
    """The content of a compiled pipeline, and the pipeline's name.

    Without caching every task is told so, in every group: kfp's ``enable_caching`` changes those of the root alone,
    not what is within an exit handler, and nothing at all of a version that was uploaded.
    """
    try:
        content = package.read_bytes()
        documents = list(yaml.safe_load_all(content))
        name = documents[0]["pipelineInfo"]["name"]
        groups = [documents[0]["root"], *documents[0].get("components", {}).values()]
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ServiceError(f"{package}: no compiled pipeline ({said}); make one with `pipelines compile`") from None
    if caching is False:
        for group in groups:
            for task in group.get("dag", {}).get("tasks", {}).values():
                task["cachingOptions"] = {}
        content = yaml.safe_dump_all(documents, sort_keys=True).encode()
    return content, str(name)


def _experiment_name(name: str | None) -> str:
    default = os.environ.get("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME") or EXPERIMENT
    return os.environ.get("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME") or name or default


def _named(name: str) -> str:
    """A filter; Kubeflow takes the percent and plus signs in it once more for those of an address."""
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    return quote(json.dumps({"predicates": [predicate]}))


def _first(name: str, entries: Iterator[Any]) -> Any:
    return next((entry for entry in entries if entry.display_name == name), None)


def _is_enabled(entry: Any) -> bool:
    return bool(entry.status == api.V2beta1RecurringRunStatus.ENABLED)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_object(text: str) -> bool:
    """Whether a text is an object in JSON; of anything else the API's client makes an empty answer."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _said(error: Any) -> str:
    """What Kubeflow's answer says, in one line."""
    try:
        body = json.loads(error.body)
        text = body.get("message") or body.get("error_message") or body.get("error") or error.reason
    except (ValueError, TypeError, AttributeError):
        text = error.reason
    return " ".join(str(text).split())[:500]


def _reason(error: HTTPError) -> str:
    """Why there was no answer, without the objects that urllib3 names."""
    cause = getattr(error, "reason", None) or error
    return re.sub(r"^\S*\(.*?\): ", "", str(cause.args[-1] if isinstance(cause, ProtocolError) else cause))


def _blamed(run: Any) -> str:
    """What a run says of its failure: its own error, and the tasks that failed."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [f"{task.display_name}{_told(task.error)}" for task in tasks if task.state == "FAILED"]
    return _told(run.error) + (f"; failed: {', '.join(failed)}" if failed else "")


def _told(status: Any) -> str:
    return f" ({' '.join(status.message.split())[:300]})" if status and status.message else ""


def _when(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else "-"


def _say(text: str) -> None:
    print(f"pipelines: {text}", flush=True)
