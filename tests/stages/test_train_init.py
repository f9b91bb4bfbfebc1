"""A grid that starts from the champion of a real registry."""

import json

import mlflow
import pytest
from grids import TINY, train

from segline.artifacts.bundle import read_bundle
from segline.config.loader import load
from segline.errors import TrackingError
from segline.tracking.client import Experiment
from segline.tracking.registry import CHAMPION, register_model, set_alias
from segline.tracking.runs import closing, start_run
from segline.tracking.tags import INIT
from segline.training.checkpoints import CheckpointStore
from segline.training.run_trial import train_trial
from segline.training.search.grid import grid_configs
from segline.training.trial import Trial, TrialInputs


def make_candidate(folder, dataset_dir):
    [config] = grid_configs(load(json.dumps({"train": TINY | {"epochs": 1}})).train, 7)
    inputs = TrialInputs(dataset_dir=dataset_dir, prepared_dir=folder / "prepared")
    store = CheckpointStore("")
    list(train_trial(Trial(config=config, inputs=inputs, folder=folder / "first", until=1, store=store)))
    return folder / "first"


def register(tracking_uri, name, bundle):
    streets = Experiment(tracking_uri, "streets")
    run = start_run(streets, name, name, {}, {})
    with closing(streets, run):
        version = register_model(streets, run, name, bundle, {})
    set_alias(streets, CHAMPION, version)
    return version.number


def cut(state):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("joined_ray")
def test_a_grid_starts_from_the_champion_of_its_beginning(dataset_dir, tracking_uri, tmp_path, capsys, monkeypatch):
    candidate = make_candidate(tmp_path / "made", dataset_dir)
    assert register(tracking_uri, "one", candidate) == 1
    settings = {"init": "models:/streets@champion", "epochs": 2, "keep_checkpoints": True}
    with monkeypatch.context() as changed:
        changed.setattr("segline.stages.train._conclude", cut)
        with pytest.raises(KeyboardInterrupt):
            train(dataset_dir, tracking_uri, **settings)
    shown = capsys.readouterr().out
    assert "init: models:/streets@champion = version 1, member unet-dice: all 2 classes by name" in shown
    assert register(tracking_uri, "two", candidate) == 2
    out = train(dataset_dir, tracking_uri, **settings)
    shown = capsys.readouterr().out
    assert "models:/streets@champion was version 1 when this training began, and is 2 now" in shown
    assert "training starts anew" not in shown
    [member] = read_bundle(out / "unet-dice").members
    assert (member.init["source"], member.init["candidate"]) == ("models:/streets/1", "unet-dice")
    client = mlflow.MlflowClient(tracking_uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    told = {run.info.run_name.partition("-")[0]: run.data for run in found}
    assert told.keys() == {"grid", "unet"}
    assert {data.tags[INIT] for data in told.values()} == {"models:/streets/1"}
    assert {key: told["unet"].params[f"init.{key}"] for key in member.init} == member.init
    assert [path.name for path in out.iterdir() if (path / "model.json").is_file()] == ["unet-dice"]
    assert (out / "unet-dice" / "last.pt").is_file()
    assert not list(out.rglob("prepared/init"))


def test_what_the_registry_lacks_is_told_before_anything_runs(dataset_dir, tracking_uri, tmp_path):
    with pytest.raises(TrackingError, match=r"has no models:/streets@champion, which train.init names"):
        train(dataset_dir, tracking_uri, init="models:/streets@champion")
    assert not (tmp_path / "out.partial").exists()
