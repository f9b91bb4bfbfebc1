"""The names ``smp/...``: every architecture of segmentation_models_pytorch, with the encoders that it takes.

What differs from calling the library: images of any size, batches of one image in training, encoder weights from a
file as well, timm's encoders in their own normalisation, and average pooling whose gradient is deterministic on a GPU.
Encoders are those of its list, and ``tu-<name>`` for those of timm.
"""

from typing import Annotated, Any

import timm
from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import Pretrained, suggestion
from segline.errors import TrainingError
from segline.models.blocks import BatchNorm, adaptive_avg_pool, pad_to_stride
from segline.models.encoders import backbone, backbone_features, read_weights, renormalising, told

STRIDES = {"pan": 64}
"""What sides are padded to multiples of, where it is not 32: the smallest maps of PAN are pooled three times more."""
OPTIONS: dict[str, dict[str, Any]] = {"dpt": {"dynamic_img_size": True}}
ENCODERS = {"dpt": "tu-vit_base_patch16_224"}
"""The encoder that an architecture has if none is named, where it is not ResNet-34."""
OF_TIMM = "tu-"


class Smp(nn.Module):
    """An architecture of segmentation_models_pytorch: images (b, 3, h, w) to logits (b, classes, h, w).

    Raises:
        TrainingError: the library has no such encoder, the encoder does not fit the architecture, or its weights
            cannot be had.
    """

    def __init__(
        self,
        architecture: str,
        classes: int,
        *,
        encoder: Annotated[
            str, "of segmentation_models_pytorch, or tu-<name> for one of timm; empty for resnet34, or dpt's own"
        ] = "",
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        name = encoder or ENCODERS.get(architecture, "resnet34")
        network = _create(architecture, name, classes, hub=pretrained is True)
        if isinstance(pretrained, str):
            _load(network.encoder, name, pretrained)
        _replace(network)
        self.stride = STRIDES.get(architecture, 32)
        self.network = network
        if name.startswith(OF_TIMM):
            norm = timm.get_pretrained_cfg(name.removeprefix(OF_TIMM), allow_unregistered=False)
            self.network = renormalising(network, norm.mean, norm.std)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of the input's size."""
        return pad_to_stride(self.network, images, self.stride)


def _create(architecture: str, encoder: str, classes: int, *, hub: bool) -> Any:
    import segmentation_models_pytorch as smp  # takes seconds, which only who asks for it pays

    known = smp.encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith(OF_TIMM):
        near = suggestion(encoder, known)
        raise TrainingError(f"smp/{architecture}.encoder: unknown encoder {encoder!r}{near}")
    weights = "imagenet" if hub else None
    more = OPTIONS.get(architecture, {})
    try:
        return smp.create_model(architecture, encoder, encoder_weights=weights, classes=classes, **more)
    except Exception as error:  # a combination that does not fit, or a hub that is away, makes it raise anything
        mend = "go online once, give pretrained a file, or set it to false" if hub else "take another encoder"
        raise TrainingError(
            f"smp/{architecture} cannot be made with the encoder {encoder} ({told(error)}); {mend}"
        ) from None


def _load(encoder: nn.Module, name: str, file: str) -> None:
    """Put the weights of a file into an encoder; timm's own are in it as ``model``, whole or as a pyramid."""
    if not name.startswith(OF_TIMM):
        encoder.load_state_dict(read_weights(file, encoder.state_dict(), name), strict=False)
        return
    own, timms = encoder.get_submodule("model"), name.removeprefix(OF_TIMM)
    for donor in (backbone(timms, pretrained=file), backbone_features(timms, pretrained=file)[0]):
        weights = {key.removeprefix("1."): value for key, value in donor.state_dict().items()}
        if own.state_dict().keys() <= weights.keys():
            own.load_state_dict(weights, strict=False)
            return
    raise TrainingError(f"pretrained: the weights of {timms} cannot be put into {name}; use pretrained: true")


def _replace(network: nn.Module) -> None:
    """Put our own layers in the place of those that stop at one image, or are not deterministic on a GPU."""
    layers = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()]
    for parent, name, child in layers:
        if type(child) is nn.BatchNorm2d:
            normalisation = BatchNorm(child.num_features, child.eps, child.momentum)
            normalisation.load_state_dict(child.state_dict())
            setattr(parent, name, normalisation)
        elif isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int) and child.output_size > 1:
            setattr(parent, name, CellMeans(child.output_size))


class CellMeans(nn.Module):
    """Adaptive average pooling to a square grid."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c n n"]:
        """The averages of the cells."""
        return adaptive_avg_pool(features, self.cells)
