"""The pipeline on Kubeflow: a run to a champion, the cache, a retry, an error, a termination, and a schedule."""

import os
from pathlib import Path

import pytest
from installing import NAMESPACE
from kubeflow_pipelines import EXIT_HANDLER, MODEL, STAGES, Kubeflow, stage_of
from tracking_server import tracking_server

pytestmark = pytest.mark.timeout(4 * 3600)

CACHED = {"train", "evaluate", "ensemble"}
AUDIENCE = "pipelines.kubeflow.org"
SCHEDULE = "segline-tests"


@pytest.fixture(scope="module")
def kubeflow(cluster, installation, options, tmp_path_factory):
    """Kubeflow Pipelines with several users, whose runs are in the namespace of the manifests."""
    if not options.kubeflow and not cluster.get("service", "ml-pipeline", "kubeflow"):
        pytest.skip("Kubeflow Pipelines is not installed: the namespace kubeflow has no service ml-pipeline")
    if not cluster.has_kind("profiles.kubeflow.org"):
        pytest.skip(
            "this Kubeflow has one user and keeps all runs in the namespace kubeflow, where the accounts, secrets and "
            f"policies of {NAMESPACE} do not exist; these tests need one with several users (profiles.kubeflow.org)"
        )
    token = Path(os.environ.get("SEGLINE_KUBEFLOW_TOKEN") or tmp_path_factory.mktemp("kubeflow") / "token")
    if not token.exists():
        words = ("create", "token", "default-editor", f"--audience={AUDIENCE}", "--duration=24h")
        token.write_text(cluster.run(*words, f"--namespace={installation}"), encoding="utf-8")
    if options.kubeflow:
        yield Kubeflow(cluster, installation, options.kubeflow, token, options)
        return
    with cluster.forward("service/ml-pipeline", 8888, "kubeflow") as address:
        yield Kubeflow(cluster, installation, address, token, options)


@pytest.fixture(scope="module")
def first(kubeflow):
    """The id of a run that went to the end."""
    code, said = kubeflow.pipelines("run", "--wait")
    assert code == 0, said
    return said.split("run ")[1].split()[0]


def facts(cluster):
    """Return the champion's version and the number of MLflow runs."""
    with tracking_server(cluster, NAMESPACE) as server:
        return server.champion(MODEL), server.number_of_runs(MODEL)


def test_a_run_ends_in_a_champion(cluster, kubeflow, first):
    champion, runs = facts(cluster)
    assert champion is not None
    assert runs > 0
    assert {stage_of(pod) for pod in kubeflow.pods(first)} == {EXIT_HANDLER, *STAGES}


def test_an_equal_run_takes_what_it_can_from_the_cache(kubeflow, first):
    run = kubeflow.start()
    assert kubeflow.end(run) == "SUCCEEDED"
    assert {stage_of(pod) for pod in kubeflow.pods(run)} == {EXIT_HANDLER, *STAGES} - CACHED


def test_a_stage_whose_pod_is_killed_is_tried_again(cluster, kubeflow, first):
    run = kubeflow.start("--no-cache")
    lost = kubeflow.wait_for_stage(run, "train")["metadata"]["name"]
    cluster.run("delete", "pod", lost, f"--namespace={NAMESPACE}", "--grace-period=0", "--force")
    assert kubeflow.end(run) == "SUCCEEDED"
    assert lost not in [pod["metadata"]["name"] for pod in kubeflow.pods(run, "train")]


def test_a_permanent_error_is_not_tried_again_and_the_exit_handler_runs(cluster, kubeflow):
    run = kubeflow.start(**{"ingest.source": "s3://segline/data/nothing-is-here"})
    assert kubeflow.end(run) == "FAILED"
    # Argo may start more pods, which find that the first gave up, and end at once.
    logs = [cluster.log(pod["metadata"]["name"], NAMESPACE, "--container=main") for pod in kubeflow.pods(run, "ingest")]
    tried = [text for text in logs if "gave up with exit code" not in text]
    assert len(tried) == 1, logs
    assert "attempt 1 ended" not in tried[0], tried
    (pod,) = kubeflow.pods(run, EXIT_HANDLER)
    said = cluster.log(pod["metadata"]["name"], NAMESPACE, "--container=main")
    assert f"run {run}" in said, said
    assert "SUCCEEDED" not in said, said


def test_a_run_that_is_terminated_leaves_no_pod(kubeflow):
    run = kubeflow.start("--no-cache")
    kubeflow.wait_for_stage(run, "train")
    kubeflow.terminate(run)
    assert kubeflow.end(run) == "CANCELED"

    def look():
        running = [pod for pod in kubeflow.pods(run) if pod["status"].get("phase") == "Running"]
        return (None if running else True), kubeflow.pods_state(run)

    assert kubeflow.cluster.wait(f"the pods of run {run} to end", look, "removal")


def test_a_schedule_starts_runs_until_it_is_removed(kubeflow):
    code, said = kubeflow.pipelines("schedule", "--cron", "0 * * * * *", "--name", SCHEDULE)
    assert code == 0, said
    try:
        code, listed = kubeflow.pipelines("list")
        assert f"  {SCHEDULE}  '0 * * * * *'  enabled" in listed
        again = kubeflow.pipelines("schedule", "--cron", "0 * * * * *", "--name", SCHEDULE)
        assert "is as wanted, nothing was changed" in again[1]
        schedule = listed.split("schedule ")[1].split()[0]
        listing = f"runs?namespace={NAMESPACE}&page_size=50&sort_by=created_at%20desc"

        def look():
            runs = kubeflow.ask(listing).get("runs", [])
            started = [entry["run_id"] for entry in runs if entry.get("recurring_run_id") == schedule]
            return started or None, f"{len(runs)} runs, none of this schedule"

        started = kubeflow.cluster.wait("the schedule to start a run", look, "server")
    finally:
        code, said = kubeflow.pipelines("unschedule", "--name", SCHEDULE)
    assert code == 0, said
    for run in started:
        kubeflow.terminate(run)
    assert SCHEDULE not in kubeflow.pipelines("list")[1].split("run ")[0]
