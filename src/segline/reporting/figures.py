"""Pictures of the line: label maps over images, side by side, and curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.boxes import Box

BLACK = (0, 0, 0)
OPACITY = 0.6
MARK = "magenta"
NAMED = 10
"""Curves that have a colour and a name."""


def overlay(image: NDArray[np.uint8], ids: NDArray[np.integer], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Class colours over an image (h, w, 3); black classes and ignored pixels show the image."""
    colors, shown = _colors(classes)
    mixed = (1 - OPACITY) * image + OPACITY * colors[ids]
    return np.where(shown[ids][..., None], mixed, image).astype(np.uint8)


def outline(image: NDArray[np.uint8], ids: NDArray[np.integer], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Class colours on an image (h, w, 3) where a region of a class borders on another, within it."""
    colors, shown = _colors(classes)
    wide = np.pad(ids, 1, mode="edge")
    beside = (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:])
    edge = np.logical_or.reduce([ids != other for other in beside])
    return np.where((edge & shown[ids])[..., None], colors[ids], image).astype(np.uint8)


def draw_comparison(
    image: NDArray[np.uint8], maps: Mapping[str, NDArray[np.integer]], classes: Sequence[LabelClass], path: Path
) -> None:
    """Write the image and label maps over it side by side, with a legend of the classes that occur."""
    figure = Figure(figsize=(2.6 * (len(maps) + 1), 3.3), layout="constrained")
    axes = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    _show(axes[0], image, "image")
    for axis, (title, ids) in zip(axes[1:], maps.items(), strict=True):
        _show(axis, overlay(image, ids, classes), title)
    _add_legend(figure, list(maps.values()), classes)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_suspect(
    image: NDArray[np.uint8],
    maps: Mapping[str, NDArray[np.integer]],
    classes: Sequence[LabelClass],
    box: Box,
    title: str,
    path: Path,
) -> None:
    """Write a label's outline and a prediction (the two maps) over an image side by side, a box drawn on both."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    for axis, draw, (name, ids) in zip(figure.subplots(1, 2), (outline, overlay), maps.items(), strict=True):
        _show(axis, draw(image, ids, classes), name)
        corner = (box.left - 0.5, box.top - 0.5)
        axis.add_patch(Rectangle(corner, box.width, box.height, fill=False, color=MARK, linewidth=1.5))
    figure.suptitle(title, fontsize=9, parse_math=False)
    _add_legend(figure, list(maps.values()), classes)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_leaderboard(board: pd.DataFrame, path: Path) -> None:
    """Write the best validation mIoU of every trial as bars, the best on top; those that ended early are pale."""
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(board)), layout="constrained")
    axis = figure.subplots()
    places = range(len(board))
    alphas = [1.0 if status == "finished" else 0.35 for status in board["status"]]
    bars = axis.barh(places, board["val_miou"].fillna(0), color="C0")
    for drawn, alpha, epochs, score in zip(bars, alphas, board["epochs"], board["val_miou"], strict=True):
        drawn.set_alpha(alpha)
        axis.annotate(
            f" {score:.3f}, {epochs} epochs", (max(0, drawn.get_width()), drawn.get_y() + 0.4), va="center", fontsize=8
        )
    axis.set_yticks(places, [name.replace("$", r"\$") for name in board["trial"]], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set(xlabel="best validation mIoU")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_curves(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Write the losses and the validation mIoU by epoch: the best in colour, the others in grey behind them."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = sorted(histories, key=lambda name: -histories[name]["val_miou"].max())
    for rank, name in reversed(list(enumerate(ranked))):
        history, named = histories[name], rank < NAMED
        style = {"color": f"C{rank}"} if named else {"color": "0.8", "linewidth": 0.8}
        left.plot(history["epoch"], history["train_loss"], linestyle="--", **style)
        left.plot(history["epoch"], history["val_loss"], **style)
        right.plot(history["epoch"], history["val_miou"], marker=".", label=name if named else None, **style)
    left.set(xlabel="epoch", ylabel="loss", title="loss: training dashed, validation solid", yscale="log")
    right.set(xlabel="epoch", ylabel="mIoU", title="validation mIoU")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _show(axis: Axes, image: NDArray[np.uint8], title: str) -> None:
    axis.imshow(image)
    axis.set_title(title, fontsize=8)
    axis.axis("off")


def _add_legend(figure: Figure, maps: Sequence[NDArray[np.integer]], classes: Sequence[LabelClass]) -> None:
    """The classes that occur, but for the black ones."""
    there = sorted(set(np.concatenate([np.unique(ids) for ids in maps])) - {IGNORED})
    shown = [classes[class_id] for class_id in there if classes[class_id].color != BLACK]
    handles = [Patch(color="#{:02x}{:02x}{:02x}".format(*entry.color), label=entry.name) for entry in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False)


def _colors(classes: Sequence[LabelClass]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """By class id (256): the colour, and whether it is shown."""
    colors, shown = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    colors[: len(classes)] = [entry.color for entry in classes]
    shown[: len(classes)] = [entry.color != BLACK for entry in classes]
    shown[IGNORED] = False
    return colors, shown
