"""The facts about the data that a loss is built with, and the label maps that its preparation step may need."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Task:
    """The classes of the data.

    Attributes:
        names: The names of the classes, in the order of their ids.
        background: The id of the class that is not foreground, or None.
        pixels: The labelled pixels of each class in the training split; empty if they are not known.
        prepared: The folder that the preparation step of the loss filled, or None if the loss has no such step.
    """

    names: tuple[str, ...]
    background: int | None = None
    pixels: tuple[int, ...] = ()
    prepared: Path | None = None


@dataclass(frozen=True, kw_only=True)
class LabelBatches:
    """The label maps that a preparation step is given, as batches of class ids (b, h, w), 255 = ignored.

    Attributes:
        classes: The number of classes.
        device: The device of the batches.
        train: A function of a batch size and a number of batches that yields random batches of the training split.
        val: A function of a batch size that yields the validation split once.
    """

    classes: int
    device: torch.device
    train: Callable[[int, int], Iterator[Tensor]]
    val: Callable[[int], Iterator[Tensor]]
