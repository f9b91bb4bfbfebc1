"""Encoders from timm: their features at several strides or the whole backbone, with their initial weights."""

import logging
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import load_state_dict
from torch import Tensor, nn

from segline.config.fields import SHIPPED_WORD, suggestion
from segline.errors import TrainingError
from segline.models.shipped import SHIPPED, shipped_weights

CLASSIFIER_PREFIXES = ("fc.", "_fc.", "classifier.", "head.", "head_dist.", "last_linear.", "linear.", "AuxLogits.")
"""The names of classifiers, which a file of a whole network has and an encoder has not, or the other way round."""
MAX_NAMED = 3
"""The most tensors that a message names."""
COUNTER = "num_batches_tracked"
OTHER_WAYS = (
    f"go online once, give pretrained a file, set it to false, or to {SHIPPED_WORD} with one of {', '.join(SHIPPED)}"
)
"""What helps where the hub gives no weights."""
TORCHVISION_VGG = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2."}
"""Torchvision's names of VGG layers that are convolutions in timm, with the same weights in another shape."""

# A network of features has no classifier, and tensors that nothing needs are refused here with their names.
logging.getLogger("timm.models._builder").addFilter(
    lambda record: not record.getMessage().startswith("Unexpected keys")
)


def backbone_features(name: str, *, pretrained: bool | str, output_stride: int = 32) -> tuple[nn.Module, list[int]]:
    """Return an encoder, which returns a list of features from fine to coarse, and the channels of these features.

    Args:
        name: The name of a timm model.
        pretrained: The source of the weights; see :data:`segline.config.fields.Pretrained`.
        output_stride: The stride of the last features; below 32 the last stages are dilated instead of strided.

    Raises:
        TrainingError: The weights are not available, or do not fit this encoder.
    """
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    encoder, pyramid = _create_pyramid(name, pretrained, **options)
    return encoder, [channels for channels, _ in pyramid]


def backbone_pyramid(name: str, *, pretrained: bool | str) -> tuple[nn.Module, list[tuple[int, int]]]:
    """Return an encoder as :func:`backbone_features` does, with the channels and the stride of each of its features.

    Raises:
        TrainingError: There is no such model, its features do not double their stride from one to the next, or its
            weights are not available.
    """
    if not timm.is_model(name):
        raise TrainingError(f"encoder: unknown model {name!r} of timm{suggestion(name, timm.list_models())}")
    try:
        encoder, pyramid = _create_pyramid(name, pretrained)
    except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:  # what timm raises without features
        raise TrainingError(f"encoder: {name} gives no features ({one_line(error)}); take another one") from None
    strides = [stride for _, stride in pyramid]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)) or strides[0] not in (1, 2, 4):
        raise TrainingError(
            f"encoder: {name} has features of the strides {strides}; expected that they double from 1, 2 or 4 on"
        )
    return encoder, pyramid


def _create_pyramid(name: str, pretrained: bool | str, **options: Any) -> tuple[nn.Module, list[tuple[int, int]]]:
    encoder = _create(name, pretrained, features_only=True, **options)
    info = encoder.feature_info
    return normalized(encoder, name), list(zip(info.channels(), info.reduction(), strict=True))


def backbone(name: str, *, pretrained: bool | str) -> nn.Module:
    """Return a whole timm model without its classifier; raises as :func:`backbone_features` does."""
    return _create(name, pretrained, num_classes=0)


class Renormalize(nn.Module):
    """A layer that maps images from ImageNet's normalisation to the one that an encoder was trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        imagenet_mean, imagenet_std, own_mean, own_std = map(
            torch.tensor, (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, mean, std)
        )
        self.register_buffer("scale", (imagenet_std / own_std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((imagenet_mean - own_mean) / own_std).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in the encoder's normalisation."""
        return images * self.scale + self.shift


def normalized(encoder: nn.Module, name: str) -> nn.Module:
    """Adapt a timm model to images in ImageNet's normalisation, with which a few (Xception) were not trained."""
    norm = timm.get_pretrained_cfg(name, allow_unregistered=False)
    imagenet = (*IMAGENET_DEFAULT_MEAN, *IMAGENET_DEFAULT_STD)
    if (*norm.mean, *norm.std) == imagenet:
        return encoder
    return nn.Sequential(Renormalize(norm.mean, norm.std), encoder)


def _create(name: str, pretrained: bool | str, **options: Any) -> Any:
    if pretrained is False:
        return timm.create_model(name, pretrained=False, **options)
    if isinstance(pretrained, str):
        with torch.device("meta"):
            expected = timm.create_model(name).state_dict()
        source = {"state_dict": _weights(pretrained, expected, name)}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the client of a hub that is unreachable or misbehaves raises any type
        raise TrainingError(f"no pretrained weights for {name} ({one_line(error)}); {OTHER_WAYS}") from None


def _weights(source: str, expected: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    if source != SHIPPED_WORD:
        return read_weights(source, expected, name)
    return _check_weights(shipped_weights(name, list(expected)), expected, name, "the shipped file")


def read_weights(file: str, expected: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Read the weights in a file and check that they hold all that an encoder needs.

    Args:
        file: The path of a state dict, .safetensors or .pth.
        expected: The encoder's own state dict; the layers of its classifier may be missing in the file.
        name: The encoder's name.

    Raises:
        TrainingError: The file cannot be read, lacks a tensor, or has one that the encoder does not have.
    """
    try:
        weights = load_state_dict(file, weights_only=True)
    except Exception as error:  # the readers raise any type for a file with unknown content
        hint = "expected a state dict in .safetensors or .pth"
        raise TrainingError(f"pretrained: {file} cannot be read as weights ({one_line(error)}); {hint}") from None
    return _check_weights(_to_timm_names(weights, expected), expected, name, file)


def _check_weights(
    weights: dict[str, Tensor], expected: Mapping[str, Tensor], name: str, file: str
) -> dict[str, Tensor]:
    """Return weights that were read from a file if they are all that an encoder needs; see :func:`read_weights`."""
    names = [key for key in expected if not key.startswith(CLASSIFIER_PREFIXES) and not key.endswith(COUNTER)]
    mismatched = [key for key in names if key not in weights or weights[key].shape != expected[key].shape]
    if mismatched:
        raise TrainingError(
            f"pretrained: {file} does not fit {name}: {len(mismatched)} of {len(names)} tensors are missing or of "
            f"another shape, the first is {mismatched[0]}"
        )
    _refuse_unknown(weights, expected, f"pretrained: {file} does not fit {name}")
    return weights


def _refuse_unknown(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], fault: str) -> None:
    """Raise an error for tensors that would be lost, but for those of a classifier and for counters."""
    unknown = [
        key for key in weights if key not in expected and not key.startswith(CLASSIFIER_PREFIXES) and COUNTER not in key
    ]
    if unknown:
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        named = ", ".join(unknown[:MAX_NAMED])
        raise TrainingError(f"{fault}: the encoder has no tensors {named}{more}; give the weights of this encoder")


def _to_timm_names(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the fully connected layers of torchvision's VGG and reshape them to timm's convolutions."""
    renamed = {}
    for key, value in weights.items():
        prefix = next((old for old in TORCHVISION_VGG if key.startswith(old)), "")
        name = TORCHVISION_VGG[prefix] + key.removeprefix(prefix) if prefix else key
        if prefix and name in expected and value.numel() == expected[name].numel():
            renamed[name] = value.reshape(expected[name].shape)
        else:
            renamed[key] = value
    return renamed


def one_line(error: Exception) -> str:
    """Return an error of another library as one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
