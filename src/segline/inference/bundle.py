"""The models of a bundle, ready to predict."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from segline.artifacts.bundle import Bundle
from segline.errors import StageError
from segline.models import MODELS


def load_models(folder: Path, bundle: Bundle) -> list[nn.Module]:
    """The members' models with their weights, ready to predict, on the GPU where there is one.

    Raises:
        StageError: weights are missing, broken or of another model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = []
    for member in bundle.members:
        model = MODELS[member.model](len(bundle.classes), **_offline(member.options))
        try:
            model.load_state_dict(load_file(folder / member.weights))
        except (OSError, SafetensorError, RuntimeError):
            again = "run the stage that writes it again"
            raise StageError(f"{folder / member.weights} is missing, broken or of another model; {again}") from None
        models.append(model.eval().to(device).to(memory_format=torch.channels_last))
    return models


def _offline(options: dict[str, Any]) -> dict[str, Any]:
    """The weights come from the bundle, so that pretrained ones need not be fetched again."""
    return {key: False if key == "pretrained" else value for key, value in options.items()}
