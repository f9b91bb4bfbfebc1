"""Which pair is trained on, validated on and tested on: every pair in exactly one split, no group on two sides."""

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.config.sections import Split
from segline.errors import DataError

SPLITS = ("train", "val", "test")
PASSES = 100


def assign(rows: pd.DataFrame, amounts: NDArray[np.floating], settings: Split, seed: int) -> dict[str, list[int]]:
    """The row positions of each split.

    A layout's own split is kept when it has train and val; the validation split is then also the test set
    if the layout has no test. Otherwise whole groups are dealt out, but for those of an official test split. With
    folds, only an official test split is kept, and the rest is dealt to k folds.

    Args:
        rows: the manifest's rows, with the columns ``group`` and ``split``.
        amounts: (rows, kinds), what the ``balanced`` method evens out beside the number of pairs: a column for
            each class with its pixels.
        settings: the method, the shares, the folds.
        seed: of the order in which groups are dealt.

    Raises:
        DataError: a split would be empty.
    """
    official = {name: np.flatnonzero(rows["split"] == name).tolist() for name in SPLITS}
    if official["train"] and official["val"] and not settings.folds:
        _refuse_left_over(rows)
        return official | {"test": official["test"] or official["val"]}
    free = np.flatnonzero(rows["split"] != "test")
    wanted = _wanted(settings, has_test=bool(official["test"]))
    groups = rows["group"].iloc[free].to_numpy(str)
    # Folds come in a few runs, side by side: that they are even matters more than that they are stable.
    method = "balanced" if settings.folds else settings.method
    sides = _deal(groups, amounts[free], list(wanted.values()), method, seed)
    dealt = {name: free[sides == number].tolist() for number, name in enumerate(wanted)}
    if settings.folds:
        dealt = _fold(list(dealt.values()), settings.fold, has_test=bool(official["test"]))
    return {name: dealt.get(name, []) or official[name] for name in SPLITS}


def _refuse_left_over(rows: pd.DataFrame) -> None:
    left_over = rows[~rows["split"].isin(SPLITS)]
    if len(left_over):
        raise DataError(
            f"{len(left_over)} pairs are in none of the layout's splits, the first is {left_over['key'].iloc[0]!r}; "
            "put them into train, val or test, or remove them"
        )


def _wanted(settings: Split, *, has_test: bool) -> dict[str, float]:
    """The sides to deal to and the share of each; they add up to 1."""
    if settings.folds:
        return {str(number): 1 / settings.folds for number in range(settings.folds)}
    shares = {"train": settings.train, "val": settings.val} | ({} if has_test else {"test": settings.test})
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _fold(folds: list[list[int]], fold: int, *, has_test: bool) -> dict[str, list[int]]:
    """Validate on one fold, test on the next unless there is an official test split, train on the others."""
    chosen = {"val": fold} | ({} if has_test else {"test": (fold + 1) % len(folds)})
    rest = [position for number, part in enumerate(folds) if number not in chosen.values() for position in part]
    return {"train": sorted(rest)} | {name: folds[number] for name, number in chosen.items()}


def _deal(
    groups: NDArray[np.str_], amounts: NDArray[np.floating], shares: list[float], method: str, seed: int
) -> NDArray[np.intp]:
    """The side of every pair, given its group; no side is empty."""
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < len(shares):
        raise DataError(
            f"{len(names)} group(s) cannot fill {len(shares)} splits without one being on two sides; add drives or "
            "patients"
        )
    places = np.array([_place(name, seed) for name in names])
    if method == "stable":
        return _by_place(places, shares)[member]
    sums = np.zeros((len(names), 1 + amounts.shape[1]))
    np.add.at(sums, member, np.column_stack([np.ones(len(groups)), amounts]))
    return _even_out(sums / np.maximum(sums.sum(0), 1e-9), shares, np.argsort(places))[member]


def _place(group: str, seed: int) -> float:
    """A group's place between 0 and 1; it depends on nothing but its name and the seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{group}".encode()).digest()[:8], "big") / 2**64


def _by_place(places: NDArray[np.floating], shares: list[float]) -> NDArray[np.intp]:
    """The side whose interval a place lies in, so that further groups move none of these.

    An empty side, as happens with few groups, takes the group nearest to its interval from a side that has several.
    """
    ends = np.cumsum(shares)
    sides = np.minimum(np.searchsorted(ends, places, side="right"), len(shares) - 1)
    for side in range(len(shares)):
        if not (sides == side).any():
            distance = np.abs(places - (ends[side] - shares[side] / 2))
            distance[np.bincount(sides, minlength=len(shares))[sides] < 2] = np.inf
            sides[distance.argmin()] = side
    return sides


def _even_out(sums: NDArray[np.floating], shares: list[float], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Deal the largest groups first, each where the most is lacking, then move and swap while that improves.

    Args:
        sums: (groups, kinds), each group's share of the whole.
        shares: wanted on each side.
        order: of groups that are equally large.
    """
    goal = np.outer(shares, np.ones(sums.shape[1]))
    held = np.zeros_like(goal)
    sides = np.zeros(len(sums), np.intp)
    ranked = order[np.argsort(-sums[order].max(1), kind="stable")]
    for left, group in zip(range(len(ranked), 0, -1), ranked, strict=True):
        empty = np.flatnonzero(~held.any(1))
        offered = empty if left <= len(empty) else np.arange(len(shares))
        sides[group] = offered[_nearer(held, goal, offered, sums[group]).argmin()]
        held[sides[group]] += sums[group]
    for _ in range(PASSES):
        if not sum(_improve(group, sides, held, goal, sums) for group in ranked):
            break
    return sides


def _nearer(
    held: NDArray[np.floating], goal: NDArray[np.floating], side: NDArray[np.intp], more: NDArray[np.floating]
) -> NDArray[np.floating]:
    """By how much sides (n) miss the goal less or more once they hold ``more`` (n, kinds); less is better."""
    before, after = (_miss(amount, goal[side]) for amount in (held[side], held[side] + more))
    return after - before


def _miss(held: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.floating]:
    """How badly amounts (n, kinds) fit: a class that a side lacks is worse than one of which it has too much."""
    lack = goal - held
    misses: NDArray[np.floating] = np.square(lack) / np.where(lack > 0, goal**2, goal)
    sums: NDArray[np.floating] = misses.sum(axis=1)
    return sums


def _improve(
    group: int,
    sides: NDArray[np.intp],
    held: NDArray[np.floating],
    goal: NDArray[np.floating],
    sums: NDArray[np.floating],
) -> bool:
    """Move a group, or swap it with one of another side, if that brings the sides nearer to the goal."""
    here = sides[group]
    elsewhere = np.flatnonzero(sides != here)
    alone = (sides == here).sum() == 1
    free = np.array([side for side in range(len(goal)) if side != here and not alone], np.intp)
    to = np.concatenate([free, sides[elsewhere]])
    back = np.concatenate([np.zeros((len(free), sums.shape[1])), sums[elsewhere]])
    delta = sums[group] - back
    change = _nearer(held, goal, to, delta) + _nearer(held, goal, np.full(len(to), here), -delta)
    best = int(change.argmin())
    if change[best] > -1e-12:
        return False
    held[to[best]] += delta[best]
    held[here] -= delta[best]
    sides[group] = to[best]
    if best >= len(free):
        sides[elsewhere[best - len(free)]] = here
    return True
