"""A bundle written, read and loaded again; its hash; and what its models predict together."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from segline.artifacts.bundle import Bundle, Member, bundle_hash, join_bundles, read_bundle
from segline.classes import LabelClass
from segline.errors import StageError
from segline.inference.bundle import load_models
from segline.models import MODELS

CLASSES = (LabelClass("road", (128, 64, 128)), LabelClass("car", (0, 0, 142)), LabelClass("person", (220, 20, 60)))


SCRATCH = {"encoder": "", "upsampling": "transposed", "pretrained": False}


def write_candidate(folder, name, model="unet", seed=0, **options):
    """A candidate as train leaves it: weights and their description."""
    torch.manual_seed(seed)
    network = MODELS[model](len(CLASSES), **options)
    network.train()(torch.randn(2, 3, 16, 16))
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    bundle = Bundle(CLASSES, 0, (Member(name, model, options, "weights.safetensors"),))
    return folder, bundle, network.eval()


@pytest.fixture
def joined(tmp_path):
    """A bundle of two members, and the networks they were made of."""
    first, second = (
        write_candidate(tmp_path / name, name, seed=width, width=width, depth=1)
        for name, width in (("unet-dice", 2), ("unet-dice.2", 3))
    )
    join_bundles(tmp_path / "model", [first[:2], second[:2]])
    return tmp_path / "model", [first[2], second[2]]


def test_members_are_read_as_they_were_written(joined):
    folder, _ = joined
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.json",
        "unet-dice.2.safetensors",
        "unet-dice.safetensors",
    ]
    assert read_bundle(folder) == Bundle(
        classes=CLASSES,
        background=0,
        members=(
            Member("unet-dice", "unet", SCRATCH | {"width": 2, "depth": 1}, "unet-dice.safetensors"),
            Member("unet-dice.2", "unet", SCRATCH | {"width": 3, "depth": 1}, "unet-dice.2.safetensors"),
        ),
    )


@pytest.mark.parametrize("key", ["colour", "color"])
def test_the_classes_may_have_either_spelling_of_color(joined, key):
    folder, _ = joined
    content = json.loads((folder / "model.json").read_text())
    assert content["classes"][0] == {"name": "road", "colour": [128, 64, 128]}
    content["classes"] = [{"name": entry["name"], key: entry["colour"]} for entry in content["classes"]]
    (folder / "model.json").write_text(json.dumps(content))
    assert read_bundle(folder).classes == CLASSES


def test_bundles_of_several_members_join_too(joined, tmp_path):
    folder, networks = joined
    third, bundle, network = write_candidate(tmp_path / "third", "third", width=1, depth=2)
    whole = join_bundles(tmp_path / "all", [(folder, read_bundle(folder)), (third, bundle)])
    assert [member.candidate for member in whole.members] == ["unet-dice", "unet-dice.2", "third"]
    images = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        for loaded, original in zip(load_models(tmp_path / "all", whole), [*networks, network], strict=True):
            torch.testing.assert_close(loaded.cpu()(images), original(images), rtol=1e-4, atol=1e-5)


def test_loaded_models_are_ready_to_predict(joined):
    folder, networks = joined
    models = load_models(folder, read_bundle(folder))
    assert not any(model.training for model in models)
    for loaded, original in zip(models, networks, strict=True):
        for name, value in original.state_dict().items():
            assert torch.equal(loaded.state_dict()[name].cpu(), value)


@pytest.mark.parametrize(("is_there", "device"), [(True, "cuda"), (False, "cpu")])
def test_models_are_loaded_onto_the_gpu_where_there_is_one(joined, monkeypatch, is_there, device):
    """It is what gives evaluate, ensemble and promote a GPU; on a machine without one no more than the wish is seen."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.nn.Module, "to", lambda model, *to, **_: asked.extend(to) or model)
    load_models(joined[0], read_bundle(joined[0]))
    assert asked == [device] * 2


def test_pretrained_weights_are_not_fetched_again(tmp_path, monkeypatch):
    folder, bundle, _ = write_candidate(tmp_path / "one", "one", "unet_resnet34")
    member = replace(bundle.members[0], options={"pretrained": True})
    asked, build = [], MODELS["unet_resnet34"]
    monkeypatch.setitem(MODELS, "unet_resnet34", lambda classes, **options: asked.append(options) or build(classes))
    load_models(folder, replace(bundle, members=(member,)))
    assert asked == [{"pretrained": False}]


def test_the_hash_is_of_names_and_bytes(joined):
    folder, _ = joined
    before = bundle_hash(folder)
    weights, description = folder / "unet-dice.safetensors", folder / "model.json"
    content, text = weights.read_bytes(), description.read_text()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    one_bit = bundle_hash(folder)
    weights.write_bytes(content)
    description.write_text(text + " ")
    one_byte = bundle_hash(folder)
    description.write_text(text)
    assert bundle_hash(folder) == before
    weights.rename(folder / "other.safetensors")
    assert len({before, one_bit, one_byte, bundle_hash(folder)}) == 4


def test_the_hash_does_not_depend_on_the_place(joined, tmp_path):
    folder, _ = joined
    before = bundle_hash(folder)
    folder.rename(tmp_path / "elsewhere")
    assert bundle_hash(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("content", [None, "", "not json", "[]", "{}", json.dumps({"classes": [], "members": []})])
def test_a_wrong_folder_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(StageError, match=r"model\.json is missing or broken; run the stage that writes it again"):
        read_bundle(tmp_path)
