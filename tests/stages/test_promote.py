"""Promote on a real registry, with models whose quality is known: they cut the red channel at a threshold."""

import json
import re
import shlex
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from documented import ROOT
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file, save_file
from shard_files import write_split

from segline.artifacts.bundle import Bundle, Member, join_bundles
from segline.artifacts.dataset import DATASET, DatasetInfo, read_dataset_info, write_dataset_info
from segline.artifacts.ensemble import ENSEMBLE
from segline.artifacts.evaluation import EVALUATION, write_counts
from segline.artifacts.validation import STATISTICS
from segline.classes import LabelClass
from segline.cli import main
from segline.config.params import Params
from segline.config.sections import Evaluate
from segline.config.sections import Promote as Settings
from segline.config.sections.promote import ErrorBudget
from segline.data.augment import MEAN, STD
from segline.data.reading import open_split
from segline.errors import StageError, TrackingError
from segline.files.atomic import write_json
from segline.inference.bundle import load_models
from segline.inference.predict import count_split
from segline.metrics.confusion import scores
from segline.models.unet import UNet
from segline.stages import promote
from segline.stages.evaluate import leaderboard
from segline.stages.judgement import times_judged
from segline.tracking import lines, registry, tags
from segline.tracking.client import Experiment
from segline.tracking.registry import CHALLENGER, CHAMPION, Version, champion_statistics

CLASSES = (LabelClass("dark", (0, 0, 0)), LabelClass("bright", (255, 255, 255)))
PARAMS = Params(name="lamps")
BEST, CLOSE, GOOD, POOR = 128, 99, 160, 220


def write_labelled(folder, seed=0, classes=CLASSES):
    """Ten test crops of noise; what is brighter than 128 is bright."""
    images = np.random.default_rng(seed).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    _, digest = write_split(folder / "test", images, (images[..., 0] >= BEST).astype(np.uint8), group="")
    description = DatasetInfo(
        classes=classes,
        background=0,
        crop_size=(16, 16),
        content_hash=digest,
        source="here",
        source_hash="source",
        source_revision="",
        pixels={"train": [3, 2], "test": [1, 1]},
        test_is_val=False,
    )
    write_dataset_info(folder, description)
    return folder


def cutting(threshold):
    """A U-Net that passes red through and calls a pixel bright from the threshold on."""
    model = UNet(2, width=1, depth=1)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for name in state:
        if name.endswith((".1.weight", "running_var")):
            state[name].fill_(1)
    passed = ((torch.arange(256) / 255 - MEAN[0]) / STD[0]).numpy()
    for name, channel in (("encoder.0.0.0", 0), ("encoder.0.1.0", 0), ("decoder.0.0.0", 1), ("decoder.0.1.0", 0)):
        state[f"{name}.weight"][0, channel, 1, 1] = 1
    state["encoder.0.0.1.bias"].fill_(3)
    state["head.weight"][1] = 1
    state["head.bias"][1] = -float(passed[threshold - 1] + passed[threshold]) / 2 - 3
    return state


def write_ensembled(folder, dataset_dir, threshold):
    """What ensemble writes for a bundle of one such model."""
    part = folder / "part"
    part.mkdir(parents=True)
    save_file(cutting(threshold), part / "weights.safetensors")
    member = Member(f"cut{threshold}", "unet", {"width": 1, "depth": 1}, "weights.safetensors")
    bundle = join_bundles(folder / "model", [(part, Bundle(CLASSES, 0, (member,)))])
    split = open_split(dataset_dir, "test")
    counts = count_split(load_models(folder / "model", bundle), split, classes=2, batch_size=4)
    write_counts(folder / "test_counts.npz", counts, split.index)
    test = scores(counts.sum(0), [entry.name for entry in CLASSES])
    metrics = {"members": [member.candidate], "test": test, "test_is_val": False, "test_images": len(split)}
    write_json(folder / "metrics.json", metrics | {"dataset": read_dataset_info(dataset_dir).content_hash})
    ENSEMBLE.write_mark(folder)
    return folder


def plain_miou(dataset_dir, threshold):
    images, labels = open_split(dataset_dir, "test").take(range(10))
    bright, truth = images[..., 0] >= threshold, labels == 1
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in ((bright, truth), (~bright, ~truth))]))


@pytest.fixture
def dataset_dir(tmp_path):
    return write_labelled(tmp_path / "label")


@pytest.fixture
def evaluation_dir(tmp_path):
    folder = tmp_path / "evaluate"
    (folder / "pictures").mkdir(parents=True)
    board = leaderboard({"cut": {"miou": 0.5, "mean_dice": 0.6, "pixel_accuracy": 0.7}})
    board.to_csv(folder / "leaderboard.csv", index=False)
    (folder / "missing_labels.csv").write_text("key\n")
    for name in ("curves.png", "pictures/crop0.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    EVALUATION.write_mark(folder)
    return folder


@pytest.fixture
def little_code(monkeypatch):
    """One file for the code that a model carries, which test_model tries: to copy all of it is a third of the time."""

    def copy_code(folder):
        (folder / "segline").mkdir()
        (folder / "segline" / "__init__.py").touch()
        return folder / "segline"

    monkeypatch.setattr("segline.tracking.model.copy_code", copy_code)


@pytest.fixture
def promoting(tmp_path, dataset_dir, evaluation_dir, tracking_uri, little_code):
    """Promote the model with this threshold; returns the text of the decision and its content."""

    def run(threshold, *, dataset_dir=dataset_dir, params=PARAMS):
        ensemble_dir = tmp_path / f"ensemble-{dataset_dir.name}-{threshold}"
        if not ensemble_dir.exists():
            write_ensembled(ensemble_dir, dataset_dir, threshold)
        out = tmp_path / "promote"
        promote.run(
            params,
            dataset_dir=dataset_dir,
            evaluation_dir=evaluation_dir,
            ensemble_dir=ensemble_dir,
            tracking_uri=tracking_uri,
            out=out,
        )
        text = (out / "decision.json").read_text()
        return text, json.loads(text)

    return run


@pytest.fixture
def experiment(tracking_uri):
    return Experiment(tracking_uri, PARAMS.name)


def numbers(experiment):
    """The numbers of champion and challenger."""
    versions = (registry.get_by_alias(experiment, alias) for alias in (CHAMPION, CHALLENGER))
    return tuple(version and version.number for version in versions)


def versions(experiment):
    found = experiment.client.search_model_versions(f"name = '{PARAMS.name}'")
    return {int(version.version): version for version in found}


def runs(experiment):
    return experiment.client.search_runs([experiment.id])


def test_the_models_are_as_good_as_their_threshold_says(tmp_path, dataset_dir):
    for threshold in (BEST, GOOD, POOR):
        folder = write_ensembled(tmp_path / str(threshold), dataset_dir, threshold)
        test = json.loads((folder / "metrics.json").read_text())["test"]
        assert test["miou"] == pytest.approx(plain_miou(dataset_dir, threshold))
    assert plain_miou(dataset_dir, BEST) == 1 > plain_miou(dataset_dir, GOOD) > plain_miou(dataset_dir, POOR)


def test_the_first_becomes_champion(promoting, experiment, dataset_dir, tmp_path, tracking_uri, capsys):
    _, decision = promoting(GOOD)
    expected = {
        "promoted": True,
        "reason": f"it is the first, and its mIoU {decision['test_miou']:.4f} exceeds the "
        f"{decision['baseline_test_miou']:.4f} of the most frequent class, dark, on the same 10 images",
        "version": 1,
        "against": None,
        "test_miou": pytest.approx(plain_miou(dataset_dir, GOOD)),
        "champion_test_miou": None,
        "baseline_test_miou": pytest.approx(plain_miou(dataset_dir, 256)),
        "lower_bound": None,
        "frames": 10,
        "groups": 10,
        "effective_frames": pytest.approx(10),
        "dataset": json.loads((dataset_dir / "dataset.json").read_text())["content_hash"],
        "model": "lamps",
        "tracking_uri": tracking_uri,
    }
    assert {name: decision[name] for name in expected} == expected
    assert numbers(experiment) == (1, None)
    (record,) = runs(experiment)
    assert record.info.status == "FINISHED"
    assert record.data.params == {"members": f"cut{GOOD}"}
    assert record.data.metrics["test_miou"] == pytest.approx(plain_miou(dataset_dir, GOOD))
    assert sorted(path.name for path in (tmp_path / "promote").iterdir()) == [
        ".segline",
        "artifact.json",
        "decision.json",
        "report.html",
    ]
    assert "lamps version 1 is champion: it is the first" in capsys.readouterr().out


def test_the_same_again_changes_nothing(promoting, experiment):
    first, _ = promoting(GOOD)
    again, _ = promoting(GOOD)
    assert again == first
    assert numbers(experiment) == (1, None)
    assert list(versions(experiment)) == [1]
    assert len(runs(experiment)) == 1


def test_the_line_of_a_kubeflow_run_is_marked_as_judged_and_no_other(promoting, experiment, monkeypatch):
    for run, settings in (("run-1", "a"), ("run-2", "b")):
        monkeypatch.setenv("SEGLINE_RUN", run)
        lines.start_line(experiment, settings, "data", trains=True, reason="the first")
    assert lines.judged(experiment, "b") == {}
    promoting(GOOD)
    assert lines.judged(experiment, "b") == {"data": 1}
    assert lines.judged(experiment, "a") == {}
    promoting(POOR)
    assert lines.judged(experiment, "b") == {"data": 2}


def test_a_line_is_not_judged_before_the_decision_is_written(promoting, experiment, monkeypatch):
    monkeypatch.setenv("SEGLINE_RUN", "run-1")
    lines.start_line(experiment, "a", "data", trains=True, reason="the first")
    with monkeypatch.context() as patch:
        patch.setattr(promote, "write_report", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promoting(GOOD)
    assert lines.judged(experiment, "a") == {}
    promoting(GOOD)
    assert lines.judged(experiment, "a") == {"data": 1}


def test_a_worse_one_stays_challenger(promoting, experiment, dataset_dir):
    promoting(GOOD)
    text, decision = promoting(POOR)
    assert not decision["promoted"]
    assert (decision["version"], decision["against"]) == (2, 1)
    assert decision["test_miou"] == pytest.approx(plain_miou(dataset_dir, POOR))
    assert decision["champion_test_miou"] == pytest.approx(plain_miou(dataset_dir, GOOD))
    assert decision["lower_bound"] < 0
    assert numbers(experiment) == (1, 2)
    assert promoting(POOR)[0] == text
    assert numbers(experiment) == (1, 2)


def test_a_better_one_becomes_champion_and_names_the_one_before(promoting, experiment):
    promoting(POOR)
    text, decision = promoting(GOOD)
    assert decision["promoted"]
    assert decision["lower_bound"] > 0
    assert numbers(experiment) == (2, None)
    assert versions(experiment)[2].tags["segline.previous_champion"] == "1"
    assert promoting(GOOD)[0] == text
    assert numbers(experiment) == (2, None)
    assert versions(experiment)[2].tags["segline.previous_champion"] == "1"


def test_an_earlier_challenger_makes_way(promoting, experiment):
    for threshold, expected in ((GOOD, (1, None)), (POOR, (1, 2)), (BEST, (3, None))):
        promoting(threshold)
        assert numbers(experiment) == expected


@pytest.mark.parametrize(("champion", "challenger"), [(GOOD, BEST), (GOOD, POOR), (POOR, None)])
def test_cut_off_after_the_decision_it_decides_the_same_again(
    promoting, experiment, tmp_path, monkeypatch, champion, challenger
):
    """The tag with the decision is written, the alias has not moved; nothing is counted a second time."""
    if challenger:
        promoting(champion)
    threshold = challenger or champion
    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promoting(threshold)
    number = max(versions(experiment))
    decided = json.loads(versions(experiment)[number].tags[tags.DECISION])
    assert number not in numbers(experiment)
    monkeypatch.setattr(promote, "judge", None)
    monkeypatch.setattr(promote, "judge_first", None)
    _, decision = promoting(threshold)
    assert {key: decision[key] for key in decided} == decided
    assert numbers(experiment) == ((number, None) if decision["promoted"] else (1, number))
    assert len(versions(experiment)) == len(runs(experiment)) == number


def test_cut_off_after_the_alias_moved_it_decides_the_same_again(promoting, experiment, monkeypatch):
    promoting(POOR)
    with monkeypatch.context() as patch:
        patch.setattr(promote, "write_report", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promoting(BEST)
    assert numbers(experiment) == (2, None)
    _, decision = promoting(BEST)
    assert (decision["promoted"], decision["version"], decision["against"]) == (True, 2, 1)
    assert numbers(experiment) == (2, None)


@pytest.fixture
def roll_back(experiment):
    """The command of the documentation, with this registry and model; returns its exit code."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^  segline (registry rollback .*)$", page, re.MULTILINE)
    words = shlex.split(line.replace("http://localhost:5000", experiment.uri).replace("streets", "lamps"))
    return lambda *more: main([*words, *more])


def test_a_version_that_was_rolled_back_is_not_promoted_again(promoting, experiment, roll_back, capsys):
    promoting(POOR)
    promoting(BEST)
    assert roll_back() == 0
    assert "lamps: v2 was rolled back, v1 is champion again" in capsys.readouterr().out
    assert numbers(experiment)[0] == 1
    for _ in range(2):
        decision = promoting(BEST)[1]
        assert not decision["promoted"]
        assert decision["reason"].endswith("v2 was rolled back; delete its tag segline.rolled_back to allow it")
        assert numbers(experiment)[0] == 1
    MlflowClient(experiment.uri).delete_model_version_tag("lamps", "2", tags.ROLLED_BACK)
    assert promoting(BEST)[1]["promoted"]
    assert numbers(experiment)[0] == 2


def test_the_first_champion_is_rolled_back_only_if_none_is_allowed(promoting, experiment, roll_back, capsys):
    promoting(POOR)
    assert roll_back() == TrackingError.exit_code
    assert "lamps v1 has no champion before it; nothing was changed; " in capsys.readouterr().err
    assert numbers(experiment)[0] == 1
    assert roll_back("--allow-none") == 0
    assert numbers(experiment)[0] is None
    _, decision = promoting(GOOD)
    assert (decision["promoted"], numbers(experiment)[0]) == (True, 2)
    main(["registry", "history", "--name", "lamps", "--tracking-uri", experiment.uri])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [re.search(r"(\S+ -> \S+)  (\w+)", line).groups() for line in lines] == [
        ("none -> v1", "promoted"),
        ("v1 -> none", "rolled"),
        ("none -> v2", "promoted"),
    ]


def test_a_champion_that_cannot_be_loaded_is_told_with_the_command_that_helps(promoting, experiment, capsys):
    promoting(POOR)
    promoting(GOOD)
    folder = registry.download_bundle(experiment, registry.get_by_alias(experiment, CHAMPION))
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(StageError, match="champion lamps v2 cannot be loaded") as raised:
        promoting(BEST)
    (command,) = re.findall("`segline (.*) --reason TEXT`", str(raised.value))
    words = [*command.split(), "--reason", "its weights are cut off", "--tracking-uri", experiment.uri]
    assert main(words) == 0
    assert numbers(experiment)[0] == 1
    assert promoting(BEST)[1]["promoted"]
    assert numbers(experiment)[0] == 3


def test_it_is_decided_anew_against_another_champion(promoting, experiment):
    promoting(GOOD)
    promoting(POOR)
    promoting(BEST)
    _, decision = promoting(GOOD)
    assert (decision["promoted"], decision["version"], decision["against"]) == (False, 1, 3)
    assert numbers(experiment) == (3, 1)


def test_it_is_decided_anew_with_other_settings(promoting, experiment):
    """CLOSE gains too little to be sure of, but more likely than not it gains."""
    promoting(GOOD)
    assert not promoting(CLOSE)[1]["promoted"]
    assert promoting(CLOSE, params=replace(PARAMS, promote=Settings(confidence=0.5)))[1]["promoted"]
    assert numbers(experiment) == (2, None)


def test_a_champion_made_by_hand_is_not_called_challenger(promoting, experiment):
    promoting(GOOD)
    promoting(POOR)
    registry.set_alias(experiment, CHAMPION, registry.get_by_alias(experiment, CHALLENGER))
    registry.delete_alias(experiment, CHALLENGER)
    _, decision = promoting(POOR)
    assert decision["promoted"]
    assert numbers(experiment) == (2, None)


def test_the_champion_is_counted_on_todays_images(promoting, experiment, tmp_path):
    promoting(GOOD)
    other = write_labelled(tmp_path / "later", seed=1)
    _, decision = promoting(POOR, dataset_dir=other)
    assert decision["champion_test_miou"] == pytest.approx(plain_miou(other, GOOD))
    assert decision["test_miou"] == pytest.approx(plain_miou(other, POOR))


def test_new_data_make_a_new_version_of_the_same_model(promoting, experiment, tmp_path):
    promoting(GOOD)
    _, decision = promoting(GOOD, dataset_dir=write_labelled(tmp_path / "later", seed=1))
    assert (decision["promoted"], decision["version"], decision["lower_bound"]) == (False, 2, 0)
    assert numbers(experiment) == (1, 2)


def test_other_classes_are_refused(promoting, experiment, tmp_path):
    promoting(GOOD)
    classes = (CLASSES[0], LabelClass("lamp", (255, 255, 255)))
    other = write_labelled(tmp_path / "other", classes=classes)
    message = r"champion lamps v1 has the classes dark, bright, the data have dark, lamp; give `name` in params\.yaml"
    with pytest.raises(TrackingError, match=message):
        promoting(POOR, dataset_dir=other)
    assert numbers(experiment)[0] == 1


def test_scores_of_other_images_are_refused(promoting, dataset_dir, tmp_path):
    folder = write_ensembled(tmp_path / f"ensemble-label-{GOOD}", dataset_dir, GOOD)
    metrics = json.loads((folder / "metrics.json").read_text())
    write_json(folder / "metrics.json", metrics | {"dataset": "of other images"})
    ENSEMBLE.write_mark(folder)
    with pytest.raises(StageError, match="tested on other data"):
        promoting(GOOD)


@pytest.mark.parametrize("name", ["metrics.json", "test_counts.npz", "model/model.json"])
def test_what_ensemble_left_out_is_named(promoting, dataset_dir, tmp_path, name):
    folder = write_ensembled(tmp_path / f"ensemble-label-{GOOD}", dataset_dir, GOOD)
    (folder / name).unlink()
    with pytest.raises(StageError, match=f"{name} is missing; run `segline ensemble` again"):
        promoting(GOOD)


def test_the_decision_is_kept_with_the_version(promoting, experiment):
    promoting(GOOD)
    _, decision = promoting(POOR)
    kept = promote.Decision(**json.loads(versions(experiment)[2].tags[tags.DECISION]))
    assert asdict(kept) == {key: decision[key] for key in asdict(kept)}


def test_the_version_knows_its_data(promoting, experiment, dataset_dir, tracking_uri, tmp_path):
    """With its statistics validate compares new data."""
    (dataset_dir / STATISTICS).write_bytes(b"of the training pairs")
    description = replace(read_dataset_info(dataset_dir), source_revision="dvc:abc")
    write_dataset_info(dataset_dir, description)
    for _ in range(2):
        promoting(GOOD)
    number, file = champion_statistics(tracking_uri, PARAMS.name, tmp_path)
    assert (number, file.read_bytes()) == (1, b"of the training pairs")
    assert registry.get_by_alias(experiment, CHAMPION).tags["segline.source_revision"] == "dvc:abc"


def test_a_champion_that_was_trained_on_todays_test_images_has_its_advantage_told(promoting, dataset_dir):
    table = pd.DataFrame({"key": ["crop3", "crop8", "of another day"], "sharpness": 1.0})
    table.to_parquet(dataset_dir / STATISTICS)
    DATASET.write_mark(dataset_dir)
    promoting(GOOD)
    _, decision = promoting(POOR)
    assert decision["seen_by_champion"] == 2
    assert decision["reason"].endswith("the champion was trained on 2 of these images, so it has an advantage")


def test_with_promotion_off_the_winner_stays_challenger(promoting, experiment):
    off = replace(PARAMS, promote=replace(PARAMS.promote, enabled=False))
    _, first = promoting(GOOD, params=off)
    assert (first["promoted"], numbers(experiment)) == (False, (None, 1))
    assert "promotion is off" in first["reason"]
    promoting(GOOD)
    assert numbers(experiment) == (1, None)
    _, better = promoting(BEST, params=off)
    assert (better["promoted"], better["lower_bound"] > 0, numbers(experiment)) == (False, True, (1, 2))
    _, again = promoting(GOOD, params=off)
    assert (again["promoted"], again["reason"]) == (True, "it is champion already")


def test_a_first_that_is_no_better_than_the_most_frequent_class_stays_challenger(
    promoting, experiment, dataset_dir, tmp_path
):
    folder = write_ensembled(tmp_path / f"ensemble-label-{GOOD}", dataset_dir, GOOD)
    split = open_split(dataset_dir, "test")
    constant = np.zeros((10, 2, 2), np.int64)
    for count, labels in zip(constant, split.take(range(10))[1], strict=True):
        count[:, 0] = np.bincount(labels.ravel(), minlength=2)
    write_counts(folder / "test_counts.npz", constant, split.index)
    ENSEMBLE.write_mark(folder)
    _, decision = promoting(GOOD)
    assert (decision["promoted"], numbers(experiment)) == (False, (None, 1))
    assert decision["baseline_test_miou"] == decision["test_miou"] == pytest.approx(plain_miou(dataset_dir, 256))
    assert "does not exceed" in decision["reason"]
    assert decision["reason"].endswith("of the most frequent class, dark, on the same 10 images")


def test_a_decision_states_its_units_and_how_often_the_test_set_has_judged(promoting, tmp_path):
    promoting(POOR)
    _, second = promoting(GOOD)
    assert (second["units"], second["kind"], second["judged"]) == (10, "images", 2)
    assert second["lower_bound"] < second["gain"] < second["upper_bound"]
    assert second["reason"].endswith("; this test set has judged 2 times")
    _, other = promoting(BEST, dataset_dir=write_labelled(tmp_path / "later", seed=1))
    assert other["judged"] == 1


def test_a_budget_is_spread_over_decisions_and_ends_with_them(promoting, experiment):
    budget = replace(PARAMS, promote=Settings(error_budget=ErrorBudget(total=0.02, decisions=2)))
    promoting(POOR, params=budget)
    _, second = promoting(GOOD, params=budget)
    assert second["promoted"]
    assert "the 99% lower bound of the gain" in second["reason"]
    _, third = promoting(BEST, params=budget)
    assert third["lower_bound"] > 0
    assert (third["promoted"], numbers(experiment)) == (False, (2, 3))
    assert third["reason"].endswith(
        "its 2 decisions are spent (promote.error_budget), so take another test set or another budget"
    )


def test_counts_of_other_labels_are_refused(promoting, dataset_dir, tmp_path):
    promoting(POOR)
    folder = write_ensembled(tmp_path / f"ensemble-label-{GOOD}", dataset_dir, GOOD)
    split = open_split(dataset_dir, "test")
    write_counts(folder / "test_counts.npz", np.ones((10, 2, 2), np.int64), split.index)
    ENSEMBLE.write_mark(folder)
    with pytest.raises(StageError, match=r"test_counts\.npz counts other labels than .*; run `segline ensemble` again"):
        promoting(GOOD)


def test_a_decision_that_is_no_json_counts_for_nothing():
    versions = [Version(1, {}), Version(2, {"segline.decision": "{"}), Version(3, {"segline.decision": "[1]"})]
    known = json.dumps({"test_set": "a", "judged": 4})
    assert times_judged(versions, "a") == 0
    assert times_judged([*versions, Version(4, {"segline.decision": known})], "a") == 4


def break_weights(bundle):
    """Make a logit of the bundle's only model infinite."""
    [weights] = bundle.glob("*.safetensors")
    state = load_file(weights)
    state["head.bias"][0] = torch.inf
    save_file(state, weights)


def test_a_model_whose_logits_are_not_finite_is_not_registered(promoting, experiment, dataset_dir, tmp_path):
    folder = write_ensembled(tmp_path / f"ensemble-{dataset_dir.name}-{BEST}", dataset_dir, BEST)
    break_weights(folder / "model")
    ENSEMBLE.write_mark(folder)
    with pytest.raises(StageError, match=r"model: the predictions for the image crop0 are not finite; run `segline tr"):
        promoting(BEST)
    assert versions(experiment) == {}


def test_a_champion_whose_logits_are_not_finite_is_named_with_the_command_that_helps(promoting, experiment):
    promoting(POOR)
    break_weights(registry.download_bundle(experiment, registry.get_by_alias(experiment, CHAMPION)))
    said = r"^champion lamps v1: the predictions for the image crop0 are not finite; `segline registry rollback "
    with pytest.raises(TrackingError, match=said):
        promoting(BEST)
    assert numbers(experiment)[0] == 1


def test_the_test_set_is_what_evaluate_says(promoting):
    with pytest.raises(StageError, match=r"test_crops is missing: .* run `segline label` again"):
        promoting(GOOD, params=replace(PARAMS, evaluate=Evaluate(on="crops")))
