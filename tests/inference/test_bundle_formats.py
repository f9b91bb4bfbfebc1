"""Stored bundles keep their meaning: those of 0.1 give the logits of 0.1, new ones hold every option."""

import json

import numpy as np
import pytest
from golden_bundles import FOLDER, fill, sample
from safetensors.torch import save_file

from segline.artifacts import bundle_of_0_1
from segline.artifacts.bundle import FORMAT, Bundle, Member, read_bundle, write_description
from segline.classes import LabelClass
from segline.config import tables
from segline.errors import StageError
from segline.inference.bundle import load_models, make_model

GOLDEN = sorted(FOLDER.glob("*.json"))
OPTIONS = FOLDER.parent / "model_options.json"
SCRATCH = {"encoder": "", "upsampling": "transposed", "pretrained": False}
CLASSES = (LabelClass("road", (128, 64, 128)), LabelClass("car", (0, 0, 142)), LabelClass("person", (220, 20, 60)))


def write(folder, **changed):
    """A bundle of today whose description has other values."""
    write_description(folder, Bundle(CLASSES, 0, (Member("a", "unet", {"width": 2}, "a.safetensors"),)))
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps(content | changed), encoding="utf-8")


@pytest.mark.usefixtures("not_drawn")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_bundle_of_0_1_gives_the_logits_of_0_1(path, tmp_path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps(golden["description"]), encoding="utf-8")
    (member,) = read_bundle(tmp_path).members
    logits, deviation = sample(fill(make_model(member, 3)))
    assert deviation == pytest.approx(golden["deviation"], rel=1e-3)
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-3 * deviation)


def test_the_golden_bundles_are_of_the_architectures_whose_defaults_may_change():
    models = {json.loads(path.read_text(encoding="utf-8"))["description"]["members"][0]["model"] for path in GOLDEN}
    assert models >= {"deeplab_v2", "deeplab_v3", "deeplab_v3plus", "spp", "drn_a_18", "fcn16s", "fcn8s", "unet"}
    assert len(GOLDEN) == 15


def test_every_option_is_stored(tmp_path):
    members = (Member("a", "unet", {"width": 3}, "a.safetensors"), Member("b", "smp/dpt", {}, "b.safetensors"))
    write_description(tmp_path, Bundle(CLASSES, 0, members))
    content = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert content["format"] == FORMAT
    assert [member["options"] for member in content["members"]] == [
        SCRATCH | {"width": 3, "depth": 4},
        {"encoder": "tu-vit_base_patch16_224", "pretrained": False},
    ]


def test_a_changed_default_does_not_change_a_stored_bundle(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(tables, "defaults", lambda package: {"unet": SCRATCH | {"width": 99, "depth": 1}})
    assert read_bundle(tmp_path).members[0].options == SCRATCH | {"width": 2, "depth": 4}


def test_a_whole_bundle_of_0_1_is_loaded(tmp_path):
    golden = json.loads((FOLDER / "unet.json").read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps(golden["description"]), encoding="utf-8")
    bundle = read_bundle(tmp_path)
    save_file(fill(make_model(bundle.members[0], 3)).state_dict(), tmp_path / bundle.members[0].weights)
    (network,) = load_models(tmp_path, bundle)
    np.testing.assert_allclose(sample(network.cpu())[0], golden["logits"], rtol=0, atol=1e-3 * golden["deviation"])


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "new"])
def test_a_later_format_is_refused_in_a_line(tmp_path, number):
    write(tmp_path, format=number)
    with pytest.raises(StageError) as caught:
        read_bundle(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'model.json'} has format {number!r}, this version reads up to {FORMAT}; install a later segline"
    )


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("unet9", {}, "a has the unknown model 'unet9'; install a later segline"),
        ("unet_valid", {"width": 2}, "a has the options width of unet_valid, expected width, depth, tile; run"),
        ("unet_valid", {"width": 2, "tile": 1, "new": 1}, "a has the options width, tile, new of unet_valid, expected"),
    ],
)
def test_an_architecture_that_is_not_of_today_is_refused_in_a_line(tmp_path, model, options, message):
    write(tmp_path, members=[{"candidate": "a", "model": model, "options": options, "weights": "a.safetensors"}])
    with pytest.raises(StageError, match=message):
        read_bundle(tmp_path)


def test_a_new_option_comes_with_a_number_and_with_its_value_in_older_bundles():
    """After a change: raise FORMAT, say what older bundles stand for, and write the names anew into the file."""
    stored = json.loads(OPTIONS.read_text(encoding="utf-8"))
    now = {model: sorted(options) for model, options in tables.options("models").items()}
    assert stored == {"format": FORMAT, "options": now}
    then = {model: sorted(options) for model, options in bundle_of_0_1.OPTIONS.items()}
    assert then == {model: now[model] for model in then}
