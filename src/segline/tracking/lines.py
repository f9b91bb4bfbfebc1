"""The runs of lines: for which settings and data the line has run, and whether promote has judged the model.

A schedule that trains only on something new begins each of its runs with one, and promote marks it. So whether there is
something new is decided from what MLflow holds, whatever became of the pipeline that trained.
"""

from mlflow.entities import Run

from segline.tracking import registry, runs
from segline.tracking.client import Experiment
from segline.tracking.provenance import key, pipeline_run
from segline.tracking.tags import JUDGED, PIPELINE_RUN, REASON, SETTINGS_HASH, SOURCE_HASH, TRAINS

YES, NO = "yes", "no"


def judged(experiment: Experiment, settings: str) -> dict[str, int]:
    """Return what promote has judged with these settings: the data's hash, and the number of the version.

    A version that was deleted from the registry does not count.
    """
    found = experiment.client.search_runs([experiment.id], f"tags.`{SETTINGS_HASH}` = '{settings}'")
    numbers = {str(run.data.tags.get(SOURCE_HASH, "")): _number(run) for run in found}
    known = {version.number for version in registry.list_versions(experiment)}
    return {data: number for data, number in numbers.items() if number in known}


def start_line(experiment: Experiment, settings: str, data: str, *, trains: bool, reason: str) -> None:
    """Record that this Kubeflow run trains, or why it does not; a line that trains is not judged any more.

    Args:
        experiment: The experiment and the registered model of the same name.
        settings: The hash of what a line depends on beside the data.
        data: The hash of the data.
        trains: Whether the line goes on.
        reason: The reason, as a part of a sentence.
    """
    identity = key("line", settings, data)
    tags = {SETTINGS_HASH: settings, SOURCE_HASH: data, TRAINS: YES if trains else NO, REASON: reason}
    tags |= {JUDGED: ""} if trains else {}
    run = runs.start_run(experiment, identity, f"line-{identity[:8]}", {}, tags)
    runs.end_run(experiment, run, "FINISHED", {})


def record_judged(experiment: Experiment, version: int) -> None:
    """Mark the line of this Kubeflow run as judged; nothing happens where no schedule began one."""
    this_run = pipeline_run().get(PIPELINE_RUN, "")
    if this_run:
        for run in _lines_of(experiment, [experiment.id], this_run):
            experiment.client.set_tag(run.info.run_id, JUDGED, str(version))


def line_end(uri: str, pipeline_run: str) -> tuple[str, bool] | None:
    """Return why a Kubeflow run trained or did not, and whether it did all of it; None for one without a line.

    No database is created.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    server = Experiment(uri, "")
    if server.database and not server.database.exists():
        return None
    with server.explained_errors("reading the outcome"):
        experiments = [experiment.experiment_id for experiment in server.client.search_experiments()]
        for run in _lines_of(server, experiments, pipeline_run):
            tags = run.data.tags
            return tags.get(REASON, ""), tags[TRAINS] == NO or bool(tags.get(JUDGED))
    return None


def _lines_of(server: Experiment, experiments: list[str], pipeline_run: str) -> list[Run]:
    found = server.client.search_runs(experiments, f"tags.`{PIPELINE_RUN}` = '{pipeline_run}'")
    return [run for run in found if TRAINS in run.data.tags]


def _number(run: Run) -> int:
    """Return the number of the version that was judged; 0 for none."""
    text = run.data.tags.get(JUDGED, "")
    return int(text) if text.isdecimal() else 0
