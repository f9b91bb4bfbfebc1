"""What stopping the worse trials early saves, and what it costs: a grid of 24 trials, whole, halved, and by ASHA.

    python benchmarks/search.py [--folder FOLDER] [--epochs 18] [--grace-period 3] [--draws 8] [--reduction-factor 2]
                                [--seed 5]

`segline train` on street crops: a U-Net of 8 channels with cross-entropy, Dice and Lovasz-softmax, each with 8 draws of
learning rate, weight decay and epsilon. `scheduler: none` trains all 24 to the end, `halving` and `asha` let one in
two go on after 3, 6 and 12 epochs. The table has the epochs and steps that each took and the best validation mIoU of a
trial that was trained to the end; the noise is the spread of the whole grid's best trial over four seeds. About 20
minutes on 2 cores without GPU; FOLDER keeps the scenes.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
from machine import stamp
from rich.console import Console
from rich.table import Table
from street_shards import make_shards

from segline.cli import main as segline
from segline.data.reading import open_split

SPACES = {
    "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "weight_decay": {"low": 1e-4, "high": 1e-1, "log": True},
    "epsilon": [1e-8, 1e-5, 1e-3],
}
SEEDS = 4
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the scenes (default: a new temporary one)")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--grace-period", type=int, default=3, help="epochs of the first rung (default: 3)")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument(
        "--reduction-factor", type=int, default=2, help="one in how many goes on at a rung (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="segline-search-"))
    dataset_dir = make_shards(folder, drives=80, frames=3, height=160, width=200, crop=64, seed=11)
    boards = {scheduler: train(scheduler, dataset_dir, folder, arguments) for scheduler in ("none", "halving", "asha")}
    show(boards, dataset_dir)
    print(stamp())


def train(scheduler: str, dataset_dir: Path, folder: Path, arguments: argparse.Namespace) -> tuple[pd.DataFrame, float]:
    """The leaderboard of a grid, and the seconds it took."""
    finals = {"finalists": 1, "seeds": SEEDS} if scheduler == "none" else {}
    search = {"spaces": SPACES, "num_samples": arguments.draws, "scheduler": scheduler, **finals}
    search |= {"grace_period": arguments.grace_period, "reduction_factor": arguments.reduction_factor}
    train = {
        "models": [{"unet": {"width": 8}}],
        "losses": ["cross_entropy", "dice", "lovasz_softmax"],
        "epochs": arguments.epochs,
        "batch_size": BATCH,
        "validate_on": "crops",
        "search": search | {"max_failed": 24},
    }
    params = json.dumps({"name": "search", "seed": arguments.seed, "train": train})
    out = Path(tempfile.mkdtemp(prefix=f"{scheduler}-", dir=folder)) / "train"
    began = time.monotonic()
    words = ["--dataset", str(dataset_dir), "--out", str(out)]
    if segline(["train", "--params", params, *words, "--tracking-uri", f"sqlite:///{out.parent}/mlflow.db"]):
        raise SystemExit(f"the grid with scheduler {scheduler} failed")
    return pd.read_csv(out / "trials.csv"), time.monotonic() - began


def show(boards: dict[str, tuple[pd.DataFrame, float]], dataset_dir: Path) -> None:
    steps = math.ceil(len(open_split(dataset_dir, "train")) / BATCH)
    whole = boards["none"][0]
    again = whole["trial"].str.contains("-seed")
    winner = whole[~again].iloc[0]["trial"]
    scores = whole[whole["trial"].str.startswith(winner)]["val_miou"]
    noise = statistics.stdev(scores)
    total = whole[~again]["epochs"].sum()
    table = Table(title=f"24 trials; {winner} over {SEEDS} seeds: {scores.mean():.3f} ± {noise:.3f} (deviation)")
    for heading in ("scheduler", "epochs", "steps", "share of all", "best mIoU", "by", "seconds"):
        table.add_column(heading, justify="left" if heading in ("scheduler", "by") else "right")
    for name, (board, seconds) in boards.items():
        rows = board[~board["trial"].str.contains("-seed")]
        best, epochs = rows[rows["status"] == "finished"].iloc[0], rows["epochs"].sum()
        share, told = f"{100 * epochs / total:.0f} %", f"{best['val_miou']:.3f}"
        table.add_row(name, str(epochs), str(epochs * steps), share, told, best["trial"], f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
