"""The bundle as MLflow loads it: ``mlflow.pyfunc.load_model("models:/<name>@champion").predict(images)``."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segline.artifacts.bundle import read_bundle
from segline.inference.bundle import load_models
from segline.inference.predict import probabilities


class Segmenter:
    """Predicts class ids: RGB images (n, h, w, 3), uint8, to (n, h, w), uint8."""

    def __init__(self, folder: Path) -> None:
        self.models = load_models(folder, read_bundle(folder))

    def predict(self, images: NDArray[np.uint8], params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """The most probable class of every pixel."""
        return probabilities(self.models, images).argmax(1).to("cpu").numpy().astype(np.uint8)


def _load_pyfunc(path: str) -> Segmenter:
    """What MLflow calls with the folder of the bundle."""
    return Segmenter(Path(path))
