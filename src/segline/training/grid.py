"""The trials of a search: every model x loss, with the hyperparameters that are drawn for it."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from segline.params import Choice, Search, Train


@dataclass(frozen=True)
class Cell:
    """One training: an architecture with a loss, its settings and its seed.

    Attributes:
        name: such as ``unet-dice``, ``unet-dice.2`` for its twin, ``unet-dice-draw3``, ``unet-dice-draw3-seed8``.
        model: the architecture.
        loss: the terms of a weighted sum.
        settings: of the training, with what was drawn.
        seed: of every random choice.
        drawn: what was drawn, by hyperparameter.
    """

    name: str
    model: Choice
    loss: tuple[Choice, ...]
    settings: Train
    seed: int
    drawn: dict[str, Any] = field(default_factory=dict)


def cells(settings: Train, seed: int) -> list[Cell]:
    """Every model x loss, each as often as hyperparameters are drawn for it.

    The n-th draw is the same in all cells, so that they are compared fairly, and the draws of a hyperparameter are
    spread evenly over its space (McKay et al. 1979, Latin hypercube sampling).
    """
    named: dict[str, Cell] = {}
    for model in settings.models:
        for loss in settings.losses:
            name = f"{model.name}-{'+'.join(term.name for term in loss)}".replace("/", "_")
            twins = sum(known.partition(".")[0] == name for known in named)
            name = f"{name}.{twins + 1}" if twins else name
            named[name] = Cell(name, model, loss, settings, seed)
    return [trial for cell in named.values() for trial in _draws(cell, settings.search)]


def with_seed(cell: Cell, seed: int) -> Cell:
    """The same training with another seed."""
    return replace(cell, name=f"{cell.name}-seed{seed}", seed=seed)


def rungs(search: Search, epochs: int) -> list[int]:
    """The epochs after which successive halving looks at the trials; the last one is the end.

    Jamieson and Talwalkar 2016: from ``min_epochs`` on, each rung has ``reduction`` times as many.
    """
    found = []
    rung = search.min_epochs
    while search.scheduler == "halving" and rung < epochs:
        found.append(rung)
        rung *= search.reduction
    return [*found, epochs]


def survivors(scores: dict[str, float], search: Search) -> list[str]:
    """The trials that go on: one in ``reduction``, rounded up, and no fewer than finalists."""
    return best(scores, max(search.finalists, -(-len(scores) // search.reduction)))


def best(scores: dict[str, float], count: int) -> list[str]:
    """The names of the highest scores; of equal ones the first name."""
    return sorted(scores, key=lambda name: (-scores[name], name))[:count]


def _draws(cell: Cell, search: Search) -> list[Cell]:
    keys = sorted(key for key in search.spaces if _applies(key, cell))
    if not keys:
        return [cell]
    shares = {key: _shares(f"{cell.seed}/{key}", search.samples) for key in keys}
    return [
        _with(cell, f"-draw{number + 1}", {key: search.spaces[key].at(shares[key][number]) for key in keys})
        for number in range(search.samples)
    ]


def _shares(seed: str, count: int) -> list[float]:
    """A random point in each of ``count`` equal parts of [0, 1), in random order."""
    random = Random(seed)
    points = [(part + random.random()) / count for part in range(count)]
    return sorted(points, key=lambda point: random.random())


def _applies(key: str, cell: Cell) -> bool:
    """Whether a cell has this hyperparameter: those of train always, an option if its model or loss is there."""
    owner, _, option = key.rpartition(".")
    return not option or owner in ("", "augment", cell.model.name, *(term.name for term in cell.loss))


def _with(cell: Cell, suffix: str, drawn: dict[str, Any]) -> Cell:
    """The cell with values for some hyperparameters."""
    model, loss, settings = cell.model, cell.loss, cell.settings
    for key, value in drawn.items():
        owner, _, option = key.rpartition(".")
        if not owner:
            settings = replace(settings, **{option: value})
        elif owner == "augment":
            settings = replace(settings, augment=replace(settings.augment, **{option: value}))
        else:
            model = _set(model, owner, option, value)
            loss = tuple(_set(term, owner, option, value) for term in loss)
    return Cell(cell.name + suffix, model, loss, settings, cell.seed, drawn)


def _set(choice: Choice, owner: str, option: str, value: Any) -> Choice:
    if choice.name != owner:
        return choice
    return (
        replace(choice, weight=value)
        if option == "weight"
        else replace(choice, options={**choice.options, option: value})
    )
