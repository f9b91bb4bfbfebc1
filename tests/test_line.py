"""The whole line through the command line, on a tiny synthetic set."""

import json

import mlflow
import pandas as pd
import pytest

from segline.cli import STAGES, main

PARAMS = {
    "name": "tiny",
    "ingest": {"synthetic": {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}},
    "validate": {"max_quarantined_share": 0.5},
    "label": {"crop": 32, "shard_size": 4},
    "train": {
        "models": [{"unet": {"width": 2, "depth": 2}}, {"unet": {"width": 3, "depth": 1}}],
        "losses": ["dice", {"bounding_box": {"weight": 0.5}, "cross_entropy": {"weight": 0.5}}],
        "epochs": 2,
        "cpus_per_worker": 2,
    },
    "evaluate": {"pictures": 1},
}
NAMES = ["unet-bounding_box+cross_entropy", "unet-bounding_box+cross_entropy.2", "unet-dice", "unet-dice.2"]


def run(folder, stages=STAGES, **changes):
    """Run stages in a folder; ``changes`` replace sections of the parameters."""
    words = {name: f"data/{spec}" for name, spec in zip(STAGES, STAGES, strict=True)}
    for stage in stages:
        assert main([stage, "--params", json.dumps(PARAMS | changes), "--out", words[stage]]) == 0, stage
    return folder / "data"


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield run(folder)


def read(path):
    return json.loads(path.read_text())


def test_every_cell_of_the_grid_is_a_candidate(line):
    assert sorted(path.parent.name for path in (line / "train").glob("*/model.json")) == NAMES
    assert sorted(read(line / "evaluate" / "metrics.json")) == NAMES


def test_nothing_unfinished_is_left(line):
    assert not [path for path in line.rglob("*") if path.name.endswith((".partial", ".tmp", ".old", ".pt"))]


def test_every_candidate_is_a_finished_run_under_one_parent(line):
    client = mlflow.MlflowClient(f"sqlite:///{line.parent}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    children = [entry for entry in runs if "mlflow.parentRunId" in entry.data.tags]
    assert sorted(entry.info.run_name for entry in children) == NAMES
    dataset = read(line / "label" / "dataset.json")["content_hash"]
    for entry in children:
        assert entry.data.tags["segline.dataset_hash"] == dataset
        assert entry.data.params["epochs"] == "2"
        history = pd.read_csv(line / "train" / entry.info.run_name / "history.csv")
        curve = client.get_metric_history(entry.info.run_id, "val_miou")
        assert [metric.value for metric in curve] == pytest.approx(history["val_miou"].tolist())


def test_the_ensemble_is_at_least_as_good_on_validation_as_each_candidate(line):
    metrics = read(line / "ensemble" / "metrics.json")
    best = max(entry["miou"] for entry in read(line / "evaluate" / "metrics.json").values())
    assert metrics["val_miou_by_size"][0] == pytest.approx(best, abs=0.01)
    assert metrics["val_miou_by_size"] == sorted(metrics["val_miou_by_size"])
    assert len(metrics["members"]) == len(set(metrics["members"])) == len(metrics["val_miou_by_size"])


def test_the_first_is_champion_if_it_exceeds_the_most_frequent_class_and_the_summary_says_so(line, capsys):
    """Two epochs of such a small network need not exceed it."""
    decision = read(line / "promote" / "decision.json")
    assert (decision["version"], decision["model"], decision["against"]) == (1, "tiny", None)
    assert decision["promoted"] == (decision["test_miou"] > decision["baseline_test_miou"])
    assert main(["summary"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    assert f"tiny version 1 {'is champion' if decision['promoted'] else 'stays challenger'}: it " in shown
    assert "mlflow ui --backend-store-uri" in shown


@pytest.mark.slow
def test_run_again_from_scratch_it_measures_the_same(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = run(tmp_path, train=PARAMS["train"])
    for name in ("label/dataset.json", "evaluate/metrics.json", "ensemble/metrics.json"):
        assert (again / name).read_bytes() == (line / name).read_bytes(), name
    for weights in sorted((line / "train").rglob("*.safetensors")):
        assert (again / weights.relative_to(line)).read_bytes() == weights.read_bytes()
