"""The bundle as MLflow loads it, through MLflow itself."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segline.artifacts.bundle import Bundle, Member, join_bundles, read_bundle
from segline.classes import LabelClass
from segline.inference.bundle import load_models
from segline.inference.predict import probabilities
from segline.models.unet import UNet


@pytest.fixture
def folder(tmp_path):
    classes = tuple(LabelClass(name, (0, 0, 0)) for name in ("road", "car", "person"))
    parts = []
    for width in (2, 3):
        torch.manual_seed(width)
        place = tmp_path / str(width)
        place.mkdir()
        save_file(UNet(3, width=width, depth=1).state_dict(), place / "weights.safetensors")
        member = Member(f"unet{width}", "unet", {"width": width, "depth": 1}, "weights.safetensors")
        parts.append((place, Bundle(classes, None, (member,))))
    join_bundles(tmp_path / "model", parts)
    return tmp_path / "model"


@pytest.mark.filterwarnings("ignore:.*(type hint is inferred as AnyType|input example was not provided):UserWarning")
@pytest.mark.parametrize(("images", "height", "width"), [(3, 20, 28), (1, 13, 9)])
def test_mlflow_predicts_what_the_members_predict(folder, tmp_path, images, height, width):
    from mlflow import pyfunc

    from segline.tracking.model import SIGNATURE

    pixels = np.random.default_rng(0).integers(0, 256, (images, height, width, 3), dtype=np.uint8)
    pyfunc.save_model(
        tmp_path / "mlflow",
        loader_module="segline.inference.pyfunc",
        data_path=str(folder),
        signature=SIGNATURE,
        pip_requirements=["segline"],
    )
    actual = pyfunc.load_model(str(tmp_path / "mlflow")).predict(pixels)
    expected = probabilities(load_models(folder, read_bundle(folder)), pixels).argmax(1)
    assert actual.dtype == np.uint8
    assert actual.shape == (images, height, width)
    assert np.array_equal(actual, expected.cpu().numpy())
