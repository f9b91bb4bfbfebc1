"""The missing-label audit of evaluate: boxes drawn by hand, and a model whose probabilities have a closed form."""

import math

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from test_promote import CLASSES, cutting

from segline.artifacts.bundle import Bundle, Member, join_bundles
from segline.artifacts.candidates import CANDIDATES, HISTORY
from segline.artifacts.dataset import DatasetInfo, split_folder, write_dataset_info
from segline.config.params import Params
from segline.config.sections import Audit, Evaluate
from segline.data.augment import STD
from segline.data.exclusions import read_exclusions
from segline.data.parts import join_parts
from segline.data.shards import Crop, write_shard
from segline.errors import StageError
from segline.stages import evaluate

THRESHOLD = 128
SETTINGS = Audit(min_confidence=0.7, min_pixels=4, border=1, pictures=2)
FRAME = np.s_[10:15, 2:14]
# Split, key, corner and scale of a crop, and the unlabelled place in it with its red value.
CROPS = [
    ("train", "a", (100, 200), 2.0, np.s_[2:6, 3:8], 255),
    ("val", "b", (5, 7), 1.0, np.s_[0:3, 0:4], 200),
    ("val", "b", (5, 23), 1.0, np.s_[0:3, 0:4], 160),
    ("val", "d", (0, 0), 1.0, np.s_[0:1, 0:3], 255),
    ("test", "c", (0, 0), 1.5, np.s_[1:4, 2:5], 230),
]


def draw(split, key, corner, scale, place, red):
    """A crop with a labelled bright bar, and a place without a label."""
    image, label = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
    image[FRAME], label[FRAME] = 250, 1
    image[place] = (red, 0, 0)
    return Crop(key, "g", *corner, scale, image=image, label=label)


def confidence(red):
    """The probability of "bright"; the model halves it midway below the threshold."""
    return 1 / (1 + math.exp(-(red - (THRESHOLD - 0.5)) / 255 / STD[0]))


@pytest.fixture
def run(tmp_path):
    def evaluate_and_read(*, test_is_val=False, settings=SETTINGS, broken=None, on="frames"):
        dataset_dir, candidates_dir, out = (tmp_path / name for name in ("label", "train", "evaluate"))
        for split in ("train", "val", "test"):
            crops = [draw(*crop) for crop in CROPS if crop[0] == split]
            folder = dataset_dir / (split if split == "train" else split_folder(split, on))
            write_shard(folder, 0, crops, shape=(16, 16))
            join_parts(folder, 1)
        pixels = {split: [1, 1] for split in ("train", "val", "test")}
        facts = {"content_hash": "", "source": "", "source_hash": "", "source_revision": "", "pixels": pixels}
        description = DatasetInfo(classes=CLASSES, background=0, crop_size=(16, 16), test_is_val=test_is_val, **facts)
        write_dataset_info(dataset_dir, description)
        # The poor one does not see the bar, so that the good one is first on the leaderboard.
        for name, threshold in (("good", THRESHOLD), ("a_poor_one", 255)):
            part = tmp_path / name
            part.mkdir()
            state = cutting(threshold)
            if name == broken:
                state["head.bias"][0] = math.nan
            save_file(state, part / "weights.safetensors")
            member = Member(name, "unet", {"width": 1, "depth": 1}, "weights.safetensors")
            join_bundles(candidates_dir / name, [(part, Bundle(CLASSES, 0, (member,)))])
            history = pd.DataFrame({"epoch": [1], "train_loss": [1.0], "val_loss": [1.0], "val_miou": [0.5]})
            history.to_csv(candidates_dir / name / HISTORY, index=False)
        CANDIDATES.write_mark(candidates_dir)
        params = Params(evaluate=Evaluate(on=on, batch_size=2, pictures=1, audit=settings))
        evaluate.run(params, dataset_dir=dataset_dir, candidates_dir=candidates_dir, out=out)
        return out

    return evaluate_and_read


@pytest.mark.parametrize("on", ["frames", "crops"])
def test_the_list_has_the_unlabelled_places_in_the_source_image_the_surest_first(run, on):
    listed = pd.read_csv(run(on=on) / "missing_labels.csv")
    sure = listed.pop("confidence")
    assert listed.to_dict("split")["columns"] == ["key", "top", "left", "height", "width", "class", "pixels", "split"]
    assert listed.to_numpy().tolist() == [
        ["a", 104, 206, 8, 10, "bright", 20, "train"],
        ["c", 1, 3, 5, 5, "bright", 9, "test"],
        ["b", 5, 7, 3, 4, "bright", 12, "val"],
    ]
    assert sure.tolist() == pytest.approx([confidence(255), confidence(230), confidence(200)], abs=1e-3)


def test_the_surest_are_pictured(run):
    assert sorted(path.name for path in (run() / "missing_labels").iterdir()) == ["001-a.png", "002-c.png"]


def test_a_key_may_be_longer_than_a_name_of_a_file(run, monkeypatch):
    """Layouts join the folders of an image into its key."""
    longer = [(split, "drive__" * 38 + key, *more) for split, key, *more in CROPS]
    monkeypatch.setattr("test_evaluate.CROPS", longer)
    out = run()
    assert {len(key) for key in pd.read_csv(out / "missing_labels.csv")["key"]} == {267}
    pictures = [*(out / "pictures").iterdir(), *(out / "missing_labels").iterdir()]
    assert len(pictures) == 3
    assert all("drive__" in path.name for path in pictures)


def test_a_test_split_that_is_the_validation_split_is_looked_at_once(run):
    assert pd.read_csv(run(test_is_val=True) / "missing_labels.csv")["split"].tolist() == ["train", "val"]


def test_the_list_can_be_taken_as_exclusions_as_it_is(run):
    found = read_exclusions(run() / "missing_labels.csv")
    assert found.keys == set()
    assert [found.boxes(key) for key in "abcd"] == [((104, 206, 8, 10),), ((5, 7, 3, 4),), ((1, 3, 5, 5),), ()]


def test_a_list_without_objects_has_its_heading_and_excludes_nothing(run, capsys):
    out = run(settings=Audit(min_pixels=1000))
    assert len(pd.read_csv(out / "missing_labels.csv")) == 0
    assert list((out / "missing_labels").iterdir()) == []
    assert read_exclusions(out / "missing_labels.csv").hash == read_exclusions(_empty(out)).hash
    assert "lack a label" not in capsys.readouterr().out


def _empty(out):
    path = out / "nothing.csv"
    path.write_text("")
    return path


@pytest.mark.parametrize("broken", ["good", "a_poor_one"])
def test_a_candidate_whose_logits_are_not_finite_is_refused(run, tmp_path, broken):
    said = rf"train/{broken}: the predictions for the image b are not finite; run `segline train` again with a lower"
    with pytest.raises(StageError, match=said):
        run(broken=broken)
    assert not (tmp_path / "evaluate").exists()
