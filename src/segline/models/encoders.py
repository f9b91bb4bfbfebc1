"""Encoders from timm: their pyramid of features, or the whole trunk, with the weights they start from."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import load_state_dict
from torch import Tensor, nn

from segline.errors import TrainingError

CLASSIFIERS = ("fc.", "classifier.", "head.")
TORCHVISION_VGG = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2."}
"""What torchvision calls the layers that timm's VGG has as convolutions, with the same weights in another shape."""


def backbone_features(name: str, *, pretrained: bool | str, output_stride: int = 32) -> tuple[nn.Module, list[int]]:
    """An encoder that returns a list of features, finest first, and their channels.

    Args:
        name: of a timm model.
        pretrained: see :data:`segline.config.fields.Pretrained`.
        output_stride: of the last features; below 32 the last stages are dilated instead of strided.

    Raises:
        TrainingError: the weights cannot be had, or are not this encoder's.
    """
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    encoder = _create(name, pretrained, features_only=True, **options)
    channels = encoder.feature_info.channels()
    norm = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return renormalising(encoder, norm.mean, norm.std), channels


def backbone(name: str, *, pretrained: bool | str) -> nn.Module:
    """A whole timm model without its last, classifying layer; raises as :func:`backbone_features` does."""
    return _create(name, pretrained, num_classes=0)


class Renormalise(nn.Module):
    """Images normalised as ImageNet's are, to the mean and deviation that an encoder was trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        usual_mean, usual_std, own_mean, own_std = map(
            torch.tensor, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, mean, std)
        )
        self.register_buffer("scale", (usual_std / own_std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((usual_mean - own_mean) / own_std).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in the encoder's normalisation."""
        return images * self.scale + self.shift


def renormalising(encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """The encoder for images that are normalised as ImageNet's: most were trained so, a few (Xception) were not."""
    usual = (*IMAGENET_DEFAULT_MEAN, *IMAGENET_DEFAULT_STD)
    return encoder if (*mean, *std) == usual else nn.Sequential(Renormalise(mean, std), encoder)


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
        mend = "go online once, give pretrained a file, or set it to false"
        raise TrainingError(f"no pretrained weights for {name} ({told(error)}); {mend}") from None


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
        wanted_kind = "expected a state dict in .safetensors or .pth"
        raise TrainingError(f"pretrained: {file} cannot be read as weights ({told(error)}); {wanted_kind}") from None
    found = _in_timms_names(found, wanted)
    names = [key for key in wanted if not key.startswith(CLASSIFIERS) and not key.endswith("num_batches_tracked")]
    unfit = [key for key in names if key not in found or found[key].shape != wanted[key].shape]
    if unfit:
        raise TrainingError(
            f"pretrained: {file} does not fit {name}: {len(unfit)} of {len(names)} tensors are missing or of another "
            f"shape, the first is {unfit[0]}"
        )
    return found


def _in_timms_names(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VGG of torchvision, its fully connected layers as the convolutions that they are in timm's."""
    renamed = {}
    for key, value in found.items():
        prefix = next((old for old in TORCHVISION_VGG if key.startswith(old)), "")
        name = TORCHVISION_VGG[prefix] + key.removeprefix(prefix) if prefix else key
        if prefix and name in wanted and value.numel() == wanted[name].numel():
            renamed[name] = value.reshape(wanted[name].shape)
        else:
            renamed[key] = value
    return renamed


def told(error: Exception) -> str:
    """An error of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
