"""Encoder weights: from a file, and from a hub that runs on this machine."""

import os
import subprocess
import sys
from hashlib import sha256

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from servers import serving

from segline.errors import TrainingError
from segline.models.encoders import backbone, backbone_features
from segline.models.smp import Smp

NAME = "resnet10t"


@pytest.fixture(scope="module")
def whole():
    """A classifier with random weights."""
    torch.manual_seed(3)
    return timm.create_model(NAME)


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("stride", [32, 8])
def test_weights_come_from_a_file(whole, tmp_path, file, stride):
    encoder, channels = backbone_features(
        NAME, pretrained=write(whole.state_dict(), tmp_path / file), output_stride=stride
    )
    theirs = whole.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())
    images = torch.randn(1, 3, 64, 64)
    features = encoder.eval()(images)
    assert [level.shape[1] for level in features] == channels
    assert 64 // features[-1].shape[-1] == stride
    if stride == 32:
        torch.testing.assert_close(features[-1], whole.eval().forward_features(images))


def test_the_classifier_may_be_missing_in_the_file(whole, tmp_path):
    state = {key: value for key, value in whole.state_dict().items() if not key.startswith("fc.")}
    encoder = backbone(NAME, pretrained=write(state, tmp_path / "w.safetensors"))
    assert torch.equal(encoder.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)


def test_smp_takes_weights_from_a_file_too(tmp_path):
    torch.manual_seed(4)
    state = timm.create_model("resnet18").state_dict()
    model = Smp("fpn", 3, encoder="resnet18", pretrained=write(state, tmp_path / "w.safetensors"))
    assert torch.equal(model.network.encoder.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])


def test_a_vgg_of_torchvision_fits(tmp_path):
    torch.manual_seed(5)
    theirs = torchvision.models.vgg11(num_classes=2).eval()
    ours = backbone("vgg11", pretrained=write(theirs.state_dict(), tmp_path / "vgg.pth")).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        fc7 = ours.pre_logits(ours.features(images)).flatten(1)
        torch.testing.assert_close(theirs.classifier[6](fc7), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["resnet10t", "convnext_atto"])
def test_smp_takes_a_file_of_timms_for_an_encoder_of_timms(tmp_path, encoder):
    torch.manual_seed(6)
    theirs = timm.create_model(encoder).eval()
    model = Smp("fpn", 3, encoder=f"tu-{encoder}", pretrained=write(theirs.state_dict(), tmp_path / "w.safetensors"))
    images = torch.randn(1, 3, 64, 64)
    deepest = model.network.encoder.eval()(images)[-1]
    expected = timm.create_model(encoder, features_only=True, out_indices=(-1,)).eval()
    whole = theirs.state_dict()
    expected.load_state_dict(
        {key: whole[key.replace("stem_", "stem.").replace("stages_", "stages.")] for key in expected.state_dict()}
    )
    torch.testing.assert_close(deepest, expected(images)[0])


def test_an_encoder_that_was_trained_otherwise_sees_its_own_normalisation():
    """Xception of images in -1 to 1: of the same image, whose colours ImageNet's mean and deviation were taken from."""
    torch.manual_seed(7)
    encoder = backbone_features("xception41", pretrained=False)[0].eval()
    colours = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    seen = []
    encoder[1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    encoder((colours - mean) / std)
    torch.testing.assert_close(seen[0], 2 * colours - 1, rtol=1e-5, atol=1e-5)


def test_most_encoders_see_images_as_they_are():
    assert not isinstance(backbone_features(NAME, pretrained=False)[0], torch.nn.Sequential)


@pytest.mark.parametrize("make", [backbone_features, backbone])
def test_weights_of_another_encoder_are_refused_and_named(whole, tmp_path, make):
    path = write(timm.create_model("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(TrainingError, match=rf"{path} does not fit {NAME}: .* the first is conv1.0.weight"):
        make(NAME, pretrained=path)


def test_a_tensor_of_another_shape_is_refused(whole, tmp_path):
    state = whole.state_dict()
    state["layer3.0.conv2.weight"] = state["layer3.0.conv2.weight"][:7].contiguous()
    with pytest.raises(TrainingError, match=r"1 of \d+ tensors .* the first is layer3.0.conv2.weight"):
        backbone_features(NAME, pretrained=write(state, tmp_path / "cut.safetensors"))


def make_smp(name, *, pretrained):
    return Smp("fpn", 3, encoder=name, pretrained=pretrained)


def make_smp_of_timm(name, *, pretrained):
    return Smp("fpn", 3, encoder=f"tu-{name}", pretrained=pretrained)


@pytest.mark.parametrize("make", [backbone_features, backbone, make_smp, make_smp_of_timm])
def test_tensors_that_the_encoder_does_not_have_are_refused_and_a_few_named(tmp_path, make):
    state = timm.create_model("resnet18").state_dict()
    state |= {f"layer4.{index}.shortcut.weight": torch.zeros(2) for index in range(2, 9)}
    path = write(state, tmp_path / "more.safetensors")
    with pytest.raises(TrainingError) as caught:
        make("resnet18", pretrained=path)
    first = ", ".join(f"layer4.{index}.shortcut.weight" for index in (2, 3, 4))
    assert str(caught.value) == (
        f"pretrained: {path} does not fit resnet18: the encoder has no tensors {first} and 4 more; "
        "give the weights of this encoder"
    )


@pytest.mark.parametrize("head", ["fc.weight", "classifier.bias", "head.fc.weight", "last_linear.weight", "_fc.bias"])
def test_the_classifier_of_another_library_is_no_tensor_too_many(tmp_path, head):
    state = timm.create_model("resnet18", num_classes=0).state_dict() | {head: torch.zeros(3)}
    make_smp("resnet18", pretrained=write(state, tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["resnet18", "resnet101"])
def test_a_dilated_encoder_has_all_tensors_of_the_plain_one(name):
    with torch.device("meta"):
        plain, dilated = (
            backbone_features(name, pretrained=False, output_stride=stride)[0].state_dict() for stride in (32, 8)
        )
    assert {key: value.shape for key, value in dilated.items()} == {key: value.shape for key, value in plain.items()}


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [None, b"", b"not weights"])
def test_a_file_that_is_no_weights_is_told_in_one_line(tmp_path, file, content):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(TrainingError, match="cannot be read as weights") as caught:
        backbone_features(NAME, pretrained=str(tmp_path / file))
    assert "\n" not in str(caught.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(TrainingError, match="cannot be read as weights"):
        backbone_features(NAME, pretrained=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


def hub_of(content):
    """Return a handler that answers as the hub does, with one file at every address."""
    headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": "1" * 40}

    def answer(handler):
        if f"{NAME}." not in handler.path or "model.safetensors" not in handler.path:
            return 404, {}, b""
        return 200, headers, content

    return answer


FETCH = f"""
import torch
from segline.errors import TrainingError
from segline.models.encoders import backbone_features
for _ in range(2):
    encoder, _ = backbone_features({NAME!r}, pretrained=True)
print("sum", float(encoder.state_dict()["layer4.0.conv1.weight"].double().sum()))
try:
    backbone_features("resnet14t", pretrained=True)
except TrainingError as error:
    print("told:", error)
"""


def fetch(tmp_path, address):
    """Return the last two lines that a new process with an empty cache prints."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    env = keep | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", FETCH], capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-2:]


def test_weights_come_from_the_hub_once_or_are_told_to_be_missing(whole, tmp_path):
    file = tmp_path / "model.safetensors"
    write(whole.state_dict(), file)
    wanted = f"sum {float(whole.state_dict()['layer4.0.conv1.weight'].double().sum())}"
    with serving(hub_of(file.read_bytes())) as hub:
        found, told = fetch(tmp_path, hub.address)
        fetched = [path for command, path, _ in hub.asked if command == "GET" and "/resolve/" in path]
    assert found == wanted
    assert 0 < len(fetched) == len(set(fetched)), "the second time it lay in the cache"
    assert told.startswith("told: no pretrained weights for resnet14t")
    assert "go online once, give pretrained a file, set it to false, or to shipped with one of" in told
