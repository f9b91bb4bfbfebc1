"""A bundle as an MLflow model: ``mlflow.pyfunc.load_model("models:/<name>@champion").predict(images)``."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import read_bundle
from segline.inference.bundle import load_models
from segline.inference.predict import predict_labels


class Segmenter:
    """A model that predicts class ids (n, h, w) for RGB images (n, h, w, 3), both uint8."""

    def __init__(self, folder: Path) -> None:
        self.models = load_models(folder, read_bundle(folder))

    def predict(self, images: NDArray[np.uint8], params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """Return the most probable class of every pixel."""
        return predict_labels(self.models, images)[0]


def _load_pyfunc(path: str) -> Segmenter:
    """Load a bundle; MLflow calls this function with its folder."""
    return Segmenter(Path(path))
