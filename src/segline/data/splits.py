"""Which pair is trained on, validated on and tested on. No group is on two sides."""

import numpy as np
import pandas as pd

from segline.errors import DataError

SPLITS = ("train", "val", "test")


def assign(rows: pd.DataFrame, shares: dict[str, float], seed: int) -> dict[str, list[int]]:
    """The row positions of each split.

    A layout's own split is kept when it has train and val; the validation split is then also the test set
    if the layout has no test. Otherwise whole groups are shared out, without those of an official test split.

    Args:
        rows: the manifest's rows, with the columns ``group`` and ``split``.
        shares: the share of the pairs wanted in each split.
        seed: of the order in which groups are dealt.

    Raises:
        DataError: a split would be empty.
    """
    official = {name: np.flatnonzero(rows["split"] == name).tolist() for name in SPLITS}
    if official["train"] and official["val"]:
        return official | {"test": official["test"] or official["val"]}
    if not official["test"]:
        return _by_group(rows["group"], shares, seed)
    rest = np.flatnonzero(rows["split"] != "test")
    dealt = _by_group(rows["group"].iloc[rest], {name: shares[name] for name in ("train", "val")}, seed)
    return {name: [int(rest[position]) for position in dealt[name]] for name in dealt} | {"test": official["test"]}


def _by_group(groups: pd.Series, shares: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Deal each group, the largest first and equal ones in random order, to the split that lacks the most pairs."""
    members = {str(name): np.flatnonzero(groups == name).tolist() for name in groups.unique()}
    whole = sum(shares.values())
    wanted = {name: share / whole * len(groups) for name, share in shares.items() if share > 0}
    if len(members) < len(wanted):
        raise DataError(
            f"{len(members)} group(s) cannot fill {len(wanted)} splits ({', '.join(wanted)}) without one being on two "
            "sides; add drives or patients"
        )
    dealt: dict[str, list[int]] = {name: [] for name in SPLITS}
    names = sorted(members)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order = sorted(shuffled, key=lambda name: -len(members[name]))
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        empty = [name for name in wanted if not dealt[name]]
        open_splits = empty if left <= len(empty) else list(wanted)
        split = max(open_splits, key=lambda name: wanted[name] - len(dealt[name]))
        dealt[split] += members[group]
    return {name: sorted(positions) for name, positions in dealt.items()}
