"""The names, options and defaults that are read from the source equal those of the imported objects."""

import inspect
from importlib import import_module

import pytest

from segline.config import tables
from segline.config.fields import find_error
from segline.data.layouts import LAYOUTS
from segline.losses import LOSSES

PARTS = pytest.mark.parametrize(
    ("package", "table"), [("models", "MODELS"), ("losses", "LOSSES"), ("data.layouts", "LAYOUTS")]
)


def keyword_only(entry):
    found = inspect.signature(entry, eval_str=True).parameters
    return {name: known for name, known in found.items() if known.kind is inspect.Parameter.KEYWORD_ONLY}


@PARTS
def test_names_options_annotations_and_defaults_are_those_of_the_imported_objects(package, table):
    imported = getattr(import_module(f"segline.{package}"), table)
    expected = {
        name: {option: known.annotation for option, known in keyword_only(entry).items()}
        for name, entry in imported.items()
    }
    assert tables.options(package) == expected
    assert tables.defaults(package) == {
        name: {option: known.default for option, known in keyword_only(entry).items()}
        for name, entry in imported.items()
    }
    assert list(tables.options(package)) == sorted(imported), "the table is sorted by name"


@PARTS
def test_every_option_has_a_default_that_fits_and_says_what_it_means(package, table):
    for entry in getattr(import_module(f"segline.{package}"), table).values():
        for known in keyword_only(entry).values():
            assert find_error(known.default, known.annotation) is None, (entry, known)
            assert any(isinstance(note, str) for note in known.annotation.__metadata__), (entry, known)


def test_the_distance_maps_of_a_loss_are_those_of_its_class():
    for name, loss in LOSSES.items():
        assert tables.distances(name) == getattr(loss, "distances", ()), name
    assert {name for name in LOSSES if tables.distances(name)} == {"boundary", "distance_map", "touching_border"}


def test_a_loss_that_needs_more_than_single_pixels_says_so():
    for name, loss in LOSSES.items():
        own = bool(getattr(loss, "distances", ())) or getattr(loss, "needs_neighbors", False)
        assert tables.needs_neighbors(name) == own, name


def test_the_classes_of_a_layout_are_those_of_its_label_spec():
    for name, layout in LAYOUTS.items():
        known = tables.class_names(name)
        assert known == (() if layout().classes_file else layout().label_spec("").names), name
