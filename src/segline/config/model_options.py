"""The options of an architecture with every default written out, without importing the architecture."""

from typing import Any

from segline.config import tables

SMP = "smp/"
DEFAULT_SMP_ENCODER = "resnet34"
SMP_ENCODERS = {"dpt": "tu-vit_base_patch16_224"}
"""The encoder of an architecture of segmentation_models_pytorch by default, where it is not ResNet-34."""


def smp_encoder(architecture: str, encoder: str) -> str:
    """Return the name of the encoder; an empty one stands for the default of the architecture."""
    return encoder or SMP_ENCODERS.get(architecture, DEFAULT_SMP_ENCODER)


def resolve(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return all options of an architecture, in which nothing is left to a default."""
    resolved = tables.defaults("models")[model] | options
    if model.startswith(SMP):
        resolved["encoder"] = smp_encoder(model.removeprefix(SMP), resolved["encoder"])
    return resolved
