"""Training on kept features: what is kept, that heads learn from it as from crops, and the same bits after a kill."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from grids import board, train, without_ray, write_noise

from segline.artifacts.bundle import read_bundle
from segline.artifacts.dataset import read_dataset_info
from segline.config.components import ComponentSpec
from segline.config.loader import load
from segline.config.sections import Augment
from segline.data.augment import normalize, to_unit
from segline.data.reading import open_split
from segline.errors import TrainingError
from segline.files.s3 import Bucket
from segline.inference.bundle import load_models
from segline.metrics.confusion import confusion_matrix, mean_iou
from segline.models import feature_cache
from segline.models.hypercolumns import Hypercolumns
from segline.training import prepare
from segline.training.checkpoints import CheckpointStore
from segline.training.components import features_name
from segline.training.prepare import prepare_trials
from segline.training.run_trial import make_run, train_trial
from segline.training.trial import Trial, TrialConfig, TrialInputs

STILL = Augment(flip=0.0, scale=0.0, translate=0.0, rotate=0.0, brightness_contrast=0.0)
OPTIONS = {"pretrained": "shipped", "coarsest_stride": 4, "hidden": 8}
CHANNELS = 16 + 24


@pytest.fixture
def inputs(tmp_path):
    return TrialInputs(dataset_dir=write_noise(tmp_path), prepared_dir=tmp_path / "work/prepared")


def config(augment=STILL, *, seed=3, loss="cross_entropy", epochs=4, **options):
    settings = load(json.dumps({"train": {"epochs": epochs, "batch_size": 2, "precision": "fp32"}})).train
    return TrialConfig(
        name="pixel_mlp-dice",
        model=ComponentSpec(name="pixel_mlp", options=OPTIONS | options),
        loss=(ComponentSpec(name=loss),),
        settings=replace(settings, augment=augment),
        seed=seed,
    )


def run(inputs, *configs, url="", seed=3):
    return prepare_trials(configs, inputs, CheckpointStore(url), seed=seed, threads=1)


def folder_of(inputs, config):
    return inputs.prepared_dir / features_name(config.model, config.settings)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trial(inputs, config, name="trial"):
    folder = inputs.prepared_dir.parent / name
    return Trial(config=config, inputs=inputs, folder=folder, until=99, store=CheckpointStore(""))


def test_every_kept_row_is_a_pixel_of_its_image_with_its_features_and_class(inputs):
    """All pixels of a small image have room: each is kept once, and its features are those of the encoder."""
    run(inputs, config(views=1))
    features = Hypercolumns("tf_efficientnet_lite0", pretrained="shipped", finest=2, coarsest=4, stride=4)
    for name in ("train", "val"):
        kept, split = open_split(folder_of(inputs, config(views=1)), name), open_split(inputs.dataset_dir, name)
        assert list(kept.index["key"]) == list(split.index["key"])
        for number in range(len(split)):
            (image,), (label,) = split.take([number])
            (rows,), (classes,) = kept.take([number])
            assert rows.shape == (32 * 32, 1, CHANNELS)
            assert rows.dtype == np.float16
            expected = features.at(normalize(to_unit(image[None], torch.device("cpu"))), torch.arange(32 * 32)).numpy()
            expected = np.column_stack([expected.astype(np.float16), label.ravel()]).astype(np.float32)
            actual = np.column_stack([rows[:, 0], classes[:, 0]]).astype(np.float32)
            np.testing.assert_allclose(np.sort(actual, axis=0), np.sort(expected, axis=0), rtol=2e-3, atol=2e-3)


def test_views_are_augmented_each_in_its_own_way_and_those_of_validation_are_not(inputs):
    moved = config(Augment(), views=3)
    run(inputs, moved)
    kept = open_split(folder_of(inputs, moved), "train")
    assert len(kept) == 3 * 8
    assert list(kept.index["key"]) == 3 * list(open_split(inputs.dataset_dir, "train").index["key"])
    means = [kept.take([number])[0].astype(np.float64).mean() for number in (0, 8, 16)]
    assert len(set(means)) == 3
    assert len(open_split(folder_of(inputs, moved), "val")) == 8
    run(inputs, config(views=3))
    assert (folder_of(inputs, moved) / "val/labels-00000.npy").read_bytes() == (
        folder_of(inputs, config(views=3)) / "val/labels-00000.npy"
    ).read_bytes()


def test_a_view_of_which_many_pixels_are_kept_gives_several_items(inputs, monkeypatch):
    """1024 pixels have room: one item of them all, or five of 204 in the same order."""
    run(inputs, config(views=2))
    (whole,), _ = open_split(folder_of(inputs, config(views=2)), "train").take([9])
    shutil.rmtree(inputs.prepared_dir)
    monkeypatch.setattr(feature_cache, "ITEM_PIXELS", 200)
    run(inputs, config(views=2))
    kept, split = open_split(folder_of(inputs, config(views=2)), "train"), open_split(inputs.dataset_dir, "train")
    assert list(kept.index["key"]) == 2 * [key for key in split.index["key"] for _ in range(5)]
    rows, _ = kept.take(range(45, 50))
    assert rows.shape == (5, 204, 1, CHANNELS)
    assert np.array_equal(rows.reshape(-1, CHANNELS), whole[: 5 * 204, 0])


def test_the_size_is_bounded(inputs):
    small = config(views=2, max_gb=2e-4)
    run(inputs, small)
    size = sum(path.stat().st_size for path in folder_of(inputs, small).rglob("*.npy"))
    assert 1.5e5 < size <= 2e5 + 4 * 128
    with pytest.raises(TrainingError, match=r"pixel_mlp.max_gb: .* hold no pixel of each of 16 views with 40 features"):
        run(inputs, config(views=2, max_gb=1e-6))


def test_only_what_concerns_the_features_makes_them_anew(inputs):
    base = config()
    same = [config(hidden=16), config(layers=3), config(heads=4), config(loss="dice"), config(seed=8)]
    assert {features_name(other.model, other.settings) for other in same} == {features_name(base.model, base.settings)}
    others = [config(stride=8), config(views=3), config(max_gb=0.5), config(Augment()), config(balance="root_inverse")]
    assert len({features_name(other.model, other.settings) for other in (base, *others)}) == 6
    assert features_name(config(max_gb=0.0).model, base.settings) == ""
    assert features_name(ComponentSpec(name="unet"), base.settings) == ""
    run(inputs, base, *same)
    assert [path.name for path in inputs.prepared_dir.iterdir()] == [features_name(base.model, base.settings)]


def test_a_step_that_was_killed_is_repeated_with_the_same_bits(inputs, monkeypatch):
    run(inputs, config(Augment()))
    first = content(folder_of(inputs, config(Augment())))
    shutil.rmtree(inputs.prepared_dir)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(prepare, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, config(Augment()))
    assert not folder_of(inputs, config(Augment())).exists()
    run(inputs, config(Augment()))
    assert content(folder_of(inputs, config(Augment()))) == first
    assert set(first) == {
        "preparation.json",
        *(f"{split}/{file}" for split in ("train", "val") for file in FILES),
    }


FILES = ("images-00000.npy", "labels-00000.npy", "index.csv")


def test_another_node_finds_them_in_the_bucket(inputs, tmp_path, bucket):
    url = f"s3://{bucket({})}/run/0123"
    run(inputs, config(views=1), url=url)
    name = folder_of(inputs, config(views=1)).name
    expected = content(inputs.prepared_dir / name)
    assert sorted(Bucket(url).files) == sorted(f"prepared/{name}/{file}" for file in expected)
    CheckpointStore(url).fetch(tmp_path / "node", f"prepared/{name}")
    CheckpointStore(url).fetch(tmp_path / "driver", whole=False)
    assert content(tmp_path / "node/prepared" / name) == content(tmp_path / "driver/prepared" / name) == expected


def test_a_candidate_predicts_images_as_its_history_says(inputs):
    """The encoder is in its weights, and all pixels of the validation images were kept: their mIoU is the history's."""
    run(inputs, config(layers=1))
    records = list(train_trial(trial(inputs, config(layers=1))))
    folder = trial(inputs, config(layers=1)).folder
    bundle = read_bundle(folder)
    (model,) = load_models(folder, bundle)
    split = open_split(inputs.dataset_dir, "val")
    images, labels = split.take(range(8))
    with torch.inference_mode():
        logits = model.cpu()(normalize(to_unit(images, torch.device("cpu"))))
    counts = confusion_matrix(labels, logits.argmax(1).numpy(), 2).sum(0)
    assert max(record["val_miou"] for record in records) == pytest.approx(float(mean_iou(counts)), abs=0.01)
    assert (folder / "encoder-licence.txt").is_file()


@pytest.mark.parametrize("heads", [1, 3])
def test_a_trial_that_was_stopped_ends_with_the_same_bits(inputs, heads):
    own = config(Augment(), heads=heads)
    run(inputs, own)
    list(train_trial(trial(inputs, own, "whole")))
    stopped = trial(inputs, own, "stopped")
    list(train_trial(replace(stopped, until=2)))
    list(train_trial(stopped))
    for file in ("weights.safetensors", "history.csv", "model.json"):
        assert (stopped.folder / file).read_bytes() == (stopped.folder.parent / "whole" / file).read_bytes()


def test_the_encoder_is_not_run_while_heads_learn(inputs, monkeypatch):
    run(inputs, config())
    monkeypatch.setattr(Hypercolumns, "forward", None)
    assert len(list(train_trial(trial(inputs, config())))) == 4


def test_without_kept_features_it_trains_on_crops(inputs):
    own = make_run(trial(inputs, config(max_gb=0.0)), read_dataset_info(inputs.dataset_dir))
    assert not own.on_features
    assert own.train.folder == inputs.dataset_dir / "train"
    assert len(list(train_trial(trial(inputs, config(max_gb=0.0, epochs=1))))) == 1


def test_a_search_over_heads_shares_one_set_of_features_and_leaves_none(tmp_path, tracking_uri, monkeypatch):
    without_ray(monkeypatch)
    spaces = {"pixel_mlp.hidden": [4, 8], "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}
    search = {"spaces": spaces, "num_samples": 2, "scheduler": "none"}
    models = [{"pixel_mlp": {"pretrained": "shipped", "coarsest_stride": 4}}]
    losses = ["dice", "cross_entropy"]
    out = train(write_noise(tmp_path), tracking_uri, models=models, losses=losses, search=search)
    assert [row["status"] for row in board(out).values()] == ["finished"] * 4
    [prepared] = (out / "prepared").iterdir()
    assert not list(prepared.rglob("*.npy"))
    assert "40 features of" in json.loads((prepared / "preparation.json").read_text(encoding="utf-8"))["message"]
