"""Figures: label maps over images, comparisons side by side, and training curves.

Names are shown as they are: none is read as a formula of matplotlib, whatever `$`, `_`, `^` or backslash it holds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from segline.classes import IGNORED, LabelClass
from segline.data.boxes import Box

BLACK = (0, 0, 0)
OPACITY = 0.6
BOX_COLOR = "magenta"
MAX_NAMED = 10
"""The number of best curves that have a colour and a name."""

Location = Literal["outside lower center", "outside right upper"]
"""The place of a legend."""


def overlay(image: NDArray[np.uint8], ids: NDArray[np.integer], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Blend class colors over an image (h, w, 3); black classes and ignored pixels show the image."""
    colors, shown = _color_table(classes)
    blended = (1 - OPACITY) * image + OPACITY * colors[ids]
    return np.where(shown[ids][..., None], blended, image).astype(np.uint8)


def outline(image: NDArray[np.uint8], ids: NDArray[np.integer], classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Draw class colors on an image (h, w, 3) along the inner border of each region."""
    colors, shown = _color_table(classes)
    padded = np.pad(ids, 1, mode="edge")
    neighbors = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edge = np.logical_or.reduce([ids != neighbor for neighbor in neighbors])
    return np.where((edge & shown[ids])[..., None], colors[ids], image).astype(np.uint8)


def draw_comparison(
    image: NDArray[np.uint8], maps: Mapping[str, NDArray[np.integer]], classes: Sequence[LabelClass], path: Path
) -> None:
    """Write an image and label maps over it side by side, with a legend of the classes that occur."""
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
    *,
    box: Box,
    title: str,
    path: Path,
) -> None:
    """Write a label's outline and a prediction (the two maps) over an image side by side, with a box on both."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    for axis, draw, (name, ids) in zip(figure.subplots(1, 2), (outline, overlay), maps.items(), strict=True):
        _show(axis, draw(image, ids, classes), name)
        corner = (box.left - 0.5, box.top - 0.5)
        axis.add_patch(Rectangle(corner, box.width, box.height, fill=False, color=BOX_COLOR, linewidth=1.5))
    figure.suptitle(title, fontsize=9, parse_math=False)
    _add_legend(figure, list(maps.values()), classes)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_leaderboard(board: pd.DataFrame, path: Path) -> None:
    """Write the best validation mIoU of every trial as bars, best first; trials that ended early are pale."""
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(board)), layout="constrained")
    axis = figure.subplots()
    positions = range(len(board))
    alphas = [1.0 if status == "finished" else 0.35 for status in board["status"]]
    bars = axis.barh(positions, board["val_miou"].fillna(0), color="C0")
    for bar, alpha, epochs, score in zip(bars, alphas, board["epochs"], board["val_miou"], strict=True):
        bar.set_alpha(alpha)
        axis.annotate(
            f" {score:.3f}, {epochs} epochs", (max(0, bar.get_width()), bar.get_y() + 0.4), va="center", fontsize=8
        )
    axis.set_yticks(positions, list(board["trial"]), fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set(xlabel="best validation mIoU")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_curves(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Write the losses and the validation mIoU by epoch: the best trials in colour, the others in grey behind."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = sorted(histories, key=lambda name: -histories[name]["val_miou"].max())
    curves: dict[str, Artist] = {}
    for rank, name in reversed(list(enumerate(ranked))):
        history, named = histories[name], rank < MAX_NAMED
        style = {"color": f"C{rank}"} if named else {"color": "0.8", "linewidth": 0.8}
        left.plot(history["epoch"], history["train_loss"], linestyle="--", **style)
        left.plot(history["epoch"], history["val_loss"], **style)
        [curve] = right.plot(history["epoch"], history["val_miou"], marker=".", **style)
        if named:
            curves[name] = curve
    left.set(xlabel="epoch", ylabel="loss", title="loss: training dashed, validation solid", yscale="log")
    right.set(xlabel="epoch", ylabel="mIoU", title="validation mIoU")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    _add_names(figure, list(curves.values())[::-1], list(curves)[::-1], "outside right upper")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _show(axis: Axes, image: NDArray[np.uint8], title: str) -> None:
    axis.imshow(image)
    axis.set_title(title, fontsize=8, parse_math=False)
    axis.axis("off")


def _add_legend(figure: Figure, maps: Sequence[NDArray[np.integer]], classes: Sequence[LabelClass]) -> None:
    """Add a legend of the classes that occur, without the black ones."""
    present = sorted(set(np.concatenate([np.unique(ids) for ids in maps])) - {IGNORED})
    shown = [classes[class_id] for class_id in present if classes[class_id].color != BLACK]
    handles = [Patch(color="#{:02x}{:02x}{:02x}".format(*entry.color)) for entry in shown]
    _add_names(figure, handles, [entry.name for entry in shown], "outside lower center", columns=8)


def _add_names(
    figure: Figure, handles: Sequence[Artist], names: Sequence[str], location: Location, *, columns: int = 1
) -> None:
    """Add a legend. Its texts are set after it is made, as matplotlib leaves out names that begin with ``_``."""
    labels = [str(number) for number in range(len(names))]
    legend = figure.legend(handles, labels, loc=location, ncols=columns, fontsize=8, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)


def _color_table(classes: Sequence[LabelClass]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the color of each class id (256, 3) and whether it is shown (256)."""
    colors, shown = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    colors[: len(classes)] = [entry.color for entry in classes]
    shown[: len(classes)] = [entry.color != BLACK for entry in classes]
    shown[IGNORED] = False
    return colors, shown
