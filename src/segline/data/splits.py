"""The assignment of pairs to training, validation and test: each pair to one split, and no group to two."""

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segline.config.fields import suggestion
from segline.config.sections import Split
from segline.errors import DataError, clip, shown

SPLITS = ("train", "val", "test")
PASSES = 100


def assign(rows: pd.DataFrame, amounts: NDArray[np.floating], settings: Split, seed: int) -> dict[str, list[int]]:
    """Return the row positions of each split.

    A layout's own split is kept when it has train and val; if it has no test, the validation split is also the test
    split. Otherwise whole groups are assigned, except those of an official test split. With folds, only an official
    test split is kept, and the rest is divided into k folds. Groups that the settings name are moved to their side
    before: where groups are assigned, it gets no others.

    Args:
        rows: The manifest's rows, with the columns ``group`` and ``split``.
        amounts: The quantities (rows, kinds) that the ``balanced`` method balances beside the number of pairs: the
            pixels of each class.
        settings: The method, the shares and the folds.
        seed: The seed of the order in which groups are assigned.

    Raises:
        DataError: A split would be empty, or the settings name a group that is not there.
    """
    rows = _move_named(rows, settings)
    official = {name: np.flatnonzero(rows["split"] == name).tolist() for name in SPLITS}
    if official["train"] and official["val"] and not settings.folds:
        _refuse_left_over(rows)
        return official | {"test": official["test"] or official["val"]}
    fixed = [name for name, kept in (("val", settings.val_groups), ("test", official["test"])) if kept]
    free = np.flatnonzero(~rows["split"].isin(fixed) if fixed else np.ones(len(rows), bool))
    wanted = _wanted(settings, fixed)
    groups = rows["group"].iloc[free].to_numpy(str)
    # All folds are used in a few runs, so equal sizes matter more than stability.
    method = "balanced" if settings.folds else settings.method
    sides = _assign_groups(groups, amounts[free], list(wanted.values()), method, seed)
    assigned = {name: free[sides == number].tolist() for number, name in enumerate(wanted)}
    if settings.folds:
        assigned = _fold(list(assigned.values()), settings.fold, has_test=bool(official["test"]))
    return {name: assigned.get(name, []) or official[name] for name in SPLITS}


def _move_named(rows: pd.DataFrame, settings: Split) -> pd.DataFrame:
    """Return the rows with the sides of the groups that the settings name in the column ``split``."""
    known = set(rows["group"])
    side_of: dict[str, str] = {}
    for side, names in (("val", settings.val_groups), ("test", settings.test_groups)):
        for name in names:
            if name not in known:
                hint = clip(suggestion(name, known))
                raise DataError(f"label.split.{side}_groups: unknown group {shown(name)}{hint}")
            side_of[name] = side
    if not side_of:
        return rows
    moved = rows["group"].map(side_of)
    return rows.assign(split=moved.where(moved.notna(), rows["split"]))


def _refuse_left_over(rows: pd.DataFrame) -> None:
    left_over = rows[~rows["split"].isin(SPLITS)]
    if len(left_over):
        raise DataError(
            f"{len(left_over)} pairs are in none of the layout's splits, the first is {left_over['key'].iloc[0]!r}; "
            "put them into train, val or test, or remove them"
        )


def _wanted(settings: Split, fixed: list[str]) -> dict[str, float]:
    """Return the sides to assign to, which are not fixed, with the share of each; the shares add up to 1."""
    if settings.folds:
        return {str(number): 1 / settings.folds for number in range(settings.folds)}
    shares = {"train": settings.train, "val": settings.val, "test": settings.test}
    shares = {name: share for name, share in shares.items() if name not in fixed}
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _fold(folds: list[list[int]], fold: int, *, has_test: bool) -> dict[str, list[int]]:
    """Validate on one fold, test on the next unless there is an official test split, train on the others."""
    chosen = {"val": fold} | ({} if has_test else {"test": (fold + 1) % len(folds)})
    rest = [position for number, part in enumerate(folds) if number not in chosen.values() for position in part]
    return {"train": sorted(rest)} | {name: folds[number] for name, number in chosen.items()}


def _assign_groups(
    groups: NDArray[np.str_], amounts: NDArray[np.floating], shares: list[float], method: str, seed: int
) -> NDArray[np.intp]:
    """Return the side of every pair, given its group; no side is empty."""
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < len(shares):
        raise DataError(
            f"{len(names)} group(s) cannot fill {len(shares)} splits without a group in two of them; add drives or "
            "patients"
        )
    if len(shares) == 1:
        return np.zeros(len(groups), np.intp)
    positions = np.array([_position(name, seed) for name in names])
    if method == "stable":
        return _by_position(positions, shares)[member]
    sums = np.zeros((len(names), 1 + amounts.shape[1]))
    np.add.at(sums, member, np.column_stack([np.ones(len(groups)), amounts]))
    return _even_out(sums / np.maximum(sums.sum(0), 1e-9), shares, np.argsort(positions))[member]


def _position(group: str, seed: int) -> float:
    """Return a group's position between 0 and 1, which depends on its name and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{group}".encode()).digest()[:8], "big") / 2**64


def _by_position(positions: NDArray[np.floating], shares: list[float]) -> NDArray[np.intp]:
    """Return the side whose interval contains each position, so that further groups move none of these groups.

    An empty side, which happens with few groups, takes the group nearest to its interval from a side with several.
    """
    ends = np.cumsum(shares)
    sides = np.minimum(np.searchsorted(ends, positions, side="right"), len(shares) - 1)
    for side in range(len(shares)):
        if not (sides == side).any():
            distance = np.abs(positions - (ends[side] - shares[side] / 2))
            distance[np.bincount(sides, minlength=len(shares))[sides] < 2] = np.inf
            sides[distance.argmin()] = side
    return sides


def _even_out(sums: NDArray[np.floating], shares: list[float], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Assign the largest groups first, each to the side that lacks most, then move and swap while that improves.

    Args:
        sums: The share of each group in the whole, (groups, kinds).
        shares: The wanted share of each side.
        order: The order of groups that are equally large.
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
    """Return the change of the misfit of sides (n) once they also hold ``more`` (n, kinds); less is better."""
    before, after = (_miss(amount, goal[side]) for amount in (held[side], held[side] + more))
    return after - before


def _miss(held: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the misfit of amounts (n, kinds): a lack of a class weighs more than an excess of it."""
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
    """Move a group, or swap it with one of another side, if that reduces the misfit; return whether it did."""
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
