"""Kubeflow Pipelines over its API: upload, run and schedule the pipeline.

Requests are methods of ``kfp.Client``. Where one of its generated parts is used, a comment says what the method lacks.
"""

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import kfp_server_api as api

from pipelines.client import PAGE, ServiceError, connect, find_named, make_once, pages, patiently
from pipelines.cron import check_cron
from pipelines.training import NAME

EXPERIMENT = "segline"
POLL_S = 10.0
OUTAGE_S = 1800.0
"""How long a server may be away while a run is waited for."""
NOT_FOUND = 404
FINISHED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class Service:
    """One installation of Kubeflow Pipelines.

    The variables ``KF_PIPELINES_...`` mean what they do to kfp: the address of the pages, who signs in, and the
    experiment, where ``KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME`` goes before ``KF_PIPELINES_DEFAULT_EXPERIMENT_NAME``.

    Args:
        endpoint: The address of the API.
        namespace: The user's namespace; it is read only where Kubeflow has several users.
        token_file: A file that holds the bearer token, read anew for each request; the default is the file that
            ``KF_PIPELINES_SA_TOKEN_PATH`` names, if it names one.

    Attributes:
        multi_user: Whether Kubeflow has several users.

    Raises:
        ServiceError: It does not answer, or what answers is not Kubeflow Pipelines.
    """

    def __init__(self, endpoint: str, namespace: str | None = None, token_file: Path | None = None) -> None:
        endpoint = endpoint.rstrip("/")
        if not re.match(r"https?://[^/]", endpoint):
            raise ServiceError(
                f"--endpoint: got {endpoint!r}, expected the address of Kubeflow Pipelines, http://host:port or "
                "https://host"
            )
        self._pages_url = os.environ.get("KF_PIPELINES_UI_ENDPOINT", endpoint).rstrip("/")
        self._client = connect(endpoint, token_file)
        # get_kfp_healthz() asks again and again for 25 s, and logs a traceback each time.
        self.multi_user = bool(self._client.healthzs.healthz_service_get_healthz().multi_user)
        if self.multi_user and not namespace:
            raise ServiceError(f"Kubeflow at {endpoint} has several users; name the namespace with --namespace")
        self._namespace = namespace if self.multi_user else None

    def run(
        self,
        package: Path,
        arguments: dict[str, Any],
        *,
        name: str,
        service_account: str | None = None,
        wait: bool = False,
    ) -> str:
        """Run a compiled pipeline once, and return the run's id.

        Args:
            package: The compiled pipeline; a content that Kubeflow already has is not uploaded again.
            arguments: The pipeline's arguments.
            name: The run's name, which need not be new.
            service_account: The Kubernetes account whose rights the run has.
            wait: Return when the run has finished, and print each change of its state.

        Raises:
            ServiceError: Kubeflow refuses, or the run that was waited for did not succeed.
        """
        # run_pipeline() takes no description, by which a run is found again if the answer to its creation is lost.
        body = api.V2beta1Run(
            display_name=name,
            description=f"Started by segline, {uuid.uuid4().hex}.",
            experiment_id=self._experiment_id(),
            pipeline_version_reference=self._upload(package),
            runtime_config=api.V2beta1RuntimeConfig(parameters=arguments),
            service_account=service_account,
        )
        run = make_once(lambda: self._client.runs.run_service_create_run(body), lambda: self._same_runs(body))
        log(f"run {run.run_id} started, {self._run_link(run.run_id)}")
        if wait:
            self._wait_for(run.run_id)
        return str(run.run_id)

    def schedule(
        self, package: Path, arguments: dict[str, Any], *, name: str, cron: str, service_account: str | None = None
    ) -> str:
        """Run a compiled pipeline again and again, one run at a time, and return the schedule's id.

        Runs that were missed are not caught up. A schedule of the same name and content is left as it is. One of
        another content is replaced: Kubeflow cannot change a schedule, so a new one is made, disabled; then the old one
        is disabled, the new one enabled and the old one deleted. Two are never enabled at once, and a run in progress
        goes on. The same command puts right what a kill leaves behind.

        Args:
            package: The compiled pipeline.
            arguments: The pipeline's arguments.
            name: The schedule's name, one in the namespace.
            cron: Six fields, see :func:`pipelines.cron.check_cron`.
            service_account: The Kubernetes account whose rights the runs have.

        Raises:
            CronError: The cron text is wrong; no request was sent.
            ServiceError: Kubeflow refuses.
        """
        cron = check_cron(cron)
        version = self._upload(package)
        content = {
            "job_name": name,
            "pipeline_id": version.pipeline_id,
            "version_id": version.pipeline_version_id,
            "experiment_id": self._experiment_id(),
            "params": arguments,
            "service_account": service_account,
            "cron_expression": cron,
            # An int64 is text in the API's model; kfp's own default is a number.
            "max_concurrency": "1",
            "no_catchup": True,
        }
        return self._put_in_place(content)

    def unschedule(self, name: str) -> int:
        """Delete every schedule of a name, and return their number; a run in progress goes on."""
        schedules = self._named(name)
        for schedule in schedules:
            self._delete(schedule)
        log(f"schedule {name!r} deleted" if schedules else f"there is no schedule {name!r}, nothing was changed")
        return len(schedules)

    def schedules(self) -> list[api.V2beta1RecurringRun]:
        """Return the schedules in the namespace, the newest first."""
        options = {"sort_by": "created_at desc", "namespace": self._namespace}
        return list(pages(self._client.list_recurring_runs, "recurring_runs", **options))

    def runs(self, limit: int = 20) -> list[api.V2beta1Run]:
        """Return the last runs in the experiment, the newest first."""
        return [run for known in self._experiments() for run in islice(self._runs(known.experiment_id), limit)]

    def describe_run(self, run: api.V2beta1Run) -> str:
        """Return one line: the run's id, name, state, time of creation and page."""
        state = (run.state or "PENDING").lower()
        return f"run {run.run_id}  {run.display_name}  {state}  {_when(run.created_at)}  {self._run_link(run.run_id)}"

    def describe_schedule(self, schedule: api.V2beta1RecurringRun) -> str:
        """Return one line: the schedule's id, name, cron text, state, time of creation and page."""
        cron = schedule.trigger.cron_schedule.cron if schedule.trigger and schedule.trigger.cron_schedule else ""
        state = "disabled" if _is_disabled(schedule) else "enabled"
        link = f"{self._pages_url}/#/recurringrun/details/{schedule.recurring_run_id}"
        made = _when(schedule.created_at)
        return f"schedule {schedule.recurring_run_id}  {schedule.display_name}  {cron!r}  {state}  {made}  {link}"

    def _upload(self, package: Path) -> api.V2beta1PipelineVersionReference:
        """Return the pipeline's version with this content, which is uploaded if Kubeflow does not have it."""
        # upload_pipeline() makes a version with the pipeline's name, and get_pipeline_id() looks in no namespace.
        body = api.V2beta1Pipeline(display_name=NAME, name=NAME, namespace=self._namespace)
        pipeline_id = make_once(
            lambda: self._client.pipelines.pipeline_service_create_pipeline(body),
            lambda: find_named(self._client.list_pipelines, "pipelines", NAME, namespace=self._namespace),
        ).pipeline_id
        name = f"sha256-{_digest(package.read_bytes())}"
        # The client's own upload_pipeline_version() prints a link.
        upload = self._client.pipeline_uploads.upload_pipeline_version
        listing = self._client.list_pipeline_versions
        version_id = make_once(
            lambda: upload(str(package), name=name, pipelineid=pipeline_id),
            lambda: find_named(listing, "pipeline_versions", name, pipeline_id=pipeline_id),
        ).pipeline_version_id
        return api.V2beta1PipelineVersionReference(pipeline_id=pipeline_id, pipeline_version_id=version_id)

    def _experiment_id(self) -> str:
        """Return the id of the experiment, which is made if it does not exist."""
        # The client's own create_experiment() prints a link, and does not quote the name that it looks for.
        body = api.V2beta1Experiment(display_name=_experiment_name(), namespace=self._namespace)
        create = self._client.experiments.experiment_service_create_experiment
        return str(make_once(lambda: create(body), self._experiments).experiment_id)

    def _experiments(self) -> list[api.V2beta1Experiment]:
        """Return the experiment, or nothing if it does not exist."""
        # The client's own list_experiments() puts a namespace of its own in place of none.
        listing = self._client.experiments.experiment_service_list_experiments
        return find_named(listing, "experiments", _experiment_name(), namespace=self._namespace)

    def _runs(self, experiment_id: str) -> Iterator[api.V2beta1Run]:
        return pages(self._client.list_runs, "runs", sort_by="created_at desc", experiment_id=experiment_id)

    def _same_runs(self, wanted: api.V2beta1Run) -> list[api.V2beta1Run]:
        """Return the run, if it is among the newest, whose description no other has."""
        newest = islice(self._runs(wanted.experiment_id), PAGE)
        return [run for run in newest if run.description == wanted.description]

    def _named(self, name: str) -> list[api.V2beta1RecurringRun]:
        """Return every schedule of the name, in any experiment."""
        return find_named(self._client.list_recurring_runs, "recurring_runs", name, namespace=self._namespace)

    def _put_in_place(self, content: dict[str, Any]) -> str:
        """Make a schedule of the content unless it exists, enable it, delete the others of its name, return its id."""
        name, cron = content["job_name"], content["cron_expression"]
        mark = f"Made by segline, content {_digest(json.dumps(content, sort_keys=True).encode())}."
        old = self._named(name)
        chosen = make_once(
            lambda: self._client.create_recurring_run(description=mark, enabled=False, **content),
            lambda: sorted((one for one in self._named(name) if one.description == mark), key=_is_disabled),
        )
        others = [one for one in old if one.recurring_run_id != chosen.recurring_run_id]
        is_new = len(others) == len(old)
        if others or _is_disabled(chosen):
            self._replace(others, chosen, is_new=is_new)
            log(f"schedule {name!r} {'replaced' if others else 'made' if is_new else 'enabled'}, {cron!r}")
        else:
            log(f"schedule {name!r} is as wanted, nothing was changed")
        return str(chosen.recurring_run_id)

    def _replace(self, others: list[api.V2beta1RecurringRun], chosen: api.V2beta1RecurringRun, *, is_new: bool) -> None:
        """Disable the others, enable the chosen schedule, and delete the others; if that fails, restore them."""
        running = [other for other in others if not _is_disabled(other)]
        try:
            for other in running:
                self._client.disable_recurring_run(other.recurring_run_id)
            if _is_disabled(chosen):
                self._client.enable_recurring_run(chosen.recurring_run_id)
        except BaseException as error:
            state = self._restore(running, chosen, is_new=is_new)
            message = f"schedule {chosen.display_name!r} {state}"
            if isinstance(error, ServiceError):
                raise ServiceError(f"{error}; {message}") from None
            log(message)
            raise
        for other in others:
            self._delete(other)

    def _restore(self, running: list[api.V2beta1RecurringRun], chosen: api.V2beta1RecurringRun, *, is_new: bool) -> str:
        """Undo what was done for the chosen schedule, and return what became of it, for a message."""
        try:
            if is_new:
                self._delete(chosen)
            elif _is_disabled(chosen):
                self._client.disable_recurring_run(chosen.recurring_run_id)
            for other in running[:1]:
                self._client.enable_recurring_run(other.recurring_run_id)
        except ServiceError:
            return "may be disabled now: give the same command again when Kubeflow answers"
        return "is as it was before"

    def _delete(self, schedule: api.V2beta1RecurringRun) -> None:
        # delete_recurring_run() of the client knows no policy: Kubernetes would end the run in progress as well.
        delete = self._client.recurring_runs.recurring_run_service_delete_recurring_run
        try:
            delete(schedule.recurring_run_id, propagation_policy=api.V2beta1DeletePropagationPolicy.ORPHAN)
        except ServiceError as error:
            if error.status != NOT_FOUND:
                raise

    def _wait_for(self, run_id: str) -> None:
        """Print each state of a run until it has finished.

        kfp's wait_for_run_completion() never ends when a run is canceled, nor outlives an outage.
        """
        link = self._run_link(run_id)
        state = ""
        try:
            while state not in FINISHED:
                if state:
                    time.sleep(POLL_S)
                run = patiently(lambda: self._client.get_run(run_id), OUTAGE_S)
                if (run.state or "PENDING") != state:
                    state = str(run.state or "PENDING")
                    log(f"run {run_id} {state.lower()}")
        except KeyboardInterrupt:
            log(f"no longer waiting; run {run_id} goes on, {link}")
            raise
        except ServiceError as error:
            raise ServiceError(f"{error}; run {run_id} itself goes on, {link}") from None
        if state != "SUCCEEDED":
            raise ServiceError(f"run {run_id} {state.lower()}{_reasons(run)}; see {link}")

    def _run_link(self, run_id: str) -> str:
        return f"{self._pages_url}/#/runs/details/{run_id}"


def _experiment_name() -> str:
    names = (os.environ.get(f"KF_PIPELINES_{which}_EXPERIMENT_NAME") for which in ("OVERRIDE", "DEFAULT"))
    return next(filter(None, names), EXPERIMENT)


def _is_disabled(schedule: api.V2beta1RecurringRun) -> bool:
    return bool(schedule.status != api.V2beta1RecurringRunStatus.ENABLED)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _reasons(run: api.V2beta1Run) -> str:
    """Return what a run says about its failure: its own error, and the tasks that failed."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [f"{task.display_name}{_in_brackets(task.error)}" for task in tasks if task.state == "FAILED"]
    return _in_brackets(run.error) + (f"; failed: {', '.join(failed)}" if failed else "")


def _in_brackets(status: api.GoogleRpcStatus | None) -> str:
    return f" ({' '.join(status.message.split())[:300]})" if status and status.message else ""


def _when(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else "-"


def log(message: str) -> None:
    """Print a line of progress."""
    print(f"pipelines: {message}", flush=True)
