"""A bundle as a model of MLflow, with the code that loads it.

The requirements of the model name public packages only. Segline is none, and whoever registered its name on an index
would run code wherever the model is loaded. So the model carries the code of Segline.
"""

import re
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import Schema, TensorSpec

from segline.artifacts.code import SOURCE
from segline.tracking.client import upload_timeout

PACKAGE = "segline"
NOT_CARRIED = ("cli.py", "platforms", "reporting", "stages", "tracking", "training", "losses")
"""What a prediction does not import."""
REQUIREMENTS = (
    "filelock",
    "jaxtyping",
    "numpy",
    "pandas",
    "pyarrow",
    "rich",
    "safetensors",
    "segmentation-models-pytorch",
    "timm",
    "torch",
)
"""The packages that a prediction imports; MLflow adds itself."""
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
)
"""The models take RGB images of any number and size, and return class ids of the same size."""


def log_model(run: str, bundle: Path) -> ModelInfo:
    """Upload a bundle and the code that loads it as the model of a run."""
    with (
        TemporaryDirectory(prefix="segline-code-") as folder,
        mlflow.start_run(run_id=run),
        warnings.catch_warnings(),
        upload_timeout(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # there is no input example, as the signature is given
        model: ModelInfo = mlflow.pyfunc.log_model(
            name="model",
            loader_module=f"{PACKAGE}.inference.pyfunc",
            data_path=str(bundle),
            code_paths=[str(copy_code(Path(folder)))],
            signature=SIGNATURE,
            pip_requirements=requirements(),
        )
    return model


def copy_code(folder: Path) -> Path:
    """Copy the part of Segline's code that a prediction imports into a folder, and return the copy."""
    package = SOURCE / PACKAGE

    def left_out(parent: str, names: list[str]) -> set[str]:
        return {name for name in names if name == "__pycache__" or (Path(parent) == package and name in NOT_CARRIED)}

    return Path(shutil.copytree(package, folder / PACKAGE, ignore=left_out))


def requirements() -> list[str]:
    """Return the packages with the versions that are installed here, as pip reads them; without local builds."""
    pins = []
    for name in REQUIREMENTS:
        try:
            pins.append(f"{name}=={re.sub('[+].*', '', version(name))}")
        except PackageNotFoundError:  # a build of another name, such as that of a GPU's vendor
            pins.append(name)
    return pins
