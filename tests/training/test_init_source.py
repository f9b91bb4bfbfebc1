"""What `train.init` stands for, in a real registry, in folders and in a bucket."""

import json
import shutil

import pytest
from safetensors.numpy import save_file

from segline.artifacts.bundle import Bundle, Member, read_bundle, write_description
from segline.classes import LabelClass
from segline.config.loader import load
from segline.errors import ParamsError, SourceError, TrackingError
from segline.files.transfer import upload
from segline.tracking.client import Experiment
from segline.tracking.registry import CHAMPION, register_model, set_alias
from segline.tracking.runs import closing, start_run
from segline.tracking.tags import INIT, INIT_KEY
from segline.training.checkpoints import CheckpointStore
from segline.training.init_source import find_init, share_init

CLASSES = (LabelClass("road", (0, 0, 0)), LabelClass("car", (9, 0, 0)))


@pytest.fixture
def experiment(tracking_uri):
    return Experiment(tracking_uri, "weekly")


def write_candidate(folder, name, classes=CLASSES):
    (folder / name).mkdir(parents=True)
    save_file({}, folder / name / "weights.safetensors", {"name": name})
    member = Member(name, "unet", {"width": 2, "depth": 1}, "weights.safetensors")
    write_description(folder / name, Bundle(classes, 0, (member,)))
    return folder / name


@pytest.fixture
def versions(tracking_uri, tmp_path):
    """Two versions of streets; the first is champion."""
    streets, made = Experiment(tracking_uri, "streets"), []
    for name in ("old", "new"):
        folder = write_candidate(tmp_path / "made", name)
        run = start_run(streets, name, name, {}, {})
        with closing(streets, run):
            made.append(register_model(streets, run, name, folder, {}))
    set_alias(streets, CHAMPION, made[0])
    return made


def candidates_of(init):
    return [member.candidate for member in read_bundle(init.folder).members]


def test_a_version_keeps_its_number_when_the_alias_moves_and_new_data_look_again(
    experiment, versions, tmp_path, capsys
):
    def find(address, key, name):
        return find_init(address, experiment, key, tmp_path / "out", tmp_path / name)

    address = "models:/streets@champion"
    first = find(address, "key", "1")
    assert (first.source, candidates_of(first)) == ("models:/streets/1", ["old"])
    assert str(first) == "init: models:/streets@champion = version 1"
    start_run(experiment, "grid", "grid", {}, {INIT: first.source, INIT_KEY: "key"})
    set_alias(Experiment(experiment.uri, "streets"), CHAMPION, versions[1])
    assert find(address, "key", "2") == type(first)(**{**vars(first), "folder": tmp_path / "2"})
    assert capsys.readouterr().out.splitlines()[-1] == (
        "train: init: models:/streets@champion was version 1 when this training began, and is 2 now; models:/streets/2 "
        "starts from that one"
    )
    assert find(address, "other data", "3").source == "models:/streets/2"
    second = find("models:/streets/2", "key", "4")
    assert (second.source, candidates_of(second), str(second)) == (
        "models:/streets/2",
        ["new"],
        "init: models:/streets/2",
    )
    assert second.sha256 != first.sha256


@pytest.mark.parametrize("address", ["models:/streets@shadow", "models:/streets/9", "models:/nothing@champion"])
def test_what_the_registry_lacks_is_named(experiment, versions, tmp_path, address):
    with pytest.raises(TrackingError, match=f"has no {address}, which train.init names; `segline registry list`"):
        find_init(address, experiment, "key", tmp_path / "out", tmp_path / "bundle")


def test_no_database_is_made(tmp_path):
    experiment = Experiment(f"sqlite:///{tmp_path}/none.db", "weekly")
    with pytest.raises(TrackingError, match="has no models:/streets@champion"):
        find_init("models:/streets@champion", experiment, "key", tmp_path / "out", tmp_path / "bundle")
    assert not (tmp_path / "none.db").exists()


def test_folders_of_a_candidate_of_candidates_and_in_a_bucket(experiment, tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "kept"
    for name in ("b", "a"):
        folder = write_candidate(kept, name)
        (folder / "last.pt").write_bytes(name.encode())
        (folder / "history.csv").write_text("epoch\n1\n", encoding="utf-8")
    (kept / ".segline").touch()
    url = f"s3://{bucket({})}/kept"
    upload(kept, url)
    found = {}
    for address, expected in ((str(kept / "a"), ["a"]), (str(kept), ["a", "b"]), (url, ["a", "b"])):
        init = find_init(address, experiment, "key", tmp_path / "out", tmp_path / f"bundle{len(found)}")
        assert (init.source, candidates_of(init), str(init)) == (address, expected, f"init: {address}")
        found[address] = init.sha256
        for name in expected:
            assert (init.folder / f"{name}.last.pt").read_text(encoding="utf-8") == name
    assert found[str(kept)] == found[url] != found[str(kept / "a")]


def test_another_node_gets_the_bundle_from_the_bucket(experiment, tmp_path, bucket):
    write_candidate(tmp_path / "kept", "a")
    init = find_init(str(tmp_path / "kept"), experiment, "key", tmp_path / "out", tmp_path / "bundle")
    store = CheckpointStore(f"s3://{bucket({})}/run")
    shared = share_init(init, tmp_path / "out.partial" / "prepared", store)
    (shared.folder / "model.json").unlink()  # As after a kill amid the upload and the loss of the disk.
    shared = share_init(init, tmp_path / "out.partial" / "prepared", store)
    there = {path.name: path.read_bytes() for path in shared.folder.iterdir()}
    assert there.keys() == {"model.json", "a.safetensors"}
    shutil.rmtree(tmp_path / "out.partial")
    shared.fetch(store)
    assert {path.name: path.read_bytes() for path in shared.folder.iterdir()} == there
    shared.fetch(CheckpointStore(""))


def test_a_folder_that_the_training_replaces_is_refused(experiment, tmp_path):
    write_candidate(tmp_path / "train", "a")
    with pytest.raises(SourceError, match="which this training replaces; give a copy outside data/"):
        find_init(str(tmp_path / "train" / "a"), experiment, "key", tmp_path / "train", tmp_path / "bundle")


def test_folders_without_a_bundle_are_refused(experiment, tmp_path):
    for address, said in ((tmp_path / "none", "is not a folder"), (tmp_path, "holds no model.json")):
        with pytest.raises(SourceError, match=said):
            find_init(str(address), experiment, "key", tmp_path / "out", tmp_path / "bundle")


def test_candidates_of_different_classes_are_refused(experiment, tmp_path):
    write_candidate(tmp_path / "kept", "a")
    write_candidate(tmp_path / "kept", "b", CLASSES[:1])
    with pytest.raises(SourceError, match="have different classes; give the folder of one"):
        find_init(str(tmp_path / "kept"), experiment, "key", tmp_path / "out", tmp_path / "bundle")


@pytest.mark.parametrize(
    "address", ["models:/streets", "models:/streets@", "models:/streets/latest", "models:streets/1"]
)
def test_an_address_of_no_form_is_refused_by_the_parameters(address):
    with pytest.raises(ParamsError, match=r"train\.init: got .* expected models:/NAME@ALIAS, models:/NAME/VERSION, a"):
        load(json.dumps({"train": {"init": address}}))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"init": ""}, r"train\.init: got '', expected for resume a folder"),
        (
            {"init": "models:/streets@champion"},
            r"train\.init: got 'models:/streets@champion', expected for resume a folder",
        ),
        (
            {"init": "kept", "search": {"finalists": 2}},
            r"train\.resume: got true, expected false with search\.finalists",
        ),
    ],
)
def test_what_cannot_be_resumed_is_refused_by_the_parameters(train, said):
    with pytest.raises(ParamsError, match=said):
        load(json.dumps({"train": {"resume": True, **train}}))


def test_kept_features_are_those_of_their_own_encoder():
    """What a start would put into the encoder is not what the features were computed with."""
    train = {"losses": ["cross_entropy"], "init": "kept"}
    with pytest.raises(ParamsError, match=r"train\.init: got 'kept', expected none with pixel_mlp"):
        load(json.dumps({"train": {"models": ["pixel_mlp"], **train}}))
    assert load(json.dumps({"train": {"models": [{"pixel_mlp": {"max_gb": 0}}], **train}})).train.init == "kept"
