"""A registered model is loaded where Segline is not installed, and asks an index for public packages only."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segline.artifacts.bundle import Bundle, Member, join_bundles, read_bundle
from segline.classes import LabelClass
from segline.inference.bundle import load_models
from segline.inference.predict import probabilities
from segline.models.unet import UNet
from segline.tracking.registry import register_model
from segline.tracking.runs import closing, start_run

LOAD = """
import json, sys
from pathlib import Path
sys.path = [place for place in sys.path if place and not (Path(place) / "segline").is_dir()]
try:
    import segline
    sys.exit("segline is installed elsewhere")
except ModuleNotFoundError:
    pass
import mlflow, numpy as np
pixels = np.load(sys.argv[2])
predicted = mlflow.pyfunc.load_model(sys.argv[1]).predict(pixels)
import segline
print(json.dumps([predicted.tolist(), segline.__file__]))
"""


@pytest.fixture
def bundle(tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    save_file(UNet(2, width=2, depth=1).state_dict(), part / "weights.safetensors")
    classes = (LabelClass("dark", (0, 0, 0)), LabelClass("bright", (255, 255, 255)))
    member = Member("unet", "unet", {"width": 2, "depth": 1}, "weights.safetensors")
    join_bundles(tmp_path / "bundle", [(part, Bundle(classes, 0, (member,)))])
    return tmp_path / "bundle"


@pytest.fixture
def folder(experiment, bundle):
    """The files of the registered model."""
    run = start_run(experiment, "key", "unet", {}, {})
    with closing(experiment, run):
        version = register_model(experiment, run, "key", bundle, {})
    return experiment.client.get_model_version_download_uri("streets", str(version.number)), bundle


def test_it_predicts_where_segline_is_not_installed(folder, tmp_path):
    uri, bundle = folder
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-W", "ignore", "-c", LOAD, uri, str(tmp_path / "pixels.npy")]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predicted, place = json.loads(done.stdout.splitlines()[-1])
    assert "/code/segline/" in place
    with torch.inference_mode():
        expected = probabilities(load_models(bundle, read_bundle(bundle)), pixels).argmax(1)
    assert np.array_equal(np.array(predicted), expected.cpu().numpy())


def test_its_requirements_are_public_and_pinned(folder):
    import mlflow

    uri, _ = folder
    path = mlflow.artifacts.download_artifacts(f"{uri}/requirements.txt")
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert not [line for line in lines if "segline" in line]
    pins = dict(line.split("==") for line in lines)
    assert {"mlflow", "numpy", "torch", "safetensors", "timm", "segmentation-models-pytorch"} <= set(pins)
    assert all(pins[name] == version(name).partition("+")[0] for name in pins)
