"""The records for Kubeflow: about a stage's outputs when the stage has ended, and about a run when the run has ended.

A stage's container gets Kubeflow's executor input as JSON text. It names the location of each output artifact, and the
file for metadata, metrics and output parameters. Kubeflow itself is not needed for that.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from segline.artifacts.artifact import Record
from segline.artifacts.table import ARTIFACTS
from segline.errors import SeglineError, StageError, one_line, shown
from segline.files.atomic import write_text
from segline.files.hashing import tree_hash
from segline.platforms.webhooks import post
from segline.platforms.workflow import Ending, find_ending
from segline.progress import log

SCHEMES = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
"""The folders in which Kubeflow keeps the objects of a store while a container runs."""
HTML, METRICS = "system.HTML", "system.Metrics"
SUCCEEDED = ("SUCCEEDED", "COMPLETE")
"""The states of success, of newer and older versions of Kubeflow. RUNNING is none: a pod that is killed leaves it."""
CANCELED = ("CANCELED", "CANCELLED")
MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": 1, "MLFLOW_HTTP_REQUEST_TIMEOUT": 15}
"""MLflow's settings for what is asked before the webhook is called, for which the exit handler must have time left."""


def report(stage: str, out: Path, executor_input: str) -> None:
    """Write the executor output of a stage that has ended (metadata, metrics, output parameters), and copy its page.

    Args:
        stage: The stage's name.
        out: The folder that the stage wrote.
        executor_input: Kubeflow's executor input, as JSON text.

    Raises:
        StageError: The text is not an executor input.
    """
    try:
        outputs = json.loads(executor_input)["outputs"]
        entries = {name: entry["artifacts"][0] for name, entry in outputs.get("artifacts", {}).items()}
        answer = Path(outputs["outputFile"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise StageError("--executor-input is not Kubeflow's executor input; leave it out elsewhere") from None
    artifact = ARTIFACTS[stage]
    metadata, metrics = artifact.metadata(out), _finite(artifact.metrics(out))
    artifacts = {}
    for name, entry in entries.items():
        kind = entry.get("type", {}).get("schemaTitle", "")
        if kind == HTML:
            page = _local(entry["uri"])
            page.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / artifact.page, page)
        added = metrics if kind == METRICS else {} if kind == HTML else metadata
        artifacts[name] = {"artifacts": [{**entry, "metadata": {**entry.get("metadata", {}), **added}}]}
    # Each stage has no other parameter than this one.
    parameters = {name: tree_hash(out) for name in outputs.get("parameters", {})}
    answer.parent.mkdir(parents=True, exist_ok=True)
    write_text(answer, json.dumps({"artifacts": artifacts, "parameterValues": parameters}, allow_nan=False))


def _local(uri: str) -> Path:
    """Return the path of an artifact in the container."""
    scheme = next((scheme for scheme in SCHEMES if uri.startswith(scheme)), "")
    return Path(uri.replace(scheme, SCHEMES[scheme], 1)) if scheme else Path(uri)


def _finite(record: Record) -> dict[str, float]:
    """Return the finite numbers of a record."""
    numbers = {name: value for name, value in record.items() if type(value) in (int, float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def conclude(run: str, status: str, tracking_uri: str, webhook: str) -> None:
    """Clean up after a Kubeflow run, call a webhook, and tag the run's MLflow runs with its state.

    The cluster is removed first, as it costs money until then. A task that fails, whatever the reason, does not prevent
    the others. The webhook gets an object of texts: ``run``, ``state`` (SUCCEEDED, FAILED or CANCELED), ``error``
    (Kubeflow's own message, most often empty), and of a run that did not succeed ``stage`` (the one that failed, else
    the last that began) and ``reason``.

    Args:
        run: The id of the Kubeflow run.
        status: Kubeflow's final status, as JSON text.
        tracking_uri: The address of MLflow.
        webhook: The address to which the outcome is posted as JSON; empty for none.

    Raises:
        StageError: One or more of these tasks failed, or the status is none; the message lists all failures.
    """
    removal = _attempt("the RayJob of the run could not be removed", partial(_remove_rayjob, run))
    line = _line_end(tracking_uri, run)
    outcome, problem = _outcome(run, status, is_complete=bool(line and line[1]))
    outcome |= {"training": line[0]} if line else {}
    problems = [
        problem,
        removal,
        post(webhook, outcome) if webhook.strip() else "",
        _attempt("the MLflow runs could not be tagged", partial(_tag_runs, tracking_uri, outcome)),
    ]
    where = f" in {outcome['stage']}" if outcome["stage"] else ""
    details = "; ".join(filter(None, (outcome["error"], outcome["reason"])))
    log(f"outcome: run {run} {outcome['state']}{where}" + (f": {details}" if details else ""))
    if line:
        log(f"outcome: {line[0]}")
    if any(problems):
        raise StageError("; ".join(filter(None, problems)))


def _attempt(failure: str, task: Callable[[], None]) -> str:
    """Run a task; return why it failed, or an empty text."""
    try:
        task()
    except SeglineError as error:
        return one_line(error)
    except Exception as error:  # Whatever it is, the other tasks are to be done.
        return f"{failure} ({type(error).__name__})"
    return ""


def _line_end(tracking_uri: str, run: str) -> tuple[str, bool] | None:
    """Return why a run with ``--when-changed`` trained or did not, and whether it did all of it; None if not known."""
    from segline.tracking import lines
    from segline.tracking.client import override_settings

    found: list[tuple[str, bool] | None] = []
    with override_settings(**MLFLOW_PATIENCE):
        # The attempt to tag the runs reports an MLflow that cannot be reached.
        _attempt("", lambda: found.append(lines.line_end(tracking_uri, run)))
    return found[0] if found else None


def _outcome(run: str, status: str, *, is_complete: bool) -> tuple[dict[str, str], str]:
    """Return the record of a run's end, and what is wrong with the status that it was made from."""
    state = error = problem = ""
    try:
        final = json.loads(status)
        error = str((final.get("error") or {}).get("message", ""))
        state = str(final["state"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        problem = f"--status {shown(status)} is not a final status of Kubeflow; expected JSON with a state"
    ending = Ending(state="SUCCEEDED") if state in SUCCEEDED else _ending(run, state, is_complete=is_complete)
    return {"run": run, "state": ending.state, "error": error, "stage": ending.stage, "reason": ending.reason}, problem


def _ending(run: str, state: str, *, is_complete: bool) -> Ending:
    """Return how a run ended whose state is no success, as far as it is known.

    It is one nevertheless where the line is complete, Kubeflow says RUNNING, and no step failed: until 2.17 Kubeflow
    leaves stages RUNNING that end with a ``dsl.If`` (kubeflow/pipelines, issue 11979), as nothing looks at their state
    after a group that was skipped.
    """
    found: list[Ending] = []
    failure = _attempt("the Workflow of the run could not be read", lambda: found.append(find_ending(run)))
    ending = found[0] if found else Ending(reason=f"the reason is unknown: {failure}")
    if not ending.reason and is_complete and state == "RUNNING":
        return Ending(state="SUCCEEDED")
    if not ending.reason:
        unknown = f"the reason is unknown: Kubeflow's status is {state or 'none'}, and no step of the run has failed"
        ending = replace(ending, reason=unknown)
    return replace(ending, state="CANCELED") if state in CANCELED else ending


def _remove_rayjob(run: str) -> None:
    """Delete the Ray cluster of the run if it still exists; outside Kubernetes there is none."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        from segline.platforms import rayjob

        rayjob.delete(run)


def _tag_runs(tracking_uri: str, outcome: dict[str, str]) -> None:
    from segline.tracking import runs, tags

    runs.tag_pipeline_runs(tracking_uri, outcome["run"], {tags.PIPELINE_STATE: outcome["state"]})
