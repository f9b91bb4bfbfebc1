"""A grid that starts from the champion of a real registry, and one that starts from a checkpoint that was kept."""

import pytest
from grids import runs, train

from segline.artifacts.bundle import read_bundle
from segline.errors import TrackingError
from segline.tracking.client import Experiment
from segline.tracking.registry import CHAMPION, register_model, set_alias
from segline.tracking.runs import closing, start_run
from segline.tracking.tags import INIT


def register(tracking_uri, name, bundle):
    streets = Experiment(tracking_uri, "streets")
    run = start_run(streets, name, name, {}, {})
    with closing(streets, run):
        version = register_model(streets, run, name, bundle, {})
    set_alias(streets, CHAMPION, version)
    return version.number


@pytest.mark.usefixtures("joined_ray")
def test_a_grid_starts_from_the_champion_of_its_beginning(dataset_dir, tracking_uri, tmp_path, capsys, monkeypatch):
    first = train(dataset_dir, tracking_uri, epochs=1, keep_checkpoints=True).rename(tmp_path / "first")
    assert (first / "unet-dice" / "last.pt").is_file()
    assert register(tracking_uri, "one", first / "unet-dice") == 1
    settings = {"init": "models:/streets@champion", "epochs": 2}
    with monkeypatch.context() as changed:
        changed.setattr("segline.stages.train._conclude", cut)
        with pytest.raises(KeyboardInterrupt):
            train(dataset_dir, tracking_uri, **settings)
    assert register(tracking_uri, "two", first / "unet-dice") == 2
    shown = capsys.readouterr().out
    assert "init: models:/streets@champion = version 1, member unet-dice: all 2 classes by name" in shown
    out = train(dataset_dir, tracking_uri, **settings)
    shown = capsys.readouterr().out
    assert "models:/streets@champion was version 1 when this training began, and is 2 now" in shown
    assert "training starts anew" not in shown
    [member] = read_bundle(out / "unet-dice").members
    assert (member.init["source"], member.init["candidate"]) == ("models:/streets/1", "unet-dice")
    told = runs(tracking_uri)["unet-dice"].data
    assert (told.params["init.source"], told.params["init.sha256"]) == ("models:/streets/1", member.init["sha256"])
    assert [path.name for path in out.iterdir() if (path / "model.json").is_file()] == ["unet-dice"]
    assert not list(out.rglob("prepared/init"))
    assert {run.data.tags.get(INIT) for run in runs(tracking_uri).values()} == {"models:/streets/1"}
    resumed = train(dataset_dir, tracking_uri, init=str(first), resume=True, epochs=2)
    assert len((resumed / "unet-dice" / "history.csv").read_text(encoding="utf-8").splitlines()) == 3


def cut(state):
    raise KeyboardInterrupt


def test_what_the_registry_lacks_is_told_before_anything_runs(dataset_dir, tracking_uri, tmp_path):
    with pytest.raises(TrackingError, match=r"has no models:/streets@champion, which train.init names"):
        train(dataset_dir, tracking_uri, init="models:/streets@champion")
    assert not (tmp_path / "out.partial").exists()
