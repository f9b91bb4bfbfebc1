"""The trials of a grid: draws that compare cells fairly, rungs, finalists' seeds."""

import json
import math
from dataclasses import replace

import pytest

from segline.config.params import Search, load
from segline.training.search.grid import (
    batch_sizes,
    best,
    cells,
    drawn_cell,
    first_cells,
    heirs,
    propose_cells,
    rungs,
    survivors,
    with_seed,
)


def settings(**train):
    return load(json.dumps({"train": train})).train


def test_without_spaces_each_cell_is_one_trial():
    found = cells(settings(models=["unet", "downup"], losses=["dice", {"dice": {}, "cross_entropy": {}}]), 7)
    assert [cell.name for cell in found] == [
        "unet-dice",
        "unet-dice+cross_entropy",
        "downup-dice",
        "downup-dice+cross_entropy",
    ]
    assert {cell.seed for cell in found} == {7}


def test_twins_of_the_grid_have_names_of_their_own():
    models = [{"unet": {"width": 1}}, {"unet": {"width": 2}}]
    found = cells(settings(models=models, losses=["dice", {"dice": {"squared": True}}]), 7)
    assert [cell.name for cell in found] == ["unet-dice", "unet-dice.2", "unet-dice.3", "unet-dice.4"]


@pytest.fixture(scope="module")
def drawn():
    spaces = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "augment.flip": [0.0, 0.5],
        "bounding_box.beta_bg": [0.01, 0.05, 0.1, 0.2],
        "dice.weight": {"low": 0.5, "high": 2.0},
        "unet.width": {"low": 4, "high": 16},
    }
    search = {"spaces": spaces, "num_samples": 4}
    return cells(settings(models=["unet", "downup"], losses=["dice", "bounding_box"], search=search), 3)


def test_a_cell_has_only_what_it_can_use(drawn):
    found = {cell.name: set(cell.drawn) for cell in drawn if cell.name.endswith("draw1")}
    common = {"learning_rate", "augment.flip"}
    assert found == {
        "unet-dice-draw1": {*common, "dice.weight", "unet.width"},
        "unet-bounding_box-draw1": {*common, "bounding_box.beta_bg", "unet.width"},
        "downup-dice-draw1": {*common, "dice.weight"},
        "downup-bounding_box-draw1": {*common, "bounding_box.beta_bg"},
    }
    assert len(drawn) == 16


def test_what_is_drawn_is_what_is_trained(drawn):
    for cell in drawn:
        assert cell.settings.learning_rate == cell.drawn["learning_rate"]
        assert cell.settings.augment.flip == cell.drawn["augment.flip"]
        [term] = cell.loss
        assert term.weight == cell.drawn.get("dice.weight", 1.0)
        assert term.options.get("beta_bg") == cell.drawn.get("bounding_box.beta_bg")
        assert cell.model.options.get("width") == cell.drawn.get("unet.width")


def test_the_nth_draw_is_the_same_in_all_cells_and_draws_are_spread_evenly(drawn):
    rates = {}
    for cell in drawn:
        rates.setdefault(cell.name.rpartition("-")[2], set()).add(cell.drawn["learning_rate"])
    assert all(len(found) == 1 for found in rates.values())
    quarters = sorted(math.floor((math.log10(found.pop()) + 4) / 2 * 4) for found in rates.values())
    assert quarters == [0, 1, 2, 3]
    weights = [cell.drawn["bounding_box.beta_bg"] for cell in drawn if "unet-bounding" in cell.name]
    assert sorted(weights) == [0.01, 0.05, 0.1, 0.2]


def test_another_seed_draws_others(drawn):
    first = drawn[0].settings
    other = cells(first, 4)
    assert [cell.drawn for cell in other] != [cell.drawn for cell in drawn]
    assert [cell.drawn for cell in cells(first, 3)] == [cell.drawn for cell in drawn]


def test_the_best_of_each_cell_go_on_before_the_second_best_of_any():
    scores = {f"unet-dice-draw{number}": number / 10 for number in range(1, 5)}
    scores |= {f"unet-lovasz_softmax-draw{number}": number / 100 for number in range(1, 5)}
    four = ["unet-dice-draw4", "unet-lovasz_softmax-draw4", "unet-dice-draw3", "unet-lovasz_softmax-draw3"]
    assert survivors(scores, Search(reduction_factor=2)) == four
    assert survivors(scores, Search(reduction_factor=3)) == four[:3]
    assert survivors({name: scores[name] for name in four}, Search(reduction_factor=4)) == four[:1]


def test_a_finalist_is_the_same_with_another_seed(drawn):
    again = with_seed(drawn[0], 9)
    assert (again.name, again.seed) == ("unet-dice-draw1-seed9", 9)
    assert (again.settings, again.model, again.loss) == (drawn[0].settings, drawn[0].model, drawn[0].loss)


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


def test_a_random_search_begins_all_trials_at_once():
    chosen = settings(models=["unet"], losses=["dice"], search={"spaces": {"max_grad_norm": [0.0, 1.0]}, "num_samples": 3})
    assert first_cells(chosen, 7) == cells(chosen, 7)
    assert batch_sizes(chosen, 7) == [3]


def search_with(chosen, scores):
    """The width of each trial of a search with Optuna, whose score is a multiple of it."""
    begun = first_cells(chosen, 7)
    sizes = [len(begun)]
    while len(sizes) < len(batch_sizes(chosen, 7)):
        tried = [(cell, scores[cell.name.partition("-draw")[0]] * cell.drawn.get("unet.width", 0)) for cell in begun]
        proposed = propose_cells(chosen, 7, len(sizes), tried)
        begun, sizes = begun + proposed, [*sizes, len(proposed)]
    assert sizes == batch_sizes(chosen, 7)
    return {cell.name: cell.drawn.get("unet.width") for cell in begun}


def test_optuna_is_asked_for_each_cell_with_its_own_results():
    search = {"spaces": {"unet.width": {"low": 4, "high": 512}}, "num_samples": 5, "searcher": "optuna", "trials_per_round": 2}
    chosen = settings(models=["unet", "downup"], losses=["dice", "focal"], search=search)
    scores = {"unet-dice": 1, "unet-focal": -1, "downup-dice": 0, "downup-focal": 0}
    found = search_with(chosen, scores)
    drawn = {f"unet-{loss}-draw{number}" for loss in ("dice", "focal") for number in range(1, 6)}
    assert set(found) == {"downup-dice", "downup-focal", *drawn}
    assert search_with(chosen, scores) == found
    other = search_with(chosen, scores | {"unet-focal": 1})
    changed = {name for name in found if found[name] != other[name]}
    assert changed
    assert changed <= {f"unet-focal-draw{number}" for number in (3, 4, 5)}


def test_a_cell_is_made_again_of_its_name_and_what_was_drawn(drawn):
    first = drawn[0]
    again = drawn_cell(first.settings, first.seed, first.name, first.drawn)
    assert (again.name, again.model, again.loss) == (first.name, first.model, first.loss)
    assert again.settings.learning_rate == first.settings.learning_rate
    heir = drawn_cell(first.settings, first.seed, "unet-dice-draw2-heir1", first.drawn, first.name)
    assert (heir.name, heir.parent, heir.model) == ("unet-dice-draw2-heir1", first.name, first.model)


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
    return chosen.search, cells(chosen, 7)


def test_the_best_quarter_takes_the_place_of_the_worst_of_its_own_cell(population):
    search, members = population
    # The n-th draw scores n; all of focal are worse than all of dice.
    scores = {cell.name: int(cell.name[-1]) + 10 * ("dice" in cell.name) for cell in members}
    found = {name: (heir.name, heir.parent) for name, heir in heirs(members, scores, search, 2).items()}
    assert found == {
        f"unet-{loss}-draw{worse}": (f"unet-{loss}-draw{worse}-heir2", f"unet-{loss}-draw{better}")
        for loss in ("dice", "focal")
        for worse, better in ((1, 7), (2, 8))
    }


def test_an_heir_of_an_heir_keeps_a_short_name(population):
    search, members = population
    [dice, *_] = [cell for cell in members if "dice" in cell.name]
    four = [replace(dice, name=f"unet-dice-draw{number}-heir1") for number in range(4)]
    scores = {cell.name: float(number) for number, cell in enumerate(four)}
    [heir] = heirs(four, scores, search, 5).values()
    assert (heir.name, heir.parent) == ("unet-dice-draw0-heir5", "unet-dice-draw3-heir1")


def test_who_failed_is_replaced_and_has_no_heirs(population):
    search, members = population
    four = [cell for cell in members if "dice" in cell.name][:4]
    names = [cell.name for cell in four]
    [(worse, heir)] = heirs(four, dict(zip(names, (0.5, -1.0, 0.1, 0.2), strict=True)), search, 1).items()
    assert (worse, heir.parent) == (names[1], names[0])
    assert heirs(four, dict.fromkeys(names, -1.0), search, 1) == {}


def test_three_are_no_population(population):
    search, members = population
    assert heirs(members[:3], {cell.name: 0.0 for cell in members[:3]}, search, 0) == {}


def test_an_heir_is_its_parent_with_values_nearby_or_drawn_anew_once_in_four_times(population):
    search, members = population
    dice = [cell for cell in members if "dice" in cell.name]
    scores = {cell.name: float(number) for number, cell in enumerate(dice)}
    near, all_heirs = 0, [heir for rung in range(200) for heir in heirs(dice, scores, search, rung).values()]
    parents = {cell.name: cell for cell in dice}
    for heir in all_heirs:
        before = parents[heir.parent].drawn
        assert set(heir.drawn) == set(before)
        assert heir.settings.learning_rate == heir.drawn["learning_rate"]
        assert heir.settings.batch_size == heir.drawn["batch_size"]
        assert heir.loss[0].weight == heir.drawn["dice.weight"]
        assert heir.seed == parents[heir.parent].seed
        factor = heir.drawn["learning_rate"] / before["learning_rate"]
        near += any(factor == pytest.approx(moved) for moved in (0.8, 1.2))
    assert near / len(all_heirs) == pytest.approx(3 / 4, abs=0.07)
