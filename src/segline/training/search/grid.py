"""The trials of a search: every model x loss, with the hyperparameters that are drawn for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from segline.config.components import ComponentSpec
from segline.config.sections import Search, Train
from segline.config.spaces import Space
from segline.training.search.optuna import propose

REPLACED = 1 / 4
"""Share of a population that heirs take the place of."""
RESAMPLED = 1 / 4
"""Share of the hyperparameters that an heir does not inherit (Jaderberg et al. 2017, appendix A.1)."""


@dataclass(frozen=True)
class TrialConfig:
    """One training: an architecture with a loss, its settings and its seed.

    Attributes:
        name: such as ``unet-dice``, ``unet-dice.2`` for its twin, ``unet-dice-draw3``, ``unet-dice-draw3-seed8``,
            ``unet-dice-draw3-heir2`` for one that goes on in place of the third.
        model: the architecture.
        loss: the terms of a weighted sum.
        settings: of the training, with what was drawn.
        seed: of every random choice.
        drawn: what was drawn, by hyperparameter.
        parent: whose weights it goes on with, if it is an heir.
    """

    name: str
    model: ComponentSpec
    loss: tuple[ComponentSpec, ...]
    settings: Train
    seed: int
    drawn: dict[str, Any] = field(default_factory=dict)
    parent: str = ""


def cells(settings: Train, seed: int) -> list[TrialConfig]:
    """Every model x loss, each as often as hyperparameters are drawn for it.

    The n-th draw is the same in all cells, so that they are compared fairly, and the draws of a hyperparameter are
    spread evenly over its space (McKay et al. 1979, Latin hypercube sampling).
    """
    return [trial for cell in _named(settings, seed) for trial in _draws(cell, settings.search)]


def batch_sizes(settings: Train, seed: int) -> list[int]:
    """How many trials are begun together, one batch after the other: all at once, unless Optuna looks in between."""
    search, named = settings.search, _named(settings, seed)
    drawing = sum(bool(_spaces(cell, search)) for cell in named)
    step = search.num_samples if search.searcher == "random" or not drawing else search.trials_per_round
    sizes = [drawing * min(step, search.num_samples - first) for first in range(0, search.num_samples, step)]
    return [len(named) - drawing + sizes[0], *sizes[1:]]


def first_cells(settings: Train, seed: int) -> list[TrialConfig]:
    """The trials of the first batch: of a random search all, of Optuna's ``at_once`` draws of each model x loss."""
    search = settings.search
    first = search.num_samples if search.searcher == "random" else min(search.trials_per_round, search.num_samples)
    return cells(replace(settings, search=replace(search, num_samples=first)), seed)


def propose_cells(
    settings: Train, seed: int, batch: int, tried: Sequence[tuple[TrialConfig, float]]
) -> list[TrialConfig]:
    """The trials of a later batch, by Optuna.

    Args:
        settings: of the grid and its search.
        seed: of every draw.
        batch: its number, from 0.
        tried: the trials so far, each with its score.
    """
    search = settings.search
    numbers = range(batch * search.trials_per_round, min((batch + 1) * search.trials_per_round, search.num_samples))
    return [trial for cell in _named(settings, seed) for trial in _proposed(cell, search, numbers, tried)]


def _proposed(
    cell: TrialConfig, search: Search, numbers: range, tried: Sequence[tuple[TrialConfig, float]]
) -> list[TrialConfig]:
    spaces = _spaces(cell, search)
    if not spaces:
        return []
    results = [(trial.drawn, score) for trial, score in tried if _family(trial.name) == cell.name]
    proposals = propose(spaces, results, f"{cell.seed}/{cell.name}/{numbers.start}", len(numbers))
    return [_with(cell, f"-draw{number + 1}", drawn) for number, drawn in zip(numbers, proposals, strict=False)]


def drawn_cell(settings: Train, seed: int, name: str, drawn: dict[str, Any], parent: str = "") -> TrialConfig:
    """The cell of a name with what was drawn for it."""
    [cell] = [cell for cell in _named(settings, seed) if cell.name == _family(name)]
    return replace(_with(cell, "", drawn), name=name, parent=parent)


def heirs(
    cells: Sequence[TrialConfig], scores: Mapping[str, float], search: Search, rung: int
) -> dict[str, TrialConfig]:
    """Whom population-based training puts in place of the worst quarter of each model x loss (Jaderberg et al. 2017).

    An heir goes on with the weights of one of the best quarter and with its hyperparameters, each moved to a value
    nearby, or drawn anew once in four times (section 4.1.1 and appendix A.1).

    Args:
        cells: that are trained.
        scores: by name; below zero of those that failed, which have no heirs.
        search: what is drawn.
        rung: number of the rung, from 1.

    Returns:
        The name of the one that ends -> the heir.
    """
    populations: dict[str, dict[str, TrialConfig]] = {}
    for cell in cells:
        populations.setdefault(_family(cell.name), {})[cell.name] = cell
    found = {}
    for members in populations.values():
        ranked = best({name: scores[name] for name in members}, len(members))
        quarter = int(len(ranked) * REPLACED)
        for worse, better in zip(ranked[len(ranked) - quarter :], ranked, strict=False):
            if scores[better] >= 0:
                found[worse] = _heir(members[better], f"{worse.partition('-heir')[0]}-heir{rung}", search)
    return found


def _heir(parent: TrialConfig, name: str, search: Search) -> TrialConfig:
    drawn = {}
    for key, value in parent.drawn.items():
        random, space = Random(f"{parent.seed}/{name}/{key}"), search.spaces[key]
        is_new = random.random() < RESAMPLED
        drawn[key] = space.at(random.random()) if is_new else space.near(value, above=random.random() < 1 / 2)
    return replace(_with(parent, "", drawn), name=name, parent=parent.name)


def _family(name: str) -> str:
    """The model x loss that a trial is of."""
    return name.partition("-draw")[0]


def _named(settings: Train, seed: int) -> list[TrialConfig]:
    """Every model x loss."""
    named: dict[str, TrialConfig] = {}
    for model in settings.models:
        for loss in settings.losses:
            name = f"{model.name}-{'+'.join(term.name for term in loss)}".replace("/", "_")
            twins = sum(known.partition(".")[0] == name for known in named)
            name = f"{name}.{twins + 1}" if twins else name
            named[name] = TrialConfig(name, model, loss, settings, seed)
    return list(named.values())


def with_seed(cell: TrialConfig, seed: int) -> TrialConfig:
    """The same training with another seed."""
    return replace(cell, name=f"{cell.name}-seed{seed}", seed=seed)


def rungs(search: Search, epochs: int) -> list[int]:
    """The epochs after which successive halving looks at the trials; the last one is the end.

    Jamieson and Talwalkar 2016: from ``grace_period`` on, each rung has ``reduction_factor`` times as many.
    Population-based training looks every ``perturbation_interval``.
    """
    if search.scheduler == "pbt":
        return [*range(search.perturbation_interval, epochs, search.perturbation_interval), epochs]
    found = []
    rung = search.grace_period
    while search.scheduler == "halving" and rung < epochs:
        found.append(rung)
        rung *= search.reduction_factor
    return [*found, epochs]


def survivors(scores: Mapping[str, float], search: Search) -> list[str]:
    """The trials that go on after a rung: one in ``reduction``, and no fewer than finalists.

    The best of each model x loss come first, then the second best of each, and so on: a loss whose score rises late is
    not stopped by others, whose scores mean something else so early.
    """
    places: dict[str, int] = {}
    families: Counter[str] = Counter()
    for name in best(scores, len(scores)):
        families[_family(name)] += 1
        places[name] = families[_family(name)]
    count = max(search.finalists, -(-len(scores) // search.reduction_factor))
    return sorted(scores, key=lambda name: (places[name], -scores[name], name))[:count]


def best(scores: Mapping[str, float], count: int) -> list[str]:
    """The names of the highest scores; of equal ones the first name."""
    return sorted(scores, key=lambda name: (-scores[name], name))[:count]


def _draws(cell: TrialConfig, search: Search) -> list[TrialConfig]:
    spaces = _spaces(cell, search)
    if not spaces:
        return [cell]
    shares = {key: _shares(f"{cell.seed}/{key}", search.num_samples) for key in spaces}
    return [
        _with(cell, f"-draw{number + 1}", {key: space.at(shares[key][number]) for key, space in spaces.items()})
        for number in range(search.num_samples)
    ]


def _spaces(cell: TrialConfig, search: Search) -> dict[str, Space]:
    """What is drawn for a cell."""
    return {key: search.spaces[key] for key in sorted(search.spaces) if _applies(key, cell)}


def _shares(seed: str, count: int) -> list[float]:
    """A random point in each of ``count`` equal parts of [0, 1), in random order."""
    random = Random(seed)
    points = [(part + random.random()) / count for part in range(count)]
    return sorted(points, key=lambda point: random.random())


def _applies(key: str, cell: TrialConfig) -> bool:
    """Whether a cell has this hyperparameter: those of train always, an option if its model or loss is there."""
    owner, _, option = key.rpartition(".")
    return not option or owner in ("", "augment", cell.model.name, *(term.name for term in cell.loss))


def _with(cell: TrialConfig, suffix: str, drawn: dict[str, Any]) -> TrialConfig:
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
    return TrialConfig(cell.name + suffix, model, loss, settings, cell.seed, drawn)


def _set(choice: ComponentSpec, owner: str, option: str, value: Any) -> ComponentSpec:
    if choice.name != owner:
        return choice
    return (
        replace(choice, weight=value)
        if option == "weight"
        else replace(choice, options={**choice.options, option: value})
    )
