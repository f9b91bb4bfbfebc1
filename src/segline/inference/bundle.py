"""The models of a bundle, ready to predict."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from segline.artifacts.bundle import Bundle, Member
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
        model = make_model(member, len(bundle.classes))
        try:
            model.load_state_dict(load_file(folder / member.weights))
        except (OSError, SafetensorError, RuntimeError):
            again = "run the stage that writes it again"
            raise StageError(f"{folder / member.weights} is missing, broken or of another model; {again}") from None
        models.append(model.eval().to(device).to(memory_format=torch.channels_last))
    return models


def make_model(member: Member, classes: int) -> nn.Module:
    """Return a member's network with weights that are still to be loaded; pretrained ones are not fetched again."""
    offline = {"pretrained": False} if "pretrained" in member.options else {}
    return MODELS[member.model](classes, **(member.options | offline))
