"""What Kubeflow is told: of a stage's outputs when it has ended, and of a run when it is over.

A stage's container gets Kubeflow's executor input as JSON text. It names where each output artifact lies and the file
in which metadata, metrics and output parameters are expected; Kubeflow itself is not needed for that.
"""

import json
import math
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segline.errors import StageError, TrackingError
from segline.files.atomic import tree_hash, write_text
from segline.progress import log

Record = dict[str, Any]
SCHEMES = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
"""Where Kubeflow keeps the objects of a store while a container runs."""
HTML, METRICS = "system.HTML", "system.Metrics"
PAGES = {"validate": "docs/index.html", "promote": "report.html"}
"""The page that a stage writes, below its folder."""
ENDED_WELL = {"COMPLETE": "SUCCEEDED"}
"""What older versions of Kubeflow say, in the words of newer ones."""
WEBHOOK_TIMEOUT_S = 10


def report(stage: str, out: Path, executor_input: str) -> None:
    """Write the executor output of a stage that has ended: metadata, metrics, output parameters; place its page.

    Args:
        stage: its name.
        out: the folder that it wrote.
        executor_input: of Kubeflow, as JSON text.

    Raises:
        StageError: the executor input is none.
    """
    try:
        outputs = json.loads(executor_input)["outputs"]
        wanted = {name: entry["artifacts"][0] for name, entry in outputs.get("artifacts", {}).items()}
        answer = Path(outputs["outputFile"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise StageError("--executor-input is not Kubeflow's executor input; leave it out elsewhere") from None
    facts, scores = FACTS[stage](out), SCORES.get(stage, _none)(out)
    artifacts = {}
    for name, artifact in wanted.items():
        kind = artifact.get("type", {}).get("schemaTitle", "")
        if kind == HTML:
            place = _local(artifact["uri"])
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / PAGES[stage], place)
        told = scores if kind == METRICS else {} if kind == HTML else facts
        artifacts[name] = {"artifacts": [{**artifact, "metadata": {**artifact.get("metadata", {}), **told}}]}
    # Each stage has no other parameter than this one.
    parameters = {name: tree_hash(out) for name in outputs.get("parameters", {})}
    answer.parent.mkdir(parents=True, exist_ok=True)
    write_text(answer, json.dumps({"artifacts": artifacts, "parameterValues": parameters}, allow_nan=False))


def _local(uri: str) -> Path:
    """Where an artifact lies in the container."""
    scheme = next((scheme for scheme in SCHEMES if uri.startswith(scheme)), "")
    return Path(uri.replace(scheme, SCHEMES[scheme], 1)) if scheme else Path(uri)


def _none(out: Path) -> Record:
    return {}


def _of_ingest(out: Path) -> Record:
    from segline.data.manifest import read_manifest

    manifest = read_manifest(out)
    origin = manifest.origin
    return {
        "content_hash": manifest.content_hash,
        "pairs": len(manifest.rows),
        "source": origin.source,
        "layout": origin.layout,
        "revision": origin.revision,
    }


def _of_validate(out: Path) -> Record:
    record = _json(out / "validation.json")
    return {name: value for name, value in record.items() if isinstance(value, str | int | float | bool)}


def _of_label(out: Path) -> Record:
    record = _json(out / "dataset.json")
    names = ("content_hash", "source", "source_hash", "source_revision", "side", "test_is_val")
    return {"classes": ", ".join(entry["name"] for entry in record["classes"])} | {name: record[name] for name in names}


def _of_train(out: Path) -> Record:
    return {"candidates": ", ".join(sorted(path.parent.name for path in out.glob("*/model.json")))}


def _of_ensemble(out: Path) -> Record:
    record = _json(out / "metrics.json")
    return {"members": ", ".join(record["members"]), "dataset": record["dataset"]}


def _of_promote(out: Path) -> Record:
    record = _json(out / "decision.json")
    return {name: value for name, value in record.items() if value is not None}


def _score_evaluate(out: Path) -> Record:
    return _numbers({f"{name}_val_miou": record["miou"] for name, record in _json(out / "metrics.json").items()})


def _score_ensemble(out: Path) -> Record:
    return _numbers({f"test_{name}": value for name, value in _json(out / "metrics.json")["test"].items()})


def _score_promote(out: Path) -> Record:
    return _numbers(_json(out / "decision.json"))


FACTS: dict[str, Callable[[Path], Record]] = {
    "ingest": _of_ingest,
    "validate": _of_validate,
    "label": _of_label,
    "train": _of_train,
    "evaluate": _none,
    "ensemble": _of_ensemble,
    "promote": _of_promote,
}
"""The metadata of what a stage wrote."""
SCORES: dict[str, Callable[[Path], Record]] = {
    "evaluate": _score_evaluate,
    "ensemble": _score_ensemble,
    "promote": _score_promote,
}
"""The metrics of what a stage wrote."""


def _json(path: Path) -> Record:
    record: Record = json.loads(path.read_text())
    return record


def _numbers(record: Record) -> dict[str, float]:
    """The finite numbers of a record."""
    numbers = {name: value for name, value in record.items() if type(value) in (int, float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def conclude(run: str, status: str, tracking_uri: str, webhook: str) -> None:
    """Tag the MLflow runs of a run with its state, tell a webhook, and clean up. Does all of it that can be done.

    Args:
        run: the id of the Kubeflow run.
        status: Kubeflow's final status, as JSON text.
        tracking_uri: of MLflow.
        webhook: where to POST the outcome as JSON; empty for nowhere.

    Raises:
        StageError: with all that could not be done.
    """
    outcome = _outcome(run, status)
    faults = []
    # The RayJob last: with a Kubernetes that is away it takes as long as this task may.
    for task in (_tag_runs, _tell, _remove_rayjob):
        try:
            task(outcome, tracking_uri=tracking_uri, webhook=webhook)
        except (StageError, TrackingError) as error:
            faults.append(str(error))
    log(f"outcome: run {run} {outcome['state']}" + (f": {outcome['error']}" if outcome["error"] else ""))
    if faults:
        raise StageError("; ".join(faults))


def _outcome(run: str, status: str) -> dict[str, str]:
    try:
        found = json.loads(status)
        error = found.get("error") or {}
        state = str(found["state"])
        return {"run": run, "state": ENDED_WELL.get(state, state), "error": str(error.get("message", ""))}
    except (ValueError, KeyError, AttributeError):
        raise StageError(f"--status {status!r} is not a final status of Kubeflow; expected JSON with a state") from None


def _remove_rayjob(outcome: dict[str, str], **_: str) -> None:
    """The Ray cluster of the run, if it left one; outside Kubernetes there is none."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        from segline.platforms import rayjob

        rayjob.delete(outcome["run"])


def _tag_runs(outcome: dict[str, str], *, tracking_uri: str, **_: str) -> None:
    from segline.tracking.runs import mark_runs

    mark_runs(tracking_uri, outcome["run"], {"segline.pipeline_state": outcome["state"]})


def _tell(outcome: dict[str, str], *, webhook: str, **_: str) -> None:
    if not webhook:
        return
    request = urllib.request.Request(
        webhook, json.dumps(outcome).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_S).close()
    except (urllib.error.URLError, ValueError, OSError) as error:
        raise StageError(f"the webhook in SEGLINE_WEBHOOK did not take the outcome ({error})") from None
