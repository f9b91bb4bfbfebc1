"""The search on a real Ray."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from segline.errors import StoppedError, TrainingError
from segline.parallel import ray_session
from segline.training.ray_tune import Asha, Watch, run_apart, run_trials


def trial(name, *, fails=None, epochs=3, score=0.0, told="", folder=None):
    """A trial of a type that Ray's processes know."""
    return SimpleNamespace(name=name, fails=fails, epochs=epochs, score=score, told=told, folder=folder)


def new_trial():
    """Stands for a trial: a record per epoch, and an end like the real ones. Ray copies a local function."""

    def train(trial):
        for epoch in range(1, trial.epochs + 1):
            if trial.fails and epoch == 2:
                raise trial.fails
            if trial.told:
                Path(f"{trial.told}.{trial.name}").touch()
                while not os.path.exists(trial.told):
                    time.sleep(0.05)
                raise StoppedError("stopped and saved")
            yield {"trial": trial.name, "epoch": epoch, "val_miou": trial.score * epoch, "process": os.getpid()}

    return train


@pytest.fixture(scope="module")
def there(ray_cluster):
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("RAY_ADDRESS", ray_cluster)
        with ray_session() as resources:
            yield resources


def run(trials, *, cpus=1, is_stopping=lambda: False, asha=None):
    """Run trials; returns the records by trial, how they ended, and what failed."""
    records, ends = {}, []
    watch = Watch(
        on_record=lambda record: records.setdefault(record["trial"], []).append(record),
        on_end=lambda trial: ends.append(trial.name),
        is_stopping=is_stopping,
    )
    failed = run_trials(trials, new_trial(), cpus=cpus, gpus=0.0, watch=watch, asha=asha)
    assert os.getpid() not in {record["process"] for found in records.values() for record in found}
    return {name: [record["epoch"] for record in found] for name, found in records.items()}, ends, failed


def test_every_record_of_every_trial_comes_in_order_from_another_process(there):
    epochs, ends, failed = run([trial("one"), trial("two")])
    assert epochs == {"one": [1, 2, 3], "two": [1, 2, 3]}
    assert sorted(ends) == ["one", "two"]
    assert failed == []


def test_a_trial_that_fails_is_told_with_its_reason_and_the_others_go_on(there, tmp_path):
    nan, odd = TrainingError("the loss of bad became nan"), ZeroDivisionError("division by\nzero, by a library")
    bad, good, worse = trial("bad", fails=nan), trial("good"), trial("worse", fails=odd, folder=tmp_path)
    epochs, ends, failed = run([bad, good, worse], cpus=2)
    assert epochs == {"bad": [1], "good": [1, 2, 3], "worse": [1]}
    assert ends == ["good"]
    path = tmp_path / "traceback.txt"
    told = f"ZeroDivisionError: division by zero, by a library; its traceback is in {path}"
    assert [(found.name, reason) for found, reason in failed] == [("bad", str(nan)), ("worse", told)]
    assert "raise trial.fails" in path.read_text(encoding="utf-8")


def test_more_cores_than_there_are_is_an_error_and_nothing_runs(there):
    with pytest.raises(TrainingError, match=r"^train\.cpus_per_worker: a trial wants 1000, but Ray has \d+; lower it$"):
        run([trial("one")], cpus=1000)


def test_asha_stops_the_worse_trials_at_its_rungs_and_lets_go_of_their_resources(there):
    """One trial at a time; the best comes first, so that its rung is known to the others."""
    import ray  # reads its settings when it is imported: `ray_session` has set them by now

    trials = [trial(f"t{score}", epochs=8, score=float(score)) for score in (9, 8, 7, 3, 2, 1)]
    epochs, _, failed = run(
        trials, cpus=int(there["CPU"]), asha=Asha("val_miou", grace_period=2, max_t=8, reduction_factor=2)
    )
    assert failed == []
    assert len(epochs["t9"]) == 8
    assert all(len(epochs[f"t{score}"]) == 2 for score in (3, 2, 1))
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU") != there["CPU"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == there["CPU"]
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} <= {"REMOVED"}


def test_trials_that_are_told_to_stop_end_the_search_and_no_other_begins(there, tmp_path):
    told = tmp_path / "stop"

    def begun():
        return list(tmp_path.glob("stop.*"))

    def is_stopping():
        if begun():
            told.touch()
        return told.exists()

    trials = [trial(f"t{number}", told=str(told)) for number in range(20)]
    with pytest.raises(StoppedError, match="saved"):
        run(trials, is_stopping=is_stopping)
    assert 1 <= len(begun()) < len(trials)


def killing(name):
    """Stands for the passes of trials; that of one trial is killed by the kernel. Ray copies a local function."""

    def run(trials):
        if any(trial == name for trial in trials):
            os.kill(os.getpid(), signal.SIGKILL)
        return {trial: f"{trial} fails in {os.getpid()}" for trial in trials if trial == "odd"}

    return run


def test_a_process_of_its_own_tells_its_faults_or_that_it_was_killed(there):
    def raises(_):
        raise TrainingError("told")

    faults = run_apart(killing("none"), ["even", "odd"], 1, 1, 0.0)
    assert faults.keys() == {"odd"}
    assert str(os.getpid()) not in faults["odd"]
    assert run_apart(killing("odd"), ["even", "odd"], 1, 1, 0.0) is None
    with pytest.raises(TrainingError, match=r"^told$"):
        run_apart(raises, [], 1, 1, 0.0)
    with pytest.raises(TrainingError, match=r"^train.cpus_per_worker: a trial wants 1000"):
        run_apart(raises, [], 1, 1000, 0.0)
