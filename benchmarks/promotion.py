"""The false promotions and the power of the comparison by which a promotion is decided.

    python benchmarks/promotion.py [--trials 2000] [--out benchmarks/promotion.csv]

Two models have accuracies per frame and class that vary alike, around the same mean (gain 0) or around means that are
1, 2 or 5 points of mIoU apart. The variation is shared by the frames of a unit to the extent of the correlation. Each
trial calls ``segline.metrics.comparison.compare`` at an error of 5 %; beside it stands a one-sided paired t-test on the
mIoU of the units. Rows are appended to the file after each cell, and cells that are there already are skipped. It takes
minutes on one core. Expect false promotions of 5 % at most within the Monte-Carlo error (the last line has the largest
excess in standard errors), and at least 0.8 of the power of the t-test.
"""

import argparse
import csv
import math
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from machine import stamp
from scipy.special import expit, stdtrit

from segline.metrics.comparison import compare

UNITS, FRAMES, CORRELATIONS = (5, 10, 20, 50, 100), (1, 4, 20), (0.0, 0.2, 0.5, 0.8)
GAINS = (0, 1, 2, 5)
CLASSES, PIXELS, LEVEL, SPREAD, ERROR = 3, 1000, 1.5, 0.5, 0.05
COLUMNS = ("units", "frames", "correlation", "gain", "trials", "promoted", "promoted_by_t_test", "where")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    rows, where = read(arguments.out), stamp()
    with arguments.out.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if not rows:
            writer.writerow(COLUMNS)
        for cell in cells():
            if cell not in rows:
                rows[cell] = arguments.trials, *count_promotions(*cell, arguments.trials)
                writer.writerow([*cell, *rows[cell], where])
                stream.flush()
    show(rows)
    print(where)


def cells():
    for frames, units in product(FRAMES, UNITS):
        for correlation, gain in product(CORRELATIONS if frames > 1 else (0.0,), GAINS):
            yield units, frames, correlation, gain


def read(path):
    """Return the trials and the promotions by cell."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {
            (int(row["units"]), int(row["frames"]), float(row["correlation"]), int(row["gain"])): (
                int(row["trials"]),
                int(row["promoted"]),
                int(row["promoted_by_t_test"]),
            )
            for row in csv.DictReader(stream)
        }


def count_promotions(units, frames, correlation, gain, trials):
    """Return how many trials promote the challenger, by ``compare`` and by the t-test."""
    generator = np.random.default_rng([units, frames, round(10 * correlation), gain])
    shifts = LEVEL + shift_for(gain / 100), LEVEL
    keys, groups = np.arange(units * frames), np.repeat(np.arange(units), frames)
    promoted = by_t_test = 0
    for _ in range(trials):
        challenger, champion = (draw(generator, units, frames, correlation, shift) for shift in shifts)
        promoted += compare(challenger, champion, keys=keys, groups=groups, error=ERROR).better
        by_t_test += t_test(challenger, champion, units)
    return promoted, by_t_test


def draw(generator, units, frames, correlation, level):
    """Return confusion matrices (units x frames, k, k); a class's wrong pixels are predicted as the next class."""
    shared = generator.standard_normal((units, 1, CLASSES), np.float32)
    own = generator.standard_normal((units, frames, CLASSES), np.float32)
    latent = level + SPREAD * (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)
    right = (PIXELS * expit(latent)).astype(np.int64).reshape(-1, CLASSES)
    counts = np.zeros((units * frames, CLASSES, CLASSES), np.int64)
    classes = np.arange(CLASSES)
    counts[:, classes, classes] = right
    counts[:, classes, (classes + 1) % CLASSES] = PIXELS - right
    return counts


@cache
def shift_for(gain):
    """Return the shift of the level that raises the expected mIoU by ``gain``."""
    latent = SPREAD * np.random.default_rng(0).standard_normal(1_000_000)

    def score(level):
        accuracy = expit(level + latent).mean()
        return accuracy / (2 - accuracy)

    low, high = 0.0, 2.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if score(LEVEL + middle) < score(LEVEL) + gain else (low, middle)
    return low if gain else 0.0


def t_test(challenger, champion, units):
    first, second = (unit_miou(counts, units) for counts in (challenger, champion))
    difference = first - second
    error = difference.std(ddof=1) / math.sqrt(units)
    return bool(difference.mean() > stdtrit(units - 1, 1 - ERROR) * error)


def unit_miou(counts, units):
    sums = counts.reshape(units, -1, CLASSES, CLASSES).sum(1)
    right = np.einsum("ukk->uk", sums)
    return (right / (sums.sum(1) + sums.sum(2) - right)).mean(1)


def show(rows):
    """Print the table of docs/promotion.md: the power with its ratio to that of the t-test."""
    print("| units | frames | correlation | false promotions | gain 1 | gain 2 | gain 5 |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    excess, smallest = -math.inf, math.inf
    for units, frames, correlation in dict.fromkeys(cell[:3] for cell in cells()):
        trials, false, _ = rows[units, frames, correlation, 0]
        excess = max(excess, (false - ERROR * trials) / math.sqrt(ERROR * (1 - ERROR) * trials))
        powers = []
        for gain in GAINS[1:]:
            trials, promoted, by_t_test = rows[units, frames, correlation, gain]
            smallest = min(smallest, promoted / max(by_t_test, 1))
            powers.append(f"{promoted / trials:.3f} ({promoted / max(by_t_test, 1):.2f})")
        share = false / rows[units, frames, correlation, 0][0]
        print(f"| {units} | {frames} | {correlation:g} | {100 * share:.1f} % | {' | '.join(powers)} |")
    print(f"largest excess over 5 %: {excess:.1f} standard errors; smallest ratio of powers: {smallest:.2f}")


if __name__ == "__main__":
    main()
