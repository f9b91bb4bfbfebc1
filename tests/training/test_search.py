"""The search on a real Ray of this machine."""

import os
import re

from segline.errors import TrainingError
from segline.training.search import run_trials


def new_trial():
    """Stands for a trial: a record per epoch, and an end like the real ones. Ray copies a local function."""

    def train(trial):
        for epoch in (1, 2, 3):
            if trial["fails"] and epoch == 2:
                raise TrainingError(f"the loss of {trial['name']} became nan")
            yield {"trial": trial["name"], "epoch": epoch, "process": os.getpid()}

    return train


def run(*names, cpus=1):
    """Run the named trials, of which those with a ``!`` fail; returns the records by trial, and the error."""
    records, error = {}, None
    try:
        run_trials(
            [{"name": name, "fails": "!" in name} for name in names],
            new_trial(),
            cpus=cpus,
            gpus=0.0,
            on_record=lambda record: records.setdefault(record["trial"], []).append(record),
        )
    except TrainingError as caught:
        error = str(caught)
    return records, error


def test_every_record_of_every_trial_comes_in_order_from_another_process():
    records, error = run("one", "two")
    assert error is None
    assert {name: [record["epoch"] for record in found] for name, found in records.items()} == {
        "one": [1, 2, 3],
        "two": [1, 2, 3],
    }
    assert os.getpid() not in {record["process"] for found in records.values() for record in found}


def test_a_trial_that_fails_is_named_when_the_others_are_done():
    records, error = run("bad!", "good", "worse!")
    assert {name: [record["epoch"] for record in found] for name, found in records.items()} == {
        "bad!": [1],
        "good": [1, 2, 3],
        "worse!": [1],
    }
    assert error.startswith("2 of 3 trials failed: ")
    assert re.search("the loss of bad! became nan; .*the loss of worse! became nan$", error)


def test_more_cores_than_there_are_is_an_error_and_nothing_runs():
    records, error = run("one", cpus=1000)
    assert records == {}
    assert re.fullmatch(r"train\.cpus_per_trial: got 1000, but Ray has \d+; lower it", error)
