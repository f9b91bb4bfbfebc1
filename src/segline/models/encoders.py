"""Encoders from timm, as the pyramid of features that a decoder needs."""

import timm
from torch import nn

from segline.errors import TrainingError


def pyramid(name: str, *, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """An encoder that returns its features at strides 2, 4, 8, 16, 32, and their channels.

    Args:
        name: of a timm model.
        pretrained: load the weights that timm names for it, from its hub or the local cache.

    Raises:
        TrainingError: the weights cannot be had.
    """
    try:
        encoder = timm.create_model(name, pretrained=pretrained, features_only=True)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"no pretrained weights for {name} ({reason}); go online once, or set pretrained: false"
        ) from None
    return encoder, encoder.feature_info.channels()
