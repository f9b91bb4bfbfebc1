"""The models ``smp/...``: every architecture of segmentation_models_pytorch, with the encoders that it supports.

They differ from the library's own in that images may have any size, a training batch may hold a single image, encoder
weights may come from a file, timm's encoders get images in their own normalisation, and the gradient of average pooling
is deterministic on a GPU. The encoders are the library's list, and ``tu-<name>`` for an encoder of timm.
"""

from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor, nn

from segline.config.fields import SHIPPED_WORD, Pretrained, suggestion
from segline.config.model_options import smp_encoder
from segline.errors import TrainingError
from segline.models.blocks import BatchNorm, adaptive_avg_pool, pad_to_stride
from segline.models.encoders import OTHER_WAYS, backbone, backbone_features, normalized, one_line, read_weights
from segline.models.shipped import SHIPPED

STRIDES = {"pan": 64}
"""The multiples to which sides are padded, where not 32: PAN pools its smallest features three more times."""
EXTRA_OPTIONS = {"dpt": {"dynamic_img_size": True}}
"""Arguments of the library that an architecture needs to accept images of any size."""
TIMM_PREFIX = "tu-"


class Smp(nn.Module):
    """An architecture of segmentation_models_pytorch, from images (b, 3, h, w) to logits (b, classes, h, w).

    Raises:
        TrainingError: The library has no such encoder, the encoder does not fit the architecture, or its weights are
            not available.
    """

    def __init__(
        self,
        architecture: str,
        classes: int,
        *,
        encoder: Annotated[
            str,
            "an encoder of segmentation_models_pytorch, or tu-<name> for one of timm; empty for the default, resnet34 "
            "(dpt has its own)",
        ] = "",
        pretrained: Pretrained = False,
    ) -> None:
        super().__init__()
        name = smp_encoder(architecture, encoder)
        network = _create(architecture, name, classes, hub=pretrained is True)
        if isinstance(pretrained, str):
            _load_encoder(network.encoder, name, pretrained)
        _replace_layers(network)
        self.stride = STRIDES.get(architecture, 32)
        self.network = network
        if name.startswith(TIMM_PREFIX):
            self.network = normalized(network, name.removeprefix(TIMM_PREFIX))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of the input's size."""
        return pad_to_stride(self.network, images, self.stride)


def _create(architecture: str, encoder: str, classes: int, *, hub: bool) -> Any:
    import segmentation_models_pytorch as smp  # the import takes seconds, which only these models shall pay

    known = smp.encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith(TIMM_PREFIX):
        hint = suggestion(encoder, known)
        raise TrainingError(f"smp/{architecture}.encoder: unknown encoder {encoder!r}{hint}")
    weights = "imagenet" if hub else None
    extra = EXTRA_OPTIONS.get(architecture, {})
    try:
        return smp.create_model(architecture, encoder, encoder_weights=weights, classes=classes, **extra)
    except Exception as error:  # an unsupported combination or an unreachable hub raises any type
        hint = OTHER_WAYS if hub else "take another encoder"
        raise TrainingError(
            f"smp/{architecture} cannot be made with the encoder {encoder} ({one_line(error)}); {hint}"
        ) from None


def _load_encoder(encoder: nn.Module, name: str, file: str) -> None:
    """Load the weights of a file into an encoder; one of timm is its submodule ``model``, whole or as features."""
    if not name.startswith(TIMM_PREFIX):
        if file == SHIPPED_WORD:
            known = ", ".join(f"{TIMM_PREFIX}{shipped}" for shipped in SHIPPED)
            raise TrainingError(f"pretrained: no package ships weights for the encoder {name}, only for {known}")
        encoder.load_state_dict(read_weights(file, encoder.state_dict(), name), strict=False)
        return
    own, timm_name = encoder.get_submodule("model"), name.removeprefix(TIMM_PREFIX)
    for donor in (backbone(timm_name, pretrained=file), backbone_features(timm_name, pretrained=file)[0]):
        weights = {key.removeprefix("1."): value for key, value in donor.state_dict().items()}
        if own.state_dict().keys() <= weights.keys():
            own.load_state_dict(weights, strict=False)
            return
    raise TrainingError(f"pretrained: the weights of {timm_name} do not fit {name}; use pretrained: true")


def _replace_layers(network: nn.Module) -> None:
    """Replace the layers that fail for a single image or are not deterministic on a GPU."""
    layers = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()]
    for parent, name, child in layers:
        if type(child) is nn.BatchNorm2d:
            batch_norm = BatchNorm(child.num_features, child.eps, child.momentum)
            batch_norm.load_state_dict(child.state_dict())
            setattr(parent, name, batch_norm)
        elif isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int) and child.output_size > 1:
            setattr(parent, name, AdaptiveAvgPool(child.output_size))


class AdaptiveAvgPool(nn.Module):
    """Adaptive average pooling to a square grid."""

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c n n"]:
        """Return the averages of the grid's cells."""
        return adaptive_avg_pool(features, self.output_size)
