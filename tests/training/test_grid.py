"""The trials of a grid: draws that compare cells fairly, rungs, finalists' seeds."""

import json
import math

import pytest

from segline.params import Search, load
from segline.training.grid import best, cells, rungs, survivors, with_seed


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
    search = {"spaces": spaces, "samples": 4}
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


def test_a_finalist_is_the_same_with_another_seed(drawn):
    again = with_seed(drawn[0], 9)
    assert (again.name, again.seed) == ("unet-dice-draw1-seed9", 9)
    assert (again.settings, again.model, again.loss) == (drawn[0].settings, drawn[0].model, drawn[0].loss)


@pytest.mark.parametrize(
    ("search", "epochs", "expected"),
    [
        (Search(min_epochs=2, reduction=3), 20, [2, 6, 18, 20]),
        (Search(min_epochs=1, reduction=4), 16, [1, 4, 16]),
        (Search(min_epochs=8), 8, [8]),
        (Search(min_epochs=2, scheduler="none"), 20, [20]),
        (Search(min_epochs=2, scheduler="asha"), 20, [20]),
    ],
)
def test_rungs(search, epochs, expected):
    assert rungs(search, epochs) == expected


def test_the_best_third_goes_on_and_no_fewer_than_finalists():
    scores = {"a": 0.1, "b": 0.5, "c": 0.5, "d": 0.2, "e": 0.3, "f": 0.0, "g": 0.4}
    assert survivors(scores, Search(reduction=3)) == ["b", "c", "g"]
    assert survivors(scores, Search(reduction=7)) == ["b"]
    assert survivors(scores, Search(reduction=7, finalists=2)) == ["b", "c"]
    assert best(scores, 3) == ["b", "c", "g"]
