"""Kubeflow Pipelines over its API: runs and schedules of the line. The only user of ``kfp.Client``."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import kfp_server_api
import urllib3
from kfp import Client

from pipelines.cron import check_cron
from pipelines.training import NAME
from segline.errors import SeglineError

PAGE = 100
POLL_S = 10.0
RUNS_SHOWN = 20
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
ENABLED = "ENABLED"


class ServiceError(SeglineError):
    """Kubeflow cannot be reached, refuses, or a run that was waited for did not succeed."""

    exit_code = 7


@dataclass(frozen=True)
class Run:
    """A run, and its state in Kubeflow's words."""

    id: str
    name: str
    state: str
    begun: str

    def __str__(self) -> str:
        return f"run       {self.name}  {self.state}  {self.begun}  {self.id}"


@dataclass(frozen=True)
class Schedule:
    """A schedule, and whether it is at work."""

    id: str
    name: str
    cron: str
    enabled: bool
    content: str

    def __str__(self) -> str:
        return f"schedule  {self.name}  '{self.cron}'  {'on' if self.enabled else 'off'}  {self.id}"


@dataclass(frozen=True)
class Service:
    """Kubeflow Pipelines at an endpoint.

    Attributes:
        endpoint: such as ``https://kubeflow.example.org/pipeline``.
        namespace: of its users; a Kubeflow without users takes it and does not look at it.
        token: a file with a token to show, which is read anew for each command; None for a Kubeflow that asks for none.
    """

    endpoint: str
    namespace: str
    token: Path | None = None

    @cached_property
    def client(self) -> Client:
        """The connection.

        Raises:
            ServiceError: there is no Kubeflow at the endpoint.
        """
        with self._telling():
            shown = self.token.read_text().strip() if self.token else None
            client = Client(host=self.endpoint, namespace=self.namespace, existing_token=shown)
            client.get_kfp_healthz()
        return client

    def run(
        self,
        package: Path,
        arguments: dict[str, Any],
        *,
        name: str,
        service_account: str,
        caching: bool | None = None,
        wait: bool = False,
    ) -> str:
        """Begin a run and return its id.

        Args:
            package: the compiled pipeline; a version that Kubeflow has is not sent again.
            arguments: of the pipeline.
            name: of the run.
            service_account: that its containers run as.
            caching: False runs every stage; None leaves it to each.
            wait: until it is over.

        Raises:
            ServiceError: Kubeflow cannot be reached or refuses; or the run that was waited for did not succeed.
        """
        client = self.client
        with self._telling():
            pipeline, version = self._version(package)
            begun = client.run_pipeline(
                self._experiment(),
                name,
                params=arguments,
                pipeline_id=pipeline,
                version_id=version,
                enable_caching=caching,
                service_account=service_account,
            )
        if wait:
            self._wait(begun.run_id)
        return str(begun.run_id)

    def schedule(
        self, package: Path, arguments: dict[str, Any], *, name: str, cron: str, service_account: str
    ) -> Schedule:
        """Let a run begin again and again: one at a time, and those that were missed are not made up for.

        A schedule of this name with the same content is left as it is, another is replaced: Kubeflow changes none.
        The old one is switched off first and deleted last, so that there are never two at work, and if the new one
        cannot be made the old one goes on.

        Args:
            package: the compiled pipeline.
            arguments: of the pipeline.
            name: of the schedule.
            cron: six fields, the first of them seconds.
            service_account: that the containers run as.

        Raises:
            CronError: ``cron`` is no schedule.
            ServiceError: Kubeflow cannot be reached or refuses.
        """
        cron = check_cron(cron)
        content = _hash(package.read_text(), arguments, cron, service_account)
        known = [found for found in self.schedules() if found.name == name]
        same = [found for found in known if found.content == content and found.enabled]
        with self._telling():
            if same:
                self._delete([found for found in known if found is not same[0]])
                return same[0]
            return self._replace(known, package, arguments, name, cron, service_account, content)

    def unschedule(self, name: str) -> int:
        """Delete the schedules of this name; returns how many there were.

        Raises:
            ServiceError: Kubeflow cannot be reached or refuses.
        """
        known = [found for found in self.schedules() if found.name == name]
        with self._telling():
            self._delete(known)
        return len(known)

    def schedules(self) -> list[Schedule]:
        """All schedules of the line.

        Raises:
            ServiceError: Kubeflow cannot be reached or refuses.
        """
        client = self.client
        with self._telling():
            experiment = self._experiment()
            found = _all_pages(lambda token: client.list_recurring_runs(token, PAGE, experiment_id=experiment))
            return [_schedule(entry) for entry in found]

    def runs(self) -> list[Run]:
        """The last runs of the line, the newest first.

        Raises:
            ServiceError: Kubeflow cannot be reached or refuses.
        """
        client = self.client
        with self._telling():
            page = client.list_runs("", RUNS_SHOWN, "created_at desc", experiment_id=self._experiment())
            return [_run(entry) for entry in page.runs or []]

    def _experiment(self) -> str:
        """The id of the experiment that all runs are in, made when it is not there."""
        return str(self.client.create_experiment(NAME, namespace=self.namespace).experiment_id)

    def _version(self, package: Path) -> tuple[str, str]:
        """The pipeline and its version with this content, sent now or before."""
        version = f"{NAME}-{_hash(package.read_text())}"
        pipeline = self.client.get_pipeline_id(NAME)
        if pipeline is None:
            pipeline = self.client.upload_pipeline(str(package), NAME, namespace=self.namespace).pipeline_id
        known = _all_pages(lambda token: self.client.list_pipeline_versions(pipeline, token, PAGE))
        for entry in known:
            if entry.display_name == version:
                return pipeline, entry.pipeline_version_id
        made = self.client.upload_pipeline_version(str(package), version, pipeline_id=pipeline)
        return pipeline, made.pipeline_version_id

    def _replace(
        self,
        known: list[Schedule],
        package: Path,
        arguments: dict[str, Any],
        name: str,
        cron: str,
        service_account: str,
        content: str,
    ) -> Schedule:
        pipeline, version = self._version(package)
        at_work = [found for found in known if found.enabled]
        for found in at_work:
            self.client.disable_recurring_run(found.id)
        try:
            made = self.client.create_recurring_run(
                self._experiment(),
                name,
                description=content,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=arguments,
                pipeline_id=pipeline,
                version_id=version,
                service_account=service_account,
            )
        except BaseException:
            for found in at_work[:1]:
                self.client.enable_recurring_run(found.id)
            raise
        self._delete(known)
        return _schedule(made)

    def _delete(self, schedules: list[Schedule]) -> None:
        for found in schedules:
            self.client.delete_recurring_run(found.id)

    def _wait(self, run: str) -> None:
        """Print each state that the run comes to, until it is over; an interrupt leaves it running."""
        state = ""
        try:
            while state not in ENDED:
                with self._telling():
                    found = _run(self.client.get_run(run))
                if found.state != state:
                    print(f"pipelines: run {run} is {found.state}", flush=True)
                state = found.state
                time.sleep(0 if state in ENDED else POLL_S)
        except KeyboardInterrupt:
            print(f"pipelines: run {run} goes on without being watched", flush=True)
            raise
        if state != "SUCCEEDED":
            raise ServiceError(f"run {run} {state}; its tasks and their words are at {self.endpoint}")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What Kubeflow answers, or that it does not, in one line."""
        try:
            yield
        except kfp_server_api.ApiException as error:
            raise ServiceError(f"--endpoint {self.endpoint}: {_reason(error)}") from None
        except (urllib3.exceptions.HTTPError, OSError, TimeoutError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ServiceError(f"--endpoint {self.endpoint} does not answer ({reason}); is it right?") from None


def _reason(error: kfp_server_api.ApiException) -> str:
    if error.status in (401, 403):
        return f"access denied ({error.status}); set SEGLINE_KUBEFLOW_TOKEN to a file with a token, and see --namespace"
    try:
        said = json.loads(error.body)
        text = said.get("message") or said.get("error_message") or str(said)
    except (TypeError, ValueError, AttributeError):
        text = error.reason
    return f"answered {error.status} ({' '.join(str(text).split())[:200]})"


def _all_pages(page: Callable[[str], Any]) -> Iterator[Any]:
    """The entries of a listing, however many pages it has."""
    token = ""
    while True:
        answer = page(token)
        for name in ("recurring_runs", "pipeline_versions"):
            yield from getattr(answer, name, None) or []
        token = answer.next_page_token or ""
        if not token:
            return


def _schedule(entry: Any) -> Schedule:
    """A schedule's content is in its description."""
    cron = entry.trigger.cron_schedule.cron if entry.trigger and entry.trigger.cron_schedule else ""
    enabled = ENABLED in (str(entry.status), f"{entry.mode}D")
    return Schedule(entry.recurring_run_id, entry.display_name, cron, enabled, entry.description or "")


def _run(entry: Any) -> Run:
    begun = entry.created_at.strftime("%Y-%m-%d %H:%M") if entry.created_at else ""
    return Run(entry.run_id, entry.display_name, str(entry.state or "PENDING"), begun)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
