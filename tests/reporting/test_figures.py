"""Pictures: the overlay pixel by pixel; the drawn files are images, the same at every run."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from segline.classes import IGNORED, LabelClass
from segline.data.boxes import Box
from segline.reporting.figures import (
    draw_comparison,
    draw_curves,
    draw_leaderboard,
    draw_suspect,
    outline,
    overlay,
)

CLASSES = (
    LabelClass("background", (0, 0, 0)),
    LabelClass("car", (0, 114, 178)),
    LabelClass("person", (255, 255, 255)),
)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


@pytest.fixture
def ids():
    return np.random.default_rng(1).choice([0, 1, 2, IGNORED], (9, 7)).astype(np.uint8)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_the_overlay_mixes_three_fifths_of_the_class_colour(image, ids, kind):
    shown = overlay(image, ids.astype(kind), CLASSES)
    assert shown.shape == image.shape
    assert shown.dtype == np.uint8
    for place in np.ndindex(ids.shape):
        if ids[place] in (0, IGNORED):
            assert shown[place].tolist() == image[place].tolist()
        else:
            color = CLASSES[ids[place]].color
            mixed = [(2 * int(below) + 3 * above) / 5 for below, above in zip(image[place], color, strict=True)]
            assert np.abs(shown[place] - mixed).max() < 1


def test_the_overlay_leaves_its_image_alone(image, ids):
    before = image.copy()
    overlay(image, ids, CLASSES)
    np.testing.assert_array_equal(image, before)


def test_the_outline_is_where_a_shown_class_has_another_beside_it(image, ids):
    blocks = ids[:3, :2].repeat(3, 0).repeat(4, 1)[:, :7]
    for mine in (ids, blocks):
        shown = outline(image, mine, CLASSES)
        for y, x in np.ndindex(mine.shape):
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            others = {mine[place] for place in beside if 0 <= place[0] < 9 and 0 <= place[1] < 7} - {mine[y, x]}
            drawn = others and mine[y, x] in (1, 2)
            assert shown[y, x].tolist() == list(CLASSES[mine[y, x]].color if drawn else image[y, x])


def draw_pair(path, image, ids):
    draw_comparison(image, {"label": ids, "unet-dice": np.zeros_like(ids)}, CLASSES, path)


def draw_ignored(path, image, ids):
    draw_comparison(image, {"label": np.full_like(ids, IGNORED)}, CLASSES, path)


def draw_box(path, image, ids):
    maps = {"label": np.zeros_like(ids), "prediction": ids}
    draw_suspect(image, maps, CLASSES, box=Box(1, 2, 4, 3), title="car, 0.9: a $key$ of 1 $", path=path)


def draw_histories(path, image, ids):
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.6], "val_miou": [0.1, 0.2]})
    draw_curves({"unet-dice": history, "unet-bounding_box": history.head(1)}, path)


@pytest.mark.parametrize("draw", [draw_pair, draw_ignored, draw_box, draw_histories])
def test_a_drawing_is_an_image_and_the_same_at_every_run(tmp_path, image, ids, draw):
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png", image, ids)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width > drawn.height > 100
        assert drawn.convert("L").getextrema() != (255, 255)


MARKUP = [
    "$",
    "a $x^2$ b",
    "$unknown{$",
    "_hidden",
    "a_b^c",
    "\\frac{",
    "100 %",
    "<b>",
    "{}",
    "#1",
    "&amp;",
    ":car: [red]",
]


def figures(image, names):
    """Every figure as a function of its path, with two classes of these names, and with trials named so."""
    colors = [(0, 114, 178), (255, 255, 255)]
    classes = tuple(LabelClass(name, color) for name, color in zip(names, colors, strict=True))
    ids = np.random.default_rng(2).integers(0, 2, image.shape[:2])
    maps = {"label": ids, names[0]: ids}
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.6], "val_miou": [0.1, 0.2]})
    board = pd.DataFrame({"trial": names, "status": "finished", "epochs": 2, "val_miou": [0.2, 0.1]})
    return {
        "comparison": partial(draw_comparison, image, maps, classes),
        "suspect": lambda path: draw_suspect(image, maps, classes, box=Box(1, 2, 4, 3), title=names[1], path=path),
        "curves": partial(draw_curves, dict.fromkeys(names, history)),
        "trials": partial(draw_leaderboard, board),
    }


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_drawn_letter_by_letter(tmp_path, image, name, monkeypatch):
    """In every figure the names are among the drawn texts, so none is left out, and none is read as a formula."""
    drawn, draw = [], Text.draw

    def watch(text, renderer):
        drawn.append((text.get_text(), text.get_parse_math()))
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", watch)
    names = [name, f"{name} {name}"]
    for figure, draw_figure in figures(image, names).items():
        drawn.clear()
        draw_figure(tmp_path / f"{figure}.png")
        assert {text for text, _ in drawn} >= set(names), figure
        assert {parsed for text, parsed in drawn if text in names} == {False}, figure
