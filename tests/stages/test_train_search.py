"""How a grid is searched: by halving, by population-based training, and with Optuna; every trial is really trained."""

import json
import shutil
import sys
from itertools import count

import pytest
from grids import board, runs, train

from segline.artifacts.candidates import read_history
from segline.config.spaces import Space
from segline.errors import StageError, TrainingError
from segline.training import run_trial as trials
from segline.training.search.optuna import propose


@pytest.mark.usefixtures("trained_here")
def test_halving_ends_the_worse_trials_and_trains_finalists_with_more_seeds(dataset_dir, tracking_uri):
    search = {
        "spaces": {"learning_rate": [1e-5, 3e-3, 3e-2]},
        "num_samples": 3,
        "grace_period": 1,
        "reduction_factor": 3,
    }
    search |= {"finalists": 1, "seeds": 3}
    out = train(dataset_dir, tracking_uri, epochs=2, search=search)
    found = board(out)
    epochs = {name: (row["status"], row["epochs"]) for name, row in found.items()}
    [best] = [name for name in found if name.endswith("-seed8")]
    base = best.removesuffix("-seed8")
    ended = [value for name, value in epochs.items() if not name.startswith(base)]
    assert ended == [("eliminated", "1"), ("eliminated", "1")]
    assert {name: epochs[name] for name in (base, f"{base}-seed8", f"{base}-seed9")} == dict.fromkeys(
        (base, f"{base}-seed8", f"{base}-seed9"), ("finished", "2")
    )
    assert sorted(path.name for path in out.iterdir() if (path / "model.json").is_file()) == sorted(
        (base, f"{base}-seed8", f"{base}-seed9")
    )
    assert not list(out.rglob("last.pt"))
    assert {run.info.status for run in runs(tracking_uri).values()} == {"FINISHED"}
    for name in ("trials.png", "curves.png"):
        assert (out / name).stat().st_size > 10_000


POPULATION = {
    "epochs": 6,
    "ema_decay": 0.9,
    "search": {
        "spaces": {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "weight_decay": [0.0, 0.01, 0.1]},
        "num_samples": 4,
        "scheduler": "pbt",
        "perturbation_interval": 2,
    },
}


def check_children(out, tracking_uri):
    found = board(out)
    assert sorted(row["epochs"] for row in found.values()) == ["2", "4", "6", "6", "6", "6"]
    assert {row["status"] for row in found.values() if row["epochs"] != "6"} == {"eliminated"}
    children = [name for name in found if "-child" in name]
    assert sorted(name[-1] for name in children) == ["1", "2"]
    for child in children:
        told = json.loads((out / child / "trial.json").read_text())
        rung = 2 * int(child[-1])
        assert read_history(out / child)[:rung] == read_history(out / told["parent"])[:rung]
        assert told["learning_rate"] == pytest.approx(float(found[child]["learning_rate"]), rel=1e-5)
        assert runs(tracking_uri)[child].data.params["parent"] == told["parent"]
    assert {run.info.status for run in runs(tracking_uri).values()} == {"FINISHED"}
    assert not list(out.rglob("last.pt"))
    assert sorted(path.name for path in (out / "search").iterdir()) == ["batch1-rung1.json", "batch1-rung2.json"]
    assert {found[child]["parent"] for child in children} <= set(found)


def weights_of(out):
    return {path.parent.name: path.read_bytes() for path in out.rglob("weights.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(900)  # three grids, one process after the other
def test_pbt_goes_on_with_the_best_in_place_of_the_worst_also_when_it_was_cut(
    dataset_dir, tracking_uri, monkeypatch, tmp_path, bucket
):
    out = train(dataset_dir, tracking_uri, **POPULATION)
    check_children(out, tracking_uri)
    undisturbed = weights_of(out)
    shutil.rmtree(out)
    settings = POPULATION | {"checkpoints": f"s3://{bucket({})}/run"}
    copy, copies = shutil.copyfile, count()

    def cut(source, target):
        copy(source, target)
        if next(copies) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(shutil, "copyfile", cut)
        with pytest.raises(KeyboardInterrupt):
            train(dataset_dir, tracking_uri, **settings)
    # The machine loses its disk as well, and goes on from the bucket.
    shutil.rmtree(tmp_path / "out.partial")
    assert weights_of(train(dataset_dir, tracking_uri, **settings)) == undisturbed


@pytest.mark.slow
@pytest.mark.usefixtures("joined_ray")
def test_pbt_replaces_a_trial_that_fails(dataset_dir, tracking_uri):
    spaces = {"dice.weight": [1.0, 1.0, 1.0, 1e39], "max_grad_norm": [1.0, 2.0]}
    out = train(dataset_dir, tracking_uri, **POPULATION | {"search": POPULATION["search"] | {"spaces": spaces}})
    found = board(out)
    [failed] = [name for name, row in found.items() if row["status"] == "failed"]
    assert float(found[failed]["dice.weight"]) == 1e39
    assert found[f"{failed}-child1"]["status"] in ("finished", "eliminated")
    assert sum(row["status"] == "finished" for row in found.values()) == 4


@pytest.mark.slow
def test_what_a_pod_has_trained_is_in_the_store_of_its_site(dataset_dir, tracking_uri, monkeypatch, bucket, s3_client):
    name = bucket({})
    monkeypatch.setenv("SEGLINE_STORE", f"s3://{name}/ray")
    out = train(dataset_dir, tracking_uri)
    kept = [entry["Key"] for entry in s3_client.list_objects_v2(Bucket=name)["Contents"]]
    assert any(key.startswith("ray/checkpoints/") and key.endswith("/unet-dice/model.json") for key in kept)
    shutil.rmtree(out)
    monkeypatch.setattr("segline.training.search.run._train_trial", None)
    assert board(train(dataset_dir, tracking_uri))["unet-dice"]["status"] == "finished"


OPTUNA = {
    "epochs": 2,
    "search": {
        "spaces": {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}},
        "num_samples": 5,
        "searcher": "optuna",
        "trials_per_round": 2,
    },
}


@pytest.mark.usefixtures("joined_ray")
@pytest.mark.slow
def test_optuna_draws_by_the_results(dataset_dir, tracking_uri):
    found = board(train(dataset_dir, tracking_uri, **OPTUNA))
    assert set(found) == {f"unet-dice-draw{number}" for number in range(1, 6)}
    sampled = {name: {"learning_rate": float(row["learning_rate"])} for name, row in found.items()}
    first = [
        (sampled[f"unet-dice-draw{number}"], float(found[f"unet-dice-draw{number}"]["val_miou"])) for number in (1, 2)
    ]
    spaces = {"learning_rate": Space(low=1e-5, high=1e-1, log=True)}
    [third, fourth] = propose(spaces, first, "7/unet-dice/2", 2)
    assert sampled["unet-dice-draw3"]["learning_rate"] == pytest.approx(third["learning_rate"], rel=1e-4)
    assert sampled["unet-dice-draw4"]["learning_rate"] == pytest.approx(fourth["learning_rate"], rel=1e-4)


def fail_once(folder):
    """Stands for a trial that has no room the first time."""

    def train_trial(trial):
        if trial.name == "unet-dice-draw2" and not (folder / "failed").exists():
            (folder / "failed").touch()
            raise TrainingError(f"{trial.name}: no room")
        yield from trials.train_trial(trial)

    return train_trial


def drawn_in(folder):
    return {path.parent.name: json.loads(path.read_text())["learning_rate"] for path in folder.rglob("trial.json")}


@pytest.mark.slow
@pytest.mark.usefixtures("joined_ray")
def test_what_was_proposed_stands_when_the_results_change_afterwards(dataset_dir, tracking_uri, monkeypatch, tmp_path):
    monkeypatch.setattr("segline.training.search.run._train_trial", fail_once(tmp_path))
    with pytest.raises(TrainingError, match=r"^1 of 5 trials failed: unet-dice-draw2: no room"):
        train(dataset_dir, tracking_uri, **OPTUNA)
    before = drawn_in(tmp_path / "out.partial")
    out = train(dataset_dir, tracking_uri, **OPTUNA)
    after = {name: float(row["learning_rate"]) for name, row in board(out).items()}
    assert len(before) == 4
    assert {name: after[name] for name in before} == pytest.approx(before, rel=1e-5)
    assert drawn_in(out) == pytest.approx(after, rel=1e-5)


def test_without_optuna_nothing_is_trained(dataset_dir, tracking_uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StageError, match=r"Optuna is not installed; install segline\[optuna\], or say"):
        train(dataset_dir, tracking_uri, **OPTUNA)
    assert not (dataset_dir.parent / "out.partial").exists()
