"""The trials of a grid: samples that compare every model x loss fairly, rounds of Optuna, finalists' seeds."""

import json
import math

import pytest

from segline.config.loader import load
from segline.training.search.grid import config_of, first_round, grid_configs, next_round, round_sizes, with_seed


def settings(**train):
    return load(json.dumps({"train": train})).train


def test_without_spaces_each_cell_is_one_trial():
    found = grid_configs(settings(models=["unet", "downup"], losses=["dice", {"dice": {}, "cross_entropy": {}}]), 7)
    assert [config.name for config in found] == [
        "unet-dice",
        "unet-dice+cross_entropy",
        "downup-dice",
        "downup-dice+cross_entropy",
    ]
    assert {config.seed for config in found} == {7}


def test_twins_of_the_grid_have_names_of_their_own():
    models = [{"unet": {"width": 1}}, {"unet": {"width": 2}}]
    found = grid_configs(settings(models=models, losses=["dice", {"dice": {"squared": True}}]), 7)
    assert [config.name for config in found] == ["unet-dice", "unet-dice.2", "unet-dice.3", "unet-dice.4"]


@pytest.fixture(scope="module")
def sampled():
    spaces = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "augment.flip": [0.0, 0.5],
        "bounding_box.beta_bg": [0.01, 0.05, 0.1, 0.2],
        "dice.weight": {"low": 0.5, "high": 2.0},
        "unet.width": {"low": 4, "high": 16},
    }
    search = {"spaces": spaces, "num_samples": 4}
    return grid_configs(settings(models=["unet", "downup"], losses=["dice", "bounding_box"], search=search), 3)


def test_a_cell_has_only_what_it_can_use(sampled):
    found = {config.name: set(config.sampled) for config in sampled if config.name.endswith("draw1")}
    common = {"learning_rate", "augment.flip"}
    assert found == {
        "unet-dice-draw1": {*common, "dice.weight", "unet.width"},
        "unet-bounding_box-draw1": {*common, "bounding_box.beta_bg", "unet.width"},
        "downup-dice-draw1": {*common, "dice.weight"},
        "downup-bounding_box-draw1": {*common, "bounding_box.beta_bg"},
    }
    assert len(sampled) == 16


def test_what_is_drawn_is_what_is_trained(sampled):
    for config in sampled:
        assert config.settings.learning_rate == config.sampled["learning_rate"]
        assert config.settings.augment.flip == config.sampled["augment.flip"]
        [term] = config.loss
        assert term.weight == config.sampled.get("dice.weight", 1.0)
        assert term.options.get("beta_bg") == config.sampled.get("bounding_box.beta_bg")
        assert config.model.options.get("width") == config.sampled.get("unet.width")


def test_the_nth_draw_is_the_same_in_all_cells_and_draws_are_spread_evenly(sampled):
    rates = {}
    for config in sampled:
        rates.setdefault(config.name.rpartition("-")[2], set()).add(config.sampled["learning_rate"])
    assert all(len(found) == 1 for found in rates.values())
    quarters = sorted(math.floor((math.log10(found.pop()) + 4) / 2 * 4) for found in rates.values())
    assert quarters == [0, 1, 2, 3]
    weights = [config.sampled["bounding_box.beta_bg"] for config in sampled if "unet-bounding" in config.name]
    assert sorted(weights) == [0.01, 0.05, 0.1, 0.2]


def test_another_seed_draws_others(sampled):
    first = sampled[0].settings
    other = grid_configs(first, 4)
    assert [config.sampled for config in other] != [config.sampled for config in sampled]
    assert [config.sampled for config in grid_configs(first, 3)] == [config.sampled for config in sampled]


def test_a_finalist_is_the_same_with_another_seed(sampled):
    again = with_seed(sampled[0], 9)
    assert (again.name, again.seed) == ("unet-dice-draw1-seed9", 9)
    assert (again.settings, again.model, again.loss) == (sampled[0].settings, sampled[0].model, sampled[0].loss)


def test_a_random_search_begins_all_trials_at_once():
    chosen = settings(
        models=["unet"], losses=["dice"], search={"spaces": {"max_grad_norm": [0.0, 1.0]}, "num_samples": 3}
    )
    assert first_round(chosen, 7) == grid_configs(chosen, 7)
    assert round_sizes(chosen, 7) == [3]


def search_with(chosen, scores):
    """The width of each trial of a search with Optuna, whose score is a multiple of it."""
    begun = first_round(chosen, 7)
    sizes = [len(begun)]
    while len(sizes) < len(round_sizes(chosen, 7)):
        tried = [
            (config, scores[config.name.partition("-draw")[0]] * config.sampled.get("unet.width", 0))
            for config in begun
        ]
        proposed = next_round(chosen, 7, len(sizes), tried)
        begun, sizes = begun + proposed, [*sizes, len(proposed)]
    assert sizes == round_sizes(chosen, 7)
    return {config.name: config.sampled.get("unet.width") for config in begun}


def test_optuna_is_asked_for_each_cell_with_its_own_results():
    search = {
        "spaces": {"unet.width": {"low": 4, "high": 512}},
        "num_samples": 5,
        "searcher": "optuna",
        "trials_per_round": 2,
    }
    chosen = settings(models=["unet", "downup"], losses=["dice", "focal"], search=search)
    scores = {"unet-dice": 1, "unet-focal": -1, "downup-dice": 0, "downup-focal": 0}
    found = search_with(chosen, scores)
    sampled = {f"unet-{loss}-draw{number}" for loss in ("dice", "focal") for number in range(1, 6)}
    assert set(found) == {"downup-dice", "downup-focal", *sampled}
    assert search_with(chosen, scores) == found
    other = search_with(chosen, scores | {"unet-focal": 1})
    changed = {name for name in found if found[name] != other[name]}
    assert changed
    assert changed <= {f"unet-focal-draw{number}" for number in (3, 4, 5)}


def test_a_cell_is_made_again_of_its_name_and_what_was_drawn(sampled):
    first = sampled[0]
    again = config_of(first.settings, first.seed, first.name, first.sampled)
    assert (again.name, again.model, again.loss) == (first.name, first.model, first.loss)
    assert again.settings.learning_rate == first.settings.learning_rate
    child = config_of(first.settings, first.seed, "unet-dice-draw2-child1", first.sampled, first.name)
    assert (child.name, child.parent, child.model) == ("unet-dice-draw2-child1", first.name, first.model)
