"""Make the line that trains the choice of a finished line once more without some groups, and tests it on them.

    python -m examples.leave_out 0001TP --of runs/camvid --into runs/camvid-without-0001TP
    cd runs/camvid-without-0001TP && dvc repro && segline summary

`make camvid-drive` runs both. The choice is the best single candidate on the validation split. It is trained with the
hyperparameters that it had, and the groups are neither trained nor validated on.
"""

import argparse
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from examples.project import EXCLUSIONS, write_project
from segline.artifacts.ensemble import read_metrics
from segline.config.loader import load
from segline.config.params import Params
from segline.config.sections import Search, Train
from segline.errors import SeglineError, StageError
from segline.training.search.grid import grid_configs


def main(words: list[str] | None = None) -> int:
    """Make the folder of the line, and return the exit code."""
    parser = argparse.ArgumentParser(description="Train the choice of a line again without some groups; test on them.")
    parser.add_argument("groups", nargs="+", metavar="GROUP", help="the groups to leave out, such as a drive")
    parser.add_argument("--of", type=Path, required=True, metavar="DIR", help="the folder of the finished line")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="the folder to make")
    arguments = parser.parse_args(words)
    try:
        write_project(arguments.into, without(arguments.groups, arguments.of))
        shutil.copyfile(arguments.of / EXCLUSIONS, arguments.into / EXCLUSIONS)
    except SeglineError as error:
        print(f"leave_out: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def without(groups: list[str], folder: Path) -> Params:
    """Return the parameters by which the choice of a line is trained without these groups and tested on them.

    Raises:
        ParamsError: The line's parameters are missing or wrong.
        StageError: The line is not finished, or its choice is not in the grid of its parameters.
    """
    params = load(folder / "params.yaml")
    split = params.label.split
    named = replace(split, val_groups=[name for name in split.val_groups if name not in groups], test_groups=groups)
    return replace(
        params,
        name=re.sub(r"[^A-Za-z0-9._-]", "_", "-".join([params.name, "without", *groups])),
        label=replace(params.label, split=named),
        train=chosen(params, read_metrics(folder / "data" / "ensemble")["members"][0]),
    )


def chosen(params: Params, candidate: str) -> Train:
    """Return the section train with one candidate of its grid alone, and the hyperparameters that it drew.

    Raises:
        StageError: The candidate is not in the grid, as its hyperparameters came from the results of others.
    """
    name = candidate.partition("-seed")[0]
    proposed = params.train.search.searcher == "optuna"  # The grid has other values under the same names.
    for config in [] if proposed else grid_configs(params.train, params.seed):
        if config.name == name:
            return replace(config.settings, models=(config.model,), losses=(config.loss,), search=Search())
    raise StageError(
        f"{candidate} is not in the grid of params.yaml, so it cannot be trained again; set searcher: random and "
        "another scheduler than pbt"
    )


if __name__ == "__main__":
    sys.exit(main())
