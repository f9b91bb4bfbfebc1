"""A registry of version 0.1 is understood: MLflow alone writes it here, with the tags as 0.1 spelled them."""

import json

import pytest
from mlflow import MlflowClient

from segline.tracking.registry import champion_statistics, download_bundle, get_by_alias, register_model, set_alias
from segline.tracking.runs import get_or_create_run, log_history, start_run, tag_pipeline_runs
from segline.tracking.tags import DECISION, KEY, PREVIOUS_CHAMPION, ROLLED_BACK

FACTS = {"segline.dataset": "d" * 64, "mlflow.source.git.commit": "c" * 40, "segline.uncommitted": "no"}
RUN = {**FACTS, "segline.environment": "e" * 64, "segline.source_hash": "s" * 64, "segline.pipeline_run": "run-1"}
DECIDED = {
    "promoted": True,
    "reason": "it is the first",
    "version": 1,
    "against": None,
    "test_miou": 0.5,
    "champion_test_miou": None,
    "lower_bound": None,
    "dataset": "d" * 64,
    "settings": "f" * 64,
    "seen_by_champion": 0,
}


@pytest.fixture
def old(tracking_uri, tmp_path):
    """The registry of 0.1: a grid with a trial that was cut off, a champion, and a version that was rolled back."""
    client = MlflowClient(tracking_uri)
    experiment = client.create_experiment("streets", artifact_location=(tmp_path / "artifacts").as_uri())
    grid = client.create_run(experiment, run_name="grid-0123abcd", tags={"segline.key": "of the grid", **RUN})
    above = {"mlflow.parentRunId": grid.info.run_id}
    trial = client.create_run(experiment, run_name="unet-dice", tags={"segline.key": "of the trial", **RUN, **above})
    for epoch in (1, 2):
        client.log_metric(trial.info.run_id, "val_miou", epoch / 10, timestamp=0, step=epoch)
    client.create_registered_model("streets")
    for number, decided in ((1, {}), (2, {"segline.previous_champion": "1", "segline.rolled_back": "yes"})):
        key = {"segline.key": f"of bundle {number}"}
        run = client.create_run(experiment, run_name=f"ensemble-{number}", tags={**key, **FACTS}).info.run_id
        bundle = tmp_path / f"bundle{number}"
        bundle.mkdir()
        (bundle / "model.json").write_text(str(number))
        client.log_artifacts(run, str(bundle), "model")
        (bundle / "statistics.parquet").write_text(f"of {number}")
        client.log_artifact(run, str(bundle / "statistics.parquet"))
        client.set_terminated(run)
        source = f"{client.get_run(run).info.artifact_uri}/model"
        tags = {**key, **FACTS, **decided, "segline.decision": json.dumps(DECIDED | {"version": number})}
        client.create_model_version("streets", source, run_id=run, tags=tags)
    client.set_registered_model_alias("streets", "champion", "1")
    client.set_registered_model_alias("streets", "challenger", "2")
    return client


def test_a_run_of_0_1_is_found_and_continued(old, experiment):
    (before,) = old.search_runs([experiment.id], "attributes.run_name = 'unet-dice'")
    run, last = get_or_create_run(experiment, "of the trial", "unet-dice", {"loss": "dice"}, {})
    assert (run, last) == (before.info.run_id, 2)
    log_history(experiment, run, [{"epoch": epoch, "val_miou": epoch / 10} for epoch in (1, 2, 3)], last)
    curve = [(metric.step, metric.value) for metric in old.get_metric_history(run, "val_miou")]
    assert curve == [(1, 0.1), (2, 0.2), (3, 0.3)]
    parent = old.get_run(start_run(experiment, "of the grid", "grid", {}, {}))
    assert parent.info.run_name == "grid-0123abcd"
    assert len(old.search_runs([experiment.id])) == 4


def test_the_champion_of_0_1_and_what_was_decided_are_known(old, experiment):
    champion, challenger = (get_by_alias(experiment, alias) for alias in ("champion", "challenger"))
    assert (champion.number, challenger.number) == (1, 2)
    assert json.loads(champion.tags[DECISION]) == DECIDED
    assert challenger.tags[PREVIOUS_CHAMPION] == "1"
    assert ROLLED_BACK in challenger.tags
    assert ROLLED_BACK not in champion.tags


def test_a_bundle_of_0_1_is_not_registered_again(old, experiment, tmp_path):
    run = start_run(experiment, "of bundle 1", "ensemble", {}, {})
    version = register_model(experiment, run, "of bundle 1", tmp_path / "bundle1", {})
    assert (version.number, version.tags[KEY]) == (1, "of bundle 1")
    assert len(old.search_model_versions("name = 'streets'")) == 2
    assert (download_bundle(experiment, version) / "model.json").read_text() == "1"


def test_the_statistics_of_a_champion_of_0_1_are_found(old, experiment, tracking_uri, tmp_path):
    (tmp_path / "out").mkdir()
    number, file = champion_statistics(tracking_uri, "streets", tmp_path / "out")
    assert (number, file.read_text()) == (1, "of 1")
    set_alias(experiment, "champion", get_by_alias(experiment, "challenger"))
    assert champion_statistics(tracking_uri, "streets", tmp_path / "out")[1].read_text() == "of 2"


def test_the_runs_of_a_pipeline_that_0_1_began_are_tagged(old, tracking_uri):
    assert tag_pipeline_runs(tracking_uri, "run-1", {"segline.pipeline_state": "SUCCEEDED"}) == 2
