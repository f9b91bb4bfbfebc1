"""The choice of a finished line is trained again as it was, without the groups that are named."""

import pytest

from examples import leave_out, project
from segline.artifacts.ensemble import ENSEMBLE, write_metrics
from segline.config.components import ComponentSpec
from segline.config.loader import build, load
from segline.config.sections import Search

DOCUMENT = {
    "name": "camvid",
    "label": {"split": {"val_groups": ["0006R0", "0016E5"]}},
    "train": {
        "models": [{"unet": {"width": 4}}, "segnet"],
        "losses": ["dice", {"cross_entropy": {"balance": "root_inverse"}, "dice": {"weight": 0.5}}],
        "search": {"spaces": {"learning_rate": [0.003], "unet.depth": [2]}, "num_samples": 1, "finalists": 1},
        "epochs": 3,
    },
}


@pytest.fixture
def finished(tmp_path):
    """A function that makes a folder of a line whose ensemble has these members."""

    def finish(*members):
        folder = tmp_path / "run"
        project.write_project(folder, build(DOCUMENT, "here"))
        metrics = {"members": members, "test": {}, "dataset": "d", "test_is_val": False, "test_images": 1}
        (folder / "data" / "ensemble").mkdir(parents=True)
        write_metrics(folder / "data" / "ensemble", metrics)
        ENSEMBLE.write_mark(folder / "data" / "ensemble")
        return folder

    return finish


@pytest.mark.parametrize("candidate", ["unet-cross_entropy+dice-draw1", "unet-cross_entropy+dice-draw1-seed8"])
def test_the_choice_keeps_what_it_had_and_the_group_is_tested_on(finished, candidate, tmp_path):
    folder = finished(candidate, "segnet-dice-draw1")
    into = tmp_path / "without"
    assert leave_out.main(["0016E5", "--of", str(folder), "--into", str(into)]) == 0
    params, before = load(into / "params.yaml"), load(folder / "params.yaml")
    assert params.name == "camvid-without-0016E5"
    assert (params.label.split.val_groups, params.label.split.test_groups) == (["0006R0"], ["0016E5"])
    assert params.train.models == (ComponentSpec(name="unet", options={"width": 4, "depth": 2}),)
    assert params.train.losses == (before.train.losses[1],)
    assert (params.train.learning_rate, params.train.epochs, params.train.search) == (0.003, 3, Search())
    assert (params.seed, params.ingest, params.ensemble) == (before.seed, before.ingest, before.ensemble)


def test_values_that_optuna_proposed_are_not_those_of_the_grid(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DOCUMENT["train"]["search"], "searcher", "optuna")
    monkeypatch.setitem(DOCUMENT["train"]["search"], "num_samples", 8)
    monkeypatch.setitem(DOCUMENT["train"]["search"], "finalists", 0)
    folder = finished("unet-dice-draw1")
    assert leave_out.main(["0016E5", "--of", str(folder), "--into", str(tmp_path / "without")]) != 0
    assert "unet-dice-draw1 is not in the grid of params.yaml" in capsys.readouterr().err


def test_the_exclusions_of_the_line_come_along(finished, tmp_path):
    folder = finished("segnet-dice-draw1")
    with (folder / "exclusions.csv").open("a", encoding="utf-8") as stream:
        stream.write("0016E5_07959,0,0,10,10\n")
    into = tmp_path / "without"
    assert leave_out.main(["0016E5", "--of", str(folder), "--into", str(into)]) == 0
    assert (into / "exclusions.csv").read_bytes() == (folder / "exclusions.csv").read_bytes()


def test_a_candidate_that_other_results_proposed_is_refused(finished, tmp_path, capsys):
    folder = finished("unet-dice-draw7")
    assert leave_out.main(["0016E5", "--of", str(folder), "--into", str(tmp_path / "without")]) != 0
    assert "unet-dice-draw7 is not in the grid of params.yaml" in capsys.readouterr().err
    assert not (tmp_path / "without").exists()


def test_a_line_that_is_not_finished_is_refused_in_one_line(tmp_path, capsys):
    project.write_project(tmp_path / "run", build(DOCUMENT, "here"))
    assert leave_out.main(["0016E5", "--of", str(tmp_path / "run"), "--into", str(tmp_path / "without")]) != 0
    [line] = capsys.readouterr().err.splitlines()
    assert "ensemble" in line
