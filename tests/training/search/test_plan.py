"""What a grid would take: counted against a simulation, and measured on real crops."""

import json

import pytest

from segline.config.loader import load
from segline.training.search.grid import grid_configs, round_sizes
from segline.training.search.plan import concurrent_trials, duration, epochs_of, kind, measure, show
from segline.training.search.schedulers import rungs, survivors
from segline.training.trial import Cost


def settings(**train):
    return load(json.dumps({"train": train})).train


SPACES = {"learning_rate": {"low": 1e-4, "high": 1e-2}}


def simulated(chosen):
    """The epochs of a search in which all score alike, rung after rung."""
    done, left = 0, 0
    for size in round_sizes(chosen, 7):
        alive, before = [f"t{number:02d}" for number in range(size)], 0
        for rung in rungs(chosen.search, chosen.epochs):
            done += len(alive) * (rung - before)
            before = rung
            if rung < chosen.epochs and chosen.search.scheduler == "halving":
                alive = survivors(dict.fromkeys(alive, 0.0), chosen.search)
        left += len(alive)
    return done + min(left, chosen.search.finalists) * (chosen.search.seeds - 1) * chosen.epochs


@pytest.mark.parametrize(
    "search", [{}, {"grace_period": 1}, {"grace_period": 2, "reduction_factor": 4, "finalists": 3, "seeds": 4}]
)
@pytest.mark.parametrize("scheduler", ["none", "halving"])
@pytest.mark.parametrize(
    "searcher", [{}, {"searcher": "optuna", "trials_per_round": 4}, {"searcher": "optuna", "trials_per_round": 5}]
)
def test_the_epochs_are_those_that_are_trained(search, scheduler, searcher):
    search = {"spaces": SPACES, "num_samples": 24, "scheduler": scheduler} | search | searcher
    chosen = settings(models=["unet"], losses=["dice"], epochs=20, search=search)
    assert epochs_of(chosen, 7) == simulated(chosen)


def test_a_population_trains_to_the_end():
    search = {"scheduler": "pbt", "num_samples": 6, "spaces": SPACES, "perturbation_interval": 2}
    assert epochs_of(settings(models=["unet"], losses=["dice"], epochs=20, search=search), 7) == 120


def test_as_many_at_once_as_there_is_room_for():
    there = {"CPU": 8.0, "GPU": 2.0}
    assert concurrent_trials(settings(cpus_per_worker=2), there) == 4
    assert concurrent_trials(settings(cpus_per_worker=1, gpus_per_worker=0.5), there) == 4
    assert concurrent_trials(settings(workers_per_trial=2, gpus_per_worker=1.0), there) == 1
    assert concurrent_trials(settings(cpus_per_worker=64), there) == 1


def cost_of(config):
    return Cost(epoch=len(config.name), memory=10**9, parameters=config.model.options.get("width", 0))


def test_each_kind_of_trial_is_measured_once_in_a_process_of_its_own_and_shown(capsys):
    search = {"spaces": {"learning_rate": [1e-3, 1e-2], "batch_size": [4, 8]}, "num_samples": 2, "scheduler": "none"}
    chosen = settings(models=[{"unet": {"width": 8}}], losses=["dice", "focal"], search=search, epochs=3)
    found, measured = grid_configs(chosen, 3), []
    costs = measure(found, cost_of, measured.append)
    assert set(costs) == {kind(config) for config in found}
    assert len(measured) == len(costs) == 4
    show(found, costs, chosen, {"CPU": 2.0})
    told = capsys.readouterr().out
    assert "4 trials of up to 3 epochs" in told
    assert "2 at once on 2 CPUs and 0 GPUs; all train to the end" in told
    mean = sum(len(config.name) for config in found) / 4
    assert f"about {duration(mean * 12 / 2)} for 12 epochs" in told


def test_durations():
    assert [duration(seconds) for seconds in (1.25, 59.94, 61, 7384)] == ["1.2 s", "59.9 s", "0:01:01", "2:03:04"]
