"""The leaderboard of a grid, made from the files that its trials left."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segline.artifacts.candidates import CURVES_PLOT, TRIALS, TRIALS_PLOT, read_history


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard: the trial's name, its status, its folder, its sampled values, and a child's parent."""

    name: str
    status: str
    folder: Path
    sampled: dict[str, Any]
    parent: str = ""


def write_leaderboard(out: Path, rows: Sequence[Row]) -> None:
    """Write ``trials.csv`` and ``trials.png``, the best validation mIoU first, and ``curves.png`` of all trials."""
    import pandas as pd

    from segline.reporting.figures import draw_curves, draw_leaderboard

    histories = {row.name: pd.DataFrame(read_history(row.folder)) for row in rows}
    lines = [_line(row, histories[row.name]) for row in rows]
    board = pd.DataFrame(lines).sort_values(["val_miou", "trial"], ascending=[False, True], ignore_index=True)
    board.to_csv(out / TRIALS, index=False, float_format="%.6g")
    draw_leaderboard(board, out / TRIALS_PLOT)
    draw_curves({name: history for name, history in histories.items() if len(history)}, out / CURVES_PLOT)


def _line(row: Row, history: Any) -> dict[str, Any]:
    best = history.loc[history["val_miou"].idxmax()] if len(history) else {}
    return {
        "trial": row.name,
        "status": row.status,
        "epochs": len(history),
        "best_epoch": int(best["epoch"]) if len(history) else 0,
        "val_miou": best["val_miou"] if len(history) else float("nan"),
        "val_pixel_accuracy": best["val_pixel_accuracy"] if len(history) else float("nan"),
        **({"parent": row.parent} if row.parent else {}),
        **row.sampled,
    }
