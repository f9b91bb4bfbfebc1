"""Encoders from timm: their pyramid of features, or the whole trunk, with the weights they start from."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from segline.errors import TrainingError

CLASSIFIERS = ("fc.", "classifier.", "head.")


def pyramid(name: str, *, pretrained: bool | str, output_stride: int = 32) -> tuple[nn.Module, list[int]]:
    """An encoder that returns a list of features, finest first, and their channels.

    Args:
        name: of a timm model.
        pretrained: see :data:`segline.fields.Pretrained`.
        output_stride: of the last features; below 32 the last stages are dilated instead of strided.

    Raises:
        TrainingError: the weights cannot be had, or are not this encoder's.
    """
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    encoder = _create(name, pretrained, features_only=True, **options)
    return encoder, encoder.feature_info.channels()


def trunk(name: str, *, pretrained: bool | str) -> nn.Module:
    """A whole timm model without its last, classifying layer; raises as :func:`pyramid` does."""
    return _create(name, pretrained, num_classes=0)


def _create(name: str, pretrained: bool | str, **options: Any) -> Any:
    if pretrained is False:
        return timm.create_model(name, pretrained=False, **options)
    if isinstance(pretrained, str):
        with torch.device("meta"):
            whole = timm.create_model(name).state_dict()
        source = {"state_dict": read_weights(pretrained, whole, name)}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # a hub that is away or answers oddly makes its client raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"no pretrained weights for {name} ({reason}); go online once, give pretrained a file, or set it to false"
        ) from None


def read_weights(file: str, wanted: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights in a file, once they are known to be all that an encoder needs.

    Args:
        file: a state dict, .safetensors or .pth.
        wanted: the encoder's own state dict; what only classifies need not be in the file.
        name: of the encoder.

    Raises:
        TrainingError: the file cannot be read, or lacks something.
    """
    try:
        found = load_state_dict(file, weights_only=True)
    except Exception as error:  # a file of any content makes the readers raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"pretrained: {file} cannot be read as weights ({reason}); expected a state dict in .safetensors or .pth"
        ) from None
    names = [key for key in wanted if not key.startswith(CLASSIFIERS) and not key.endswith("num_batches_tracked")]
    unfit = [key for key in names if key not in found or found[key].shape != wanted[key].shape]
    if unfit:
        raise TrainingError(
            f"pretrained: {file} does not fit {name}: {len(unfit)} of {len(names)} tensors are missing or of another "
            f"shape, the first is {unfit[0]}"
        )
    return found
