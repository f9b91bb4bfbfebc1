"""The schedulers: rungs, who survives them, and the children of population-based training."""

import json
from dataclasses import replace

import pytest

from segline.config.loader import load
from segline.config.sections import Search
from segline.training.search.grid import grid_configs
from segline.training.search.schedulers import best, children, rungs, survivors


def settings(**train):
    return load(json.dumps({"train": train})).train


def test_the_best_of_each_cell_go_on_before_the_second_best_of_any():
    scores = {f"unet-dice-draw{number}": number / 10 for number in range(1, 5)}
    scores |= {f"unet-lovasz_softmax-draw{number}": number / 100 for number in range(1, 5)}
    four = ["unet-dice-draw4", "unet-lovasz_softmax-draw4", "unet-dice-draw3", "unet-lovasz_softmax-draw3"]
    assert survivors(scores, Search(reduction_factor=2)) == four
    assert survivors(scores, Search(reduction_factor=3)) == four[:3]
    assert survivors({name: scores[name] for name in four}, Search(reduction_factor=4)) == four[:1]


@pytest.mark.parametrize(
    ("search", "epochs", "expected"),
    [
        (Search(grace_period=2, reduction_factor=3), 20, [2, 6, 18, 20]),
        (Search(grace_period=1, reduction_factor=4), 16, [1, 4, 16]),
        (Search(grace_period=8), 8, [8]),
        (Search(grace_period=2, scheduler="none"), 20, [20]),
        (Search(grace_period=2, scheduler="asha"), 20, [20]),
        (Search(perturbation_interval=3, scheduler="pbt"), 10, [3, 6, 9, 10]),
        (Search(perturbation_interval=3, scheduler="pbt"), 6, [3, 6]),
    ],
)
def test_rungs(search, epochs, expected):
    assert rungs(search, epochs) == expected


def test_the_best_third_goes_on_and_no_fewer_than_finalists():
    scores = {"a": 0.1, "b": 0.5, "c": 0.5, "d": 0.2, "e": 0.3, "f": 0.0, "g": 0.4}
    assert survivors(scores, Search(reduction_factor=3)) == ["b", "c", "g"]
    assert survivors(scores, Search(reduction_factor=7)) == ["b"]
    assert survivors(scores, Search(reduction_factor=7, finalists=2)) == ["b", "c"]
    assert best(scores, 3) == ["b", "c", "g"]


@pytest.fixture(scope="module")
def population():
    """Eight draws of two losses."""
    spaces = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": [4, 8, 16],
        "dice.weight": [1.0, 2.0],
    }
    search = {"spaces": spaces, "num_samples": 8, "scheduler": "pbt"}
    chosen = settings(models=["unet"], losses=["dice", "focal"], search=search)
    return chosen.search, grid_configs(chosen, 7)


def test_the_best_quarter_takes_the_place_of_the_worst_of_its_own_cell(population):
    search, members = population
    # The n-th draw scores n; all of focal are worse than all of dice.
    scores = {config.name: int(config.name[-1]) + 10 * ("dice" in config.name) for config in members}
    found = {name: (child.name, child.parent) for name, child in children(members, scores, search, 2).items()}
    assert found == {
        f"unet-{loss}-draw{worse}": (f"unet-{loss}-draw{worse}-child2", f"unet-{loss}-draw{better}")
        for loss in ("dice", "focal")
        for worse, better in ((1, 7), (2, 8))
    }


def test_an_heir_of_an_heir_keeps_a_short_name(population):
    search, members = population
    [dice, *_] = [config for config in members if "dice" in config.name]
    four = [replace(dice, name=f"unet-dice-draw{number}-child1") for number in range(4)]
    scores = {config.name: float(number) for number, config in enumerate(four)}
    [child] = children(four, scores, search, 5).values()
    assert (child.name, child.parent) == ("unet-dice-draw0-child5", "unet-dice-draw3-child1")


def test_who_failed_is_replaced_and_has_no_heirs(population):
    search, members = population
    four = [config for config in members if "dice" in config.name][:4]
    names = [config.name for config in four]
    [(worse, child)] = children(four, dict(zip(names, (0.5, -1.0, 0.1, 0.2), strict=True)), search, 1).items()
    assert (worse, child.parent) == (names[1], names[0])
    assert children(four, dict.fromkeys(names, -1.0), search, 1) == {}


def test_three_are_no_population(population):
    search, members = population
    assert children(members[:3], {config.name: 0.0 for config in members[:3]}, search, 0) == {}


def test_an_heir_is_its_parent_with_values_nearby_or_drawn_anew_once_in_four_times(population):
    search, members = population
    dice = [config for config in members if "dice" in config.name]
    scores = {config.name: float(number) for number, config in enumerate(dice)}
    near, all_children = 0, [child for rung in range(200) for child in children(dice, scores, search, rung).values()]
    parents = {config.name: config for config in dice}
    for child in all_children:
        before = parents[child.parent].sampled
        assert set(child.sampled) == set(before)
        assert child.settings.learning_rate == child.sampled["learning_rate"]
        assert child.settings.batch_size == child.sampled["batch_size"]
        assert child.loss[0].weight == child.sampled["dice.weight"]
        assert child.seed == parents[child.parent].seed
        factor = child.sampled["learning_rate"] / before["learning_rate"]
        near += any(factor == pytest.approx(moved) for moved in (0.8, 1.2))
    assert near / len(all_children) == pytest.approx(3 / 4, abs=0.07)
